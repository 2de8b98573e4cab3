// The spline at a chunk of up to kChunk pixels of one row, on the CPU.
#pragma once
#include "core/pack.h"
#include "tps/spline_args.h"

namespace guise {

template <class T>
struct SplineChunk {
  const SplineArgs<T>& a;
  const Plane<T> plane;
  int64_t top = 0, left = 0;
  int n = 0;
  std::vector<T> basis;  // [K + 3, kChunk]
  alignas(64) T x[kChunk] = {}, y[kChunk] = {};

  explicit SplineChunk(const SplineArgs<T>& a)
      : a(a), plane(a.h, a.w, a.padding), basis((a.k + 3) * kChunk) {}

  // Evaluates the functions of nodes m at the pixels, for all images that share m.
  void move(int64_t m, int64_t row, int64_t column) {
    top = row, left = column, n = int(std::min<int64_t>(kChunk, a.w - column));
    const T v = a.down(m, T(row));
    alignas(64) T u[kChunk];
    for (int i = 0; i < kChunk; ++i) u[i] = a.across(m, T(column + i));
    for (int64_t j = 0; j < a.k; ++j) {
      const T node = a.nodes[2 * (m * a.k + j)], dy = v - a.nodes[2 * (m * a.k + j) + 1];
      T* out = basis.data() + j * kChunk;
#pragma omp simd
      for (int i = 0; i < kChunk; ++i) {
        const T dx = u[i] - node;
        out[i] = radial(dx * dx + dy * dy);
      }
    }
    T* affine = basis.data() + a.k * kChunk;
    for (int i = 0; i < kChunk; ++i) {
      affine[i] = 1, affine[kChunk + i] = u[i], affine[2 * kChunk + i] = v;
    }
  }

  // The positions that the pixels of one image read.
  void place(int64_t image, Footprints<T>& taps) {
    typedef T Block __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
    constexpr int kBlock = 64 / sizeof(T), kBlocks = kChunk / kBlock;
    static_assert(kBlocks % 4 == 0);
    const T* c = a.coefficients + image * (a.k + 3) * 2;
    for (int i = 0; i < kBlocks; i += 4) {  // eight independent sums hide the latency of each
      Block dx[4] = {}, dy[4] = {};
      for (int64_t j = 0; j < a.k + 3; ++j) {
        const Block* b = reinterpret_cast<const Block*>(basis.data() + j * kChunk) + i;
        const T across = c[2 * j], down = c[2 * j + 1];
        for (int l = 0; l < 4; ++l) dx[l] += b[l] * across, dy[l] += b[l] * down;
      }
      for (int l = 0; l < 4; ++l) {
        reinterpret_cast<Block*>(x)[i + l] = dx[l];
        reinterpret_cast<Block*>(y)[i + l] = dy[l];
      }
    }
    for (int i = 0; i < kChunk; ++i) x[i] += T(left + i), y[i] += T(top);
    taps.set(plane, x, y, n);
  }
};

}  // namespace guise
