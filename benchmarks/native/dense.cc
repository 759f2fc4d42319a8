// A 3 x 3 convolution of [N, H, W, C] in float32, stride 1, as a loop without a library: what one
// written for its shapes reaches. The sums of a tile of pixels, times some vectors of features,
// stay in registers; each step multiplies a number of each pixel by the vectors of one channel.

#include "parallel.h"

constexpr int kSide = 3;

// For all features from `begin` on of a row's tile; `pixels` has zeros around the image.
template <int kPixels, int kVectors, int kChannels>
inline void tile(const float* pixels, int64_t width, const float* elements, float* out,
                 int64_t features) {
  Vector sums[kPixels][kVectors] = {};
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) {
      const float* from = pixels + (i * width + j) * kChannels;
      for (int c = 0; c < kChannels; ++c, elements += kVectors * kLanes) {
        Vector some[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) some[v] = load(elements + v * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sums[p][v] += from[p * kChannels + c] * some[v];
        }
      }
    }
  }
  for (int p = 0; p < kPixels; ++p)
    for (int v = 0; v < kVectors; ++v) store(out + p * features + v * kLanes, sums[p][v]);
}

template <int kPixels, int kVectors, int kChannels>
void convolve(ffi::ThreadPool& pool, Array x, Array kernel, Result y) {
  Shape in(x.dimensions()), out(y->dimensions());
  constexpr int kBlock = kVectors * kLanes;
  const float *source = x.typed_data(), *weights = kernel.typed_data();
  float* target = y->typed_data();
  int64_t blocks = out.channels / kBlock, width = in.columns + kSide - 1;
  int64_t padded_image = (in.rows + kSide - 1) * width * kChannels;
  int64_t depth = kSide * kSide * kChannels;
  // The images with zeros around them, and the kernel by blocks of features.
  // Kept between calls, as the arrays between a network's operations are.
  static thread_local std::vector<float> padded, packed;
  padded.resize(in.images * padded_image);
  packed.resize(depth * out.channels);
  float *images = padded.data(), *elements = packed.data();
  parallel(pool, in.images, [=](int64_t n) {
    float* to = images + n * padded_image;
    std::fill(to, to + width * kChannels, 0.0f);
    for (int64_t r = 0; r < in.rows; ++r) {
      to += width * kChannels;
      std::fill(to, to + kChannels, 0.0f);
      const float* row = source + n * in.image() + r * in.row();
      std::copy(row, row + in.row(), to + kChannels);
      std::fill(to + kChannels + in.row(), to + width * kChannels, 0.0f);
    }
    std::fill(to + width * kChannels, to + 2 * width * kChannels, 0.0f);
  });
  parallel(pool, blocks, [=](int64_t block) {
    for (int64_t d = 0; d < depth; ++d)
      std::copy_n(weights + d * out.channels + block * kBlock, kBlock,
                  elements + (block * depth + d) * kBlock);
  });
  // Neighbouring items have one block of features, whose elements stay in the second cache.
  parallel(pool, blocks * in.images, [=](int64_t item) {
    int64_t block = item / in.images, n = item % in.images;
    for (int64_t r = 0; r < out.rows; ++r)
      for (int64_t t = 0; t < out.columns; t += kPixels)
        tile<kPixels, kVectors, kChannels>(
            images + n * padded_image + (r * width + t) * kChannels, width,
            elements + block * depth * kBlock,
            target + n * out.image() + r * out.row() + t * out.channels + block * kBlock,
            out.channels);
  });
}

static ffi::Error call(ffi::ThreadPool pool, Array x, Array kernel, Result y) {
  Shape in(x.dimensions()), out(y->dimensions());
  // The registers of AVX-512 hold 28 sums, those of AVX2 12.
  constexpr int kPixels = kLanes == 16 ? 14 : 7;
  auto with_channels = [&](auto c) {
    constexpr int kChannels = decltype(c)::value;
    if (out.columns % kPixels == 0)
      convolve<kPixels, kLanes == 16 ? 2 : 1, kChannels>(pool, x, kernel, y);
    else
      convolve<7, kLanes == 16 ? 4 : 1, kChannels>(pool, x, kernel, y);
    return ffi::Error::Success();
  };
  if (out.columns % 7 == 0 && out.channels % 64 == 0) {
    if (in.channels == 64) return with_channels(std::integral_constant<int, 64>());
    if (in.channels == 128) return with_channels(std::integral_constant<int, 128>());
    if (in.channels == 256) return with_channels(std::integral_constant<int, 256>());
    if (in.channels == 512) return with_channels(std::integral_constant<int, 512>());
  }
  return ffi::Error::InvalidArgument("only the shapes of ResNets");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    dense_forward, call,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Array>().Arg<Array>().Ret<Array>());
