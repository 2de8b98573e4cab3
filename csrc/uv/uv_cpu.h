// A chunk of up to kChunk pixels of one row of an image, on the CPU.
#pragma once
#include "core/pack.h"
#include "uv/uv_args.h"

namespace guise {

// Contiguous, and of a type that the CPU kernels take.
inline MaybeTensor computed(const MaybeTensor& t) {
  return t ? MaybeTensor(torch::stable::contiguous(computed(*t))) : t;
}

template <class T>
struct Chunk {
  const UvArgs<T, T>& a;
  const Plane<T> plane;
  alignas(64) T x[kChunk], y[kChunk], mask[kChunk];
  alignas(64) Rows<T> values;
  Footprints<T> taps;

  explicit Chunk(const UvArgs<T, T>& a) : a(a), plane(a.high, a.wide, a.padding) {}

  // Positions that `n` pixels from column `left` of row `top` of image i read, and their mask.
  void place(int64_t i, int64_t top, int64_t left, int n) {
    const T* dx = a.delta + (2 * i * a.h + top) * a.w + left;
    const T* dy = dx + a.h * a.w;
#pragma omp simd
    for (int k = 0; k < n; ++k) {
      x[k] = a.x.at(T(left + k), dx[k]);
      y[k] = a.y.at(T(top), dy[k]);
    }
    taps.set(plane, x, y, n);
    if (a.mask) std::copy_n(a.mask + (i * a.h + top) * a.w + left, n, mask);
  }
};

}  // namespace guise
