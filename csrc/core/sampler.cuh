// Reads and atomic adds of CUDA kernels at pixel positions (sampler.h).
#pragma once
#include "core/image.h"
#include "core/launch.cuh"

namespace guise {

// The pixels of one thread of a warp. More than 4 would cost registers, and so warps that hide the
// latency of the taps; 4 neighbours of 16 bits are 8 bytes, and 256 in a store of a warp's threads.
template <class S>
constexpr int kPixels = kWide<S> < 4 ? kWide<S> : 4;

// The taps of one position: their offsets, and whether they lie in the image.
template <class T>
struct Taps {
  int32_t x, y;
  T u, v;           // weights of the second column and row
  bool l, r, t, b;  // left, right, top, bottom tap is in the image
  T slope_x, slope_y;

  Taps() = default;
  __device__ Taps(T px, T py, int64_t h, int64_t w, int64_t padding) {
    const Span<T> sx = span_of<T>(w, padding), sy = span_of<T>(h, padding);
    const Tap<T> a = tap_at(px, sx), c = tap_at(py, sy);
    x = a.i, y = c.i, u = a.w, v = c.w;
    l = x >= 0 && x < w, r = x + 1 >= 0 && x + 1 < w;
    t = y >= 0 && y < h, b = y + 1 >= 0 && y + 1 < h;
    slope_x = slope_at(px, sx), slope_y = slope_at(py, sy);
  }

  // With border padding a tap past the last pixel has weight 0, so 0 may be read there.
  template <class S>
  __device__ void values(const S* p, int64_t sy, int64_t sx, T (&q)[4]) const {
    p += y * sy + x * sx;
    q[0] = t && l ? T(p[0]) : T(0);
    q[1] = t && r ? T(p[sx]) : T(0);
    q[2] = b && l ? T(p[sy]) : T(0);
    q[3] = b && r ? T(p[sy + sx]) : T(0);
  }
  __device__ T blend(const T (&q)[4]) const {
    return (q[0] * (1 - u) + q[1] * u) * (1 - v) + (q[2] * (1 - u) + q[3] * u) * v;
  }
  template <class S>
  __device__ T read(const S* p, int64_t sy, int64_t sx) const {
    T q[4];
    values(p, sy, sx, q);
    return blend(q);
  }
  // The derivatives of read with respect to the position.
  __device__ void slopes(const T (&q)[4], T& dx, T& dy) const {
    dx = slope_x * ((q[1] - q[0]) * (1 - v) + (q[3] - q[2]) * v);
    dy = slope_y * ((q[2] - q[0]) * (1 - u) + (q[3] - q[1]) * u);
  }
  // The transpose of read, into a contiguous plane of w columns.
  __device__ void add(T* p, int64_t w, T g) const {
    p += y * w + x;
    if (t && l) atomicAdd(p, g * (1 - u) * (1 - v));
    if (t && r) atomicAdd(p + 1, g * u * (1 - v));
    if (b && l) atomicAdd(p + w, g * (1 - u) * v);
    if (b && r) atomicAdd(p + w + 1, g * u * v);
  }
};

}  // namespace guise
