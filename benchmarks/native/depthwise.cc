// Depthwise convolutions of [N, H, W, C] in float32 and their gradients, for XLA on CPUs.
//
// The vectors lie along channels. A tile of neighbouring pixels is summed up in registers: for each
// row of the kernel its elements are loaded once for the tile, and each of the input's pixels once
// for all the elements that see it. That is what XLA's loops can't do, which have one result each.

#include "parallel.h"

// A row of pixels that sums read, and the kernel's first element for it.
struct Row {
  const float *pixels, *elements;
};

// How sums move along rows: the first one reads the pixels `first`, `first + 1`, ..., and those
// outside are zero; `next` is how far the kernel's elements are from each other.
struct Line {
  int64_t first, width, channels, next;
};

// The pixels of a row one after the other.
template <bool kInside>
struct Pixels {
  const float* at;
  int64_t column, width, channels;
  Vector next() {
    alignas(64) static const float zeros[kLanes] = {};
    Vector value = load(kInside || uint64_t(column) < uint64_t(width) ? at : zeros);
    at += channels;
    if (!kInside) ++column;
    asm("" : "+r"(at));  // one register that moves on, instead of one for each pixel
    return value;
  }
};

template <int kPixels, int kElements, int kStride, bool kInside>
inline void add_row(Vector (&sums)[kPixels], const float* elements, int64_t next,
                    Pixels<kInside> pixels) {
  Vector some[kElements];
#pragma GCC unroll 8
  for (int k = 0; k < kElements; ++k) some[k] = load(elements + k * next);
#pragma GCC unroll 32
  for (int p = 0; p < (kPixels - 1) * kStride + kElements; ++p) {
    Vector pixel = pixels.next();
#pragma GCC unroll 8
    for (int k = 0; k < kElements; ++k)
      if (p >= k && (p - k) % kStride == 0 && (p - k) / kStride < kPixels)
        sums[(p - k) / kStride] += pixel * some[k];
  }
}

// kPixels sums, `step` apart in memory, for the vector of channels at c; the first reads `from`.
template <int kPixels, int kElements, int kStride, bool kInside>
inline void sum_tile(float* out, int64_t step, const Row* rows, int count, const Line& line,
                     int64_t from, int64_t c) {
  Vector sums[kPixels] = {};
  for (int r = 0; r < count; ++r)
    add_row<kPixels, kElements, kStride, kInside>(
        sums, rows[r].elements + c, line.next,
        {rows[r].pixels + from * line.channels + c, from, line.width, line.channels});
#pragma GCC unroll 8
  for (int t = 0; t < kPixels; ++t) store(out + t * step + c, sums[t]);
}

template <typename Body>
inline void each_vector(int64_t channels, Body body) {
  for (int64_t c = 0; c < channels; c += kLanes) body(std::min(c, channels - kLanes));
}

template <int kPixels, int kElements, int kStride>
void sum_tiles(float* out, int64_t step, int64_t sums, const Row* rows, int count, Line line) {
  for (int64_t t = 0; t < sums; t += kPixels) {
    int64_t begin = std::min(t, sums - kPixels);  // the last one begins earlier
    int64_t from = line.first + begin * kStride;
    float* to = out + begin * step;
    if (from >= 0 && from + (kPixels - 1) * kStride + kElements <= line.width)
      each_vector(line.channels, [&](int64_t c) {
        sum_tile<kPixels, kElements, kStride, true>(to, step, rows, count, line, from, c);
      });
    else
      each_vector(line.channels, [&](int64_t c) {
        sum_tile<kPixels, kElements, kStride, false>(to, step, rows, count, line, from, c);
      });
  }
}

// A row of sums. With 8 of them, 7 elements and one pixel a tile fills the registers of AVX2.
template <int kElements, int kStride>
void sum_row(float* out, int64_t step, int64_t sums, const Row* rows, int count, Line line) {
  if (sums >= 8 && (sums % 8 == 0 || sums % 7 != 0))
    sum_tiles<8, kElements, kStride>(out, step, sums, rows, count, line);
  else if (sums >= 7)
    sum_tiles<7, kElements, kStride>(out, step, sums, rows, count, line);
  else if (sums >= 4)
    sum_tiles<4, kElements, kStride>(out, step, sums, rows, count, line);
  else
    sum_tiles<1, kElements, kStride>(out, step, sums, rows, count, line);
}

