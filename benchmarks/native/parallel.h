// What the kernels of this directory share: vectors, and work divided among XLA's own threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes)));

inline Vector load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Vector value) { std::memcpy(to, &value, sizeof value); }

// Calls work(0), ..., work(items - 1) on XLA's own threads and this one. This one never waits for
// work that nobody has begun, so that calls within each other's threads can't lock each other out.
template <typename Work>
void parallel(ffi::ThreadPool& pool, int64_t items, Work work) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto shared = std::make_shared<Shared>();
  auto run = [shared, items, work] {
    for (int64_t item; (item = shared->next.fetch_add(1)) < items;) {
      work(item);
      shared->done.fetch_add(1, std::memory_order_release);
    }
  };
  int64_t helpers = std::min<int64_t>(pool.num_threads(), items) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([run] { run(); });
  run();
  while (shared->done.load(std::memory_order_acquire) < items) std::this_thread::yield();
}

struct Shape {
  int64_t images, rows, columns, channels;
  explicit Shape(ffi::Span<const int64_t> d)
      : images(d[0]), rows(d[1]), columns(d[2]), channels(d[3]) {}
  int64_t row() const { return columns * channels; }
  int64_t image() const { return rows * row(); }
};
