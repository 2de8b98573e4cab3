// A chunk of up to kChunk pixels of one row of a picture, on the CPU.
#pragma once
#include "pack.h"
#include "uv_args.h"

namespace guise {

template <class S, class T = compute_t<S>>
struct Chunk {
  const UvArgs<S, T>& a;
  const Plane<T> plane;
  alignas(64) T x[kChunk], y[kChunk], mask[kChunk];
  alignas(64) Rows<T> values;
  Footprints<T> taps;

  explicit Chunk(const UvArgs<S, T>& a) : a(a), plane(a.high, a.wide, a.padding) {}

  // Where `n` pixels from column `left` of row `top` of picture i read, and how much of them shows.
  void place(int64_t i, int64_t top, int64_t left, int n) {
    const S* dx = a.delta + (2 * i * a.h + top) * a.w + left;
    const S* dy = dx + a.h * a.w;
#pragma omp simd
    for (int k = 0; k < n; ++k) {
      x[k] = a.x.at(T(left + k), T(dx[k]));
      y[k] = a.y.at(T(top), T(dy[k]));
    }
    taps.set(plane, x, y, n);
    const S* m = a.mask + (i * a.h + top) * a.w + left;
    if (a.mask)
      for (int k = 0; k < n; ++k) mask[k] = T(m[k]);
  }
};

}  // namespace guise