// Calls body(image, row) for all rows of a shape, some in a row on one thread.
template <typename Body>
void each_band(ffi::ThreadPool& pool, const Shape& shape, Body body) {
  constexpr int64_t kRows = 7;
  int64_t bands = (shape.rows + kRows - 1) / kRows, rows = shape.rows;
  parallel(pool, shape.images * bands, [=](int64_t item) {
    int64_t begin = item % bands * kRows, end = std::min(begin + kRows, rows);
    for (int64_t r = begin; r < end; ++r) body(item / bands, r);
  });
}

template <int K, int S>
void forward(ffi::ThreadPool& pool, Array x, Array kernel, Result y, int64_t top, int64_t left) {
  Shape in(x.dimensions()), out(y->dimensions());
  const float *source = x.typed_data(), *elements = kernel.typed_data();
  float* target = y->typed_data();
  each_band(pool, out, [=](int64_t n, int64_t r) {
    Row rows[K];
    int count = 0;
    for (int64_t i = 0; i < K; ++i) {
      int64_t row = r * S + i - top;
      if (row >= 0 && row < in.rows)
        rows[count++] = {source + n * in.image() + row * in.row(), elements + i * K * in.channels};
    }
    sum_row<K, S>(target + n * out.image() + r * out.row(), out.channels, out.columns, rows, count,
                  {-left, in.columns, in.channels, in.channels});
  });
}

// The gradient for every S-th pixel of a row, of which the kernel's elements from kPhase on see one
// after the other; the last of them comes first.
template <int K, int S, int kPhase>
void gradient_row(float* out, const Shape& in, const Shape& gradient, int64_t column, Row* rows,
                  int count, int64_t left) {
  constexpr int kElements = (K - kPhase + S - 1) / S;
  constexpr int64_t kLast = kPhase + (kElements - 1) * S;
  Row last[K];
  for (int r = 0; r < count; ++r)
    last[r] = {rows[r].pixels, rows[r].elements + kLast * in.channels};
  Line line{(column + left - kLast) / S, gradient.columns, in.channels, -S * in.channels};
  sum_row<kElements, 1>(out + column * in.channels, S * in.channels,
                        (in.columns - column + S - 1) / S, last, count, line);
}

template <int K, int S>
void to_input(ffi::ThreadPool& pool, Array gradient, Array kernel, Result dx, int64_t top,
              int64_t left) {
  Shape in(dx->dimensions()), out(gradient.dimensions());
  const float *source = gradient.typed_data(), *elements = kernel.typed_data();
  float* target = dx->typed_data();
  each_band(pool, in, [=](int64_t n, int64_t r) {
    Row rows[K];
    int count = 0;
    for (int64_t i = (r + top) % S; i < K; i += S) {
      int64_t row = (r + top - i) / S;
      if (r + top >= i && row < out.rows)
        rows[count++] = {source + n * out.image() + row * out.row(),
                         elements + i * K * in.channels};
    }
    float* to = target + n * in.image() + r * in.row();
    for (int64_t column = 0; column < std::min<int64_t>(S, in.columns); ++column) {
      if ((column + left) % S == 0)
        gradient_row<K, S, 0>(to, in, out, column, rows, count, left);
      else
        gradient_row<K, S, S - 1>(to, in, out, column, rows, count, left);
    }
  });
}

// Adds to the sums of a kernel's row what a tile of the gradient gives, from `fresh` of it on.
template <int K, int S, int kPixels, bool kInside>
inline void add_tile(Vector (&sums)[K], const float* gradient, int64_t channels, int64_t fresh,
                     Pixels<kInside> pixels) {
  Vector some[kPixels];
#pragma GCC unroll 8
  for (int g = 0; g < kPixels; ++g) some[g] = load(gradient + g * channels);
  if (fresh > 0) {
#pragma GCC unroll 8
    for (int g = 0; g < kPixels; ++g)
      if (g < fresh) some[g] = Vector{};
  }
#pragma GCC unroll 32
  for (int p = 0; p < (kPixels - 1) * S + K; ++p) {
    Vector pixel = pixels.next();
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k)
      if (p >= k && (p - k) % S == 0 && (p - k) / S < kPixels)
        sums[k] += pixel * some[(p - k) / S];
  }
}

// The same for a row of it; its last tile begins earlier.
template <int K, int S, int kPixels>
inline void add_tiles(Vector* result, const float* gradient, int64_t columns, const float* pixels,
                      int64_t width, int64_t channels, int64_t left) {
  Vector sums[K];
  std::copy_n(result, K, sums);
  for (int64_t t = 0; t < columns; t += kPixels) {
    int64_t begin = std::min(t, columns - kPixels), first = begin * S - left;
    const float *errors = gradient + begin * channels, *from = pixels + first * channels;
    if (first >= 0 && first + (kPixels - 1) * S + K <= width)
      add_tile<K, S, kPixels, true>(sums, errors, channels, t - begin,
                                    {from, first, width, channels});
    else
      add_tile<K, S, kPixels, false>(sums, errors, channels, t - begin,
                                     {from, first, width, channels});
  }
  std::copy_n(sums, K, result);
}

