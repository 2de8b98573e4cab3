// The layout of an image that the CPU samples. Four channels are adjacent, so that one load reads a
// whole tap. Each plane has a frame of padding, so that no tap needs a test.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/sampler.h"

namespace guise {

constexpr int kLanes = 4, kChunk = 64;  // channels in a group; positions in a chunk

template <class T>
using Tile = T[kChunk][kLanes];  // in the order of the packed image
template <class T>
using Rows = T[kLanes][kChunk];  // in the order of all other tensors

// Four numbers in one register, with or without AVX.
template <class T>
struct Lanes {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
  typedef T pair
      __attribute__((vector_size(2 * kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
};

// A plane of h x w pixels and its frame: offsets, and the range of positions.
template <class T>
struct Plane {
  int64_t h, w;
  Span<T> x, y;

  Plane(int64_t h, int64_t w, int64_t padding)
      : h(h), w(w), x(span_of<T>(w, padding)), y(span_of<T>(h, padding)) {}
  int64_t stride() const { return w + 2 * kFrame; }
  int64_t size() const { return (h + 2 * kFrame) * stride() * kLanes; }
};

// The taps of up to kChunk positions: offset of the first in pixels, the weights of the second
// column and row, and the four weights that follow.
template <class T>
struct Footprints {
  int32_t at[kChunk];
  T u[kChunk], v[kChunk], a[kChunk], b[kChunk], c[kChunk], d[kChunk];

  void set(const Plane<T>& p, const T* x, const T* y, int n) {
    const auto stride = int32_t(p.stride());
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const Tap<T> s = tap_at(x[i], p.x), t = tap_at(y[i], p.y);
      at[i] = (t.i + int32_t(kFrame)) * stride + s.i + int32_t(kFrame);
      u[i] = s.w, v[i] = t.w;
      a[i] = (1 - s.w) * (1 - t.w);
      b[i] = s.w * (1 - t.w);
      c[i] = (1 - s.w) * t.w;
      d[i] = s.w * t.w;
    }
  }
};

template <class T>
void from_tile(const Tile<T>& tile, Rows<T>& rows) {
  for (int i = 0; i < kChunk; ++i) {
    rows[0][i] = tile[i][0], rows[1][i] = tile[i][1];
    rows[2][i] = tile[i][2], rows[3][i] = tile[i][3];
  }
}

template <class T>
void to_tile(const Rows<T>& rows, Tile<T>& tile) {
  for (int i = 0; i < kChunk; ++i) {
    tile[i][0] = rows[0][i], tile[i][1] = rows[1][i];
    tile[i][2] = rows[2][i], tile[i][3] = rows[3][i];
  }
}

// Prefetches the cache lines that `read` will use.
template <class T>
void fetch(const Plane<T>& p, const T* plane, const Footprints<T>& f, int n) {
  for (int i = 0; i < n; i += 64 / int(kLanes * sizeof(T))) {
    const T* s = plane + kLanes * int64_t(f.at[i]);
    __builtin_prefetch(s);
    __builtin_prefetch(s + p.stride() * kLanes);
  }
}

// Samples a group of channels at `n` positions.
template <class T>
void read(const Plane<T>& p, const T* plane, const Footprints<T>& f, int n, Rows<T>& out) {
  using V = typename Lanes<T>::type;
  using P = typename Lanes<T>::pair;
  const int64_t below = p.stride() * kLanes;
  alignas(64) Tile<T> tile;
  for (int i = 0; i < n; ++i) {
    const T* s = plane + kLanes * int64_t(f.at[i]);
    const P top = *reinterpret_cast<const P*>(s), low = *reinterpret_cast<const P*>(s + below);
    const P both = top + (low - top) * f.v[i];
    V first, second;
    std::memcpy(&first, &both, sizeof first);
    std::memcpy(&second, reinterpret_cast<const char*>(&both) + sizeof first, sizeof second);
    *reinterpret_cast<V*>(tile[i]) = first + (second - first) * f.u[i];
  }
  from_tile<T>(tile, out);
}

// The transpose of `read`: adds the gradient at each position to the pixels that it was read from.
template <class T>
void add(const Plane<T>& p, T* plane, const Footprints<T>& f, int n, const Tile<T>& in) {
  using V = typename Lanes<T>::type;
  const int64_t below = p.stride();
  for (int i = 0; i < n; ++i) {
    V* s = reinterpret_cast<V*>(plane) + f.at[i];
    const V v = *reinterpret_cast<const V*>(in[i]);
    s[0] += v * f.a[i];
    s[1] += v * f.b[i];
    s[below] += v * f.c[i];
    s[below + 1] += v * f.d[i];
  }
}

// Adds the gradients of the positions to dx and dy.
template <class T>
void slope(const Plane<T>& p, const T* plane, const Footprints<T>& f, int n, const Tile<T>& in,
           T* dx, T* dy) {
  using V = typename Lanes<T>::type;
  const int64_t below = p.stride();
  alignas(64) Tile<T> x, y;
  alignas(64) Rows<T> xs, ys;
  for (int i = 0; i < n; ++i) {
    const V* s = reinterpret_cast<const V*>(plane) + f.at[i];
    const V g = *reinterpret_cast<const V*>(in[i]), across = s[below + 1] - s[below] - s[1] + s[0];
    *reinterpret_cast<V*>(x[i]) = g * (s[1] - s[0] + across * f.v[i]);
    *reinterpret_cast<V*>(y[i]) = g * (s[below] - s[0] + across * f.u[i]);
  }
  from_tile<T>(x, xs), from_tile<T>(y, ys);
  for (int i = 0; i < n; ++i) {
    dx[i] += (xs[0][i] + xs[1][i]) + (xs[2][i] + xs[3][i]);
    dy[i] += (ys[0][i] + ys[1][i]) + (ys[2][i] + ys[3][i]);
  }
}

}  // namespace guise
