// Reads and atomic adds of CUDA kernels at pixel positions (sampler.h).
#pragma once
#include "core/image.h"
#include "core/launch.cuh"

namespace guise {

// An image that is sampled, with any strides whose offsets within a plane fit 32 bits:
// `with_near_pixels` guarantees that.
template <class S, class T>
struct Source {
  const S* data;
  int64_t image, channel;  // strides of images, channels,
  int32_t down, across;    // rows and columns
  uint32_t h, w;
  Span<T> y, x;

  __device__ const S* plane(int64_t n) const { return data + n * image; }
  bool has_dense_rows() const { return across == 1; }
};

// The image, or a contiguous copy if its strides are too large.
inline Tensor with_near_pixels(const Tensor& image) {
  const int64_t far = (image.size(2) + 1) * image.stride(2) + (image.size(3) + 1) * image.stride(3);
  return far < int64_t(1) << 31 ? image : torch::stable::contiguous(image);
}

template <class S, class T = compute_t<S>>
Source<S, T> source_of(const Tensor& t, int64_t padding) {
  const Image<S> a = image_of<S>(t);
  // torch allows any stride along a side of one pixel.
  const int32_t down = a.h == 1 ? 0 : int32_t(a.sy), across = a.w == 1 ? 1 : int32_t(a.sx);
  return {a.data,
          a.sn,
          a.sc,
          down,
          across,
          uint32_t(a.h),
          uint32_t(a.w),
          span_of<T>(a.h, padding),
          span_of<T>(a.w, padding)};
}

// The addresses of the taps at offset 0 of a plane, by row.
template <class S>
struct Corners {
  const S *left[2], *right[2];

  template <class T>
  __device__ Corners(const S* plane, const Source<S, T>& s)
      : left{plane, plane + s.down}, right{plane + s.across, plane + s.down + s.across} {
    for (int row = 0; row < 2; ++row) keep(left[row]), keep(right[row]);
  }
};

// The taps of V positions: 3 numbers each, so that a loop over channels keeps many in registers.
//
// In `dense` rows the right tap is next to the left, so that both share an address.
template <int V, class T, bool dense>
struct Taps {
  int32_t at[V];        // offset of the top left tap in a plane
  T u[V], v[V];         // weights of the second column and row
  uint32_t inside = 0;  // 4 bits a position: its taps, row by row, that lie in the image

  template <class S>
  __device__ void set(int k, T x, T y, const Source<S, T>& s) {
    const Tap<T> a = tap_at(x, s.x), b = tap_at(y, s.y);
    const uint32_t i = a.i, j = b.i;  // -1 becomes the largest number, and 0 again by adding 1
    at[k] = int32_t(j * uint32_t(s.down) + i * uint32_t(s.across));
    u[k] = a.w, v[k] = b.w;
    const uint32_t columns = (i < s.w ? 5u : 0u) | (i + 1 < s.w ? 10u : 0u);
    const uint32_t rows = (j < s.h ? 3u : 0u) | (j + 1 < s.h ? 12u : 0u);
    inside |= (columns & rows) << (4 * k);
  }
  __device__ bool has(int k, int tap) const { return inside >> (4 * k + tap) & 1; }

  // With border padding a tap past the last pixel has weight 0, so 0 may be read there.
  template <class S>
  __device__ void values(int k, const Corners<S>& plane, T (&q)[4]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const S* const left = advance(plane.left[row], at[k]);
      const S* const right = dense ? left + 1 : advance(plane.right[row], at[k]);
      q[2 * row] = has(k, 2 * row) ? T(*left) : T(0);
      q[2 * row + 1] = has(k, 2 * row + 1) ? T(*right) : T(0);
    }
  }
  __device__ T blend(int k, const T (&q)[4]) const {
    const T left = q[0] + (q[2] - q[0]) * v[k], right = q[1] + (q[3] - q[1]) * v[k];
    return left + (right - left) * u[k];
  }
  // All V positions of a plane.
  template <class S>
  __device__ void read(const S* plane, const Source<S, T>& s, T (&value)[V]) const {
    const Corners<S> corners(plane, s);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      T q[4];
      values(k, corners, q);
      value[k] = blend(k, q);
    }
  }
};

// The taps of one position for a gradient.
template <class T>
struct GradientTaps : Taps<1, T, false> {
  int32_t pixel;  // offset of the top left tap in a contiguous plane
  T slope_x, slope_y;

  template <class S>
  __device__ GradientTaps(T x, T y, const Source<S, T>& s) {
    this->set(0, x, y, s);
    pixel = tap_at(y, s.y).i * int32_t(s.w) + tap_at(x, s.x).i;
    slope_x = slope_at(x, s.x), slope_y = slope_at(y, s.y);
  }
  // The derivatives of the blend with respect to the position.
  __device__ void slopes(const T (&q)[4], T& dx, T& dy) const {
    const T u = this->u[0], v = this->v[0];
    dx = slope_x * ((q[1] - q[0]) * (1 - v) + (q[3] - q[2]) * v);
    dy = slope_y * ((q[2] - q[0]) * (1 - u) + (q[3] - q[1]) * u);
  }
  // The transpose of a read, into a contiguous plane of w columns.
  __device__ void add(T* plane, uint32_t w, T g) const {
    const T u = this->u[0], v = this->v[0];
    T* const p = plane + pixel;
    if (this->has(0, 0)) atomicAdd(p, g * (1 - u) * (1 - v));
    if (this->has(0, 1)) atomicAdd(p + 1, g * u * (1 - v));
    if (this->has(0, 2)) atomicAdd(p + w, g * (1 - u) * v);
    if (this->has(0, 3)) atomicAdd(p + w + 1, g * u * v);
  }
};

}  // namespace guise