template <int K, int S>
void to_kernel(ffi::ThreadPool& pool, Array x, Array gradient, Result dk, int64_t top,
               int64_t left) {
  Shape in(x.dimensions()), out(gradient.dimensions());
  const float *source = x.typed_data(), *errors = gradient.typed_data();
  float* target = dk->typed_data();
  // Some images at a time, as many as the shapes say: the numbers do not depend on threads.
  int64_t vectors = in.channels / kLanes, size = K * K * in.channels;
  int64_t some = std::max<int64_t>(1, in.images * vectors / 32);
  int64_t groups = (in.images + some - 1) / some;
  std::unique_ptr<float[]> parts(new float[groups * size]);
  float* part = parts.get();
  auto one = [=](int64_t group, int64_t c) {
    Vector sums[K * K] = {};
    int64_t last = std::min((group + 1) * some, in.images);
    for (int64_t n = group * some; n < last; ++n) {
      for (int64_t r = 0; r < out.rows; ++r) {
        const float* error = errors + n * out.image() + r * out.row() + c;
        for (int64_t i = 0; i < K; ++i) {
          int64_t row = r * S + i - top;
          if (row < 0 || row >= in.rows) continue;
          const float* pixels = source + n * in.image() + row * in.row() + c;
          auto add = [&](auto tile) {
            add_tiles<K, S, decltype(tile)::value>(sums + i * K, error, out.columns, pixels,
                                                   in.columns, in.channels, left);
          };
          if (out.columns >= 7) add(std::integral_constant<int, 7>());
          else if (out.columns >= 4) add(std::integral_constant<int, 4>());
          else add(std::integral_constant<int, 1>());
        }
      }
    }
    for (int64_t k = 0; k < K * K; ++k) store(part + group * size + k * in.channels + c, sums[k]);
  };
  parallel(pool, groups * vectors, [=](int64_t item) {
    int64_t group = item / vectors, c = item % vectors * kLanes;
    one(group, c);
    bool ends = c + 2 * kLanes > in.channels;
    if (ends && c + kLanes < in.channels) one(group, in.channels - kLanes);
  });
  std::copy_n(part, size, target);
  for (int64_t group = 1; group < groups; ++group)
    for (int64_t k = 0; k < size; ++k) target[k] += part[group * size + k];
}

// Calls run with a kernel's size and its stride, as types.
template <typename Run>
ffi::Error with_constants(int64_t channels, int64_t size, int64_t stride, Run run) {
  auto strided = [&](auto k) {
    if (stride == 1) run(k, std::integral_constant<int, 1>());
    else run(k, std::integral_constant<int, 2>());
    return ffi::Error::Success();
  };
  if (channels >= kLanes && (stride == 1 || stride == 2)) {
    if (size == 3) return strided(std::integral_constant<int, 3>());
    if (size == 5) return strided(std::integral_constant<int, 5>());
    if (size == 7) return strided(std::integral_constant<int, 7>());
  }
  return ffi::Error::InvalidArgument("only kernels of 3, 5 and 7, strides of 1 and 2");
}

#define DIRECTION(name, function)                                                          \
  static ffi::Error call_##function(ffi::ThreadPool pool, Array a, Array b, Result result, \
                                    int64_t size, int64_t stride, int64_t top,             \
                                    int64_t left) {                                        \
    return with_constants(a.dimensions()[3], size, stride, [&](auto k, auto s) {           \
      function<decltype(k)::value, decltype(s)::value>(pool, a, b, result, top, left);     \
    });                                                                                    \
  }                                                                                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, call_##function,                                     \
                                ffi::Ffi::Bind()                                           \
                                    .Ctx<ffi::ThreadPool>()                                \
                                    .Arg<Array>()                                          \
                                    .Arg<Array>()                                          \
                                    .Ret<Array>()                                          \
                                    .Attr<int64_t>("size")                                 \
                                    .Attr<int64_t>("stride")                               \
                                    .Attr<int64_t>("top")                                  \
                                    .Attr<int64_t>("left"))

DIRECTION(depthwise_forward, forward);
DIRECTION(depthwise_to_input, to_input);
DIRECTION(depthwise_to_kernel, to_kernel);
