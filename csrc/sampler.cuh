// How a CUDA kernel reads and adds at pixel positions (sampler.h), and how it is launched.
#pragma once
#include <algorithm>

#include "image.h"

namespace guise {

constexpr int kThreads = 256;

// One thread's pixels: neighbours in memory that one 16-byte access moves.
template <class S, int V>
struct alignas(sizeof(S) * V) Pack {
  S v[V];
};

template <class S>
constexpr int kWide = 16 / sizeof(S);

// Whether rows of `pixels` elements at these addresses keep 16-byte accesses aligned.
template <class... P>
bool aligned(int64_t pixels, int64_t wide, const P*... p) {
  return pixels % wide == 0 && (... && (reinterpret_cast<uintptr_t>(p) % 16 == 0));
}

// The taps of one position: which lie in the image, and where.
template <class T>
struct Taps {
  int32_t x, y;
  T u, v;           // weights of the second column and row
  bool l, r, t, b;  // left, right, top, bottom tap is in the image
  T slope_x, slope_y;

  __device__ Taps(T px, T py, int64_t h, int64_t w, int64_t padding) {
    const Span<T> sx = span_of<T>(w, padding), sy = span_of<T>(h, padding);
    const Tap<T> a = tap_at(px, sx), c = tap_at(py, sy);
    x = a.i, y = c.i, u = a.w, v = c.w;
    l = x >= 0 && x < w, r = x + 1 >= 0 && x + 1 < w;
    t = y >= 0 && y < h, b = y + 1 >= 0 && y + 1 < h;
    slope_x = slope_at(px, sx), slope_y = slope_at(py, sy);
  }

  // Border padding reaches past the last pixel only with weight 0, so it may read 0 there.
  template <class S>
  __device__ void values(const S* p, int64_t sy, int64_t sx, T (&q)[4]) const {
    p += y * sy + x * sx;
    q[0] = t && l ? T(p[0]) : T(0);
    q[1] = t && r ? T(p[sx]) : T(0);
    q[2] = b && l ? T(p[sy]) : T(0);
    q[3] = b && r ? T(p[sy + sx]) : T(0);
  }
  template <class S>
  __device__ T read(const S* p, int64_t sy, int64_t sx) const {
    T q[4];
    values(p, sy, sx, q);
    return (q[0] * (1 - u) + q[1] * u) * (1 - v) + (q[2] * (1 - u) + q[3] * u) * v;
  }
  // The derivatives of read by the position.
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

// Blocks for `n` threads with a grid-stride loop: enough to fill any GPU, never an invalid number.
inline unsigned blocks_for(int64_t n) {
  return unsigned(std::min<int64_t>((n + kThreads - 1) / kThreads, int64_t(1) << 20));
}

// In a function of its own, because the commas of <<< >>> would split the dispatch macro.
template <class Kernel, class... Args>
void launch(Kernel kernel, int64_t n, const Tensor& like, const Args&... args) {
  kernel<<<blocks_for(n), kThreads, 0, stream_of(like)>>>(args...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace guise
