// How the CPU holds an image while it is sampled: four channels beside each other, so that one load
// brings a whole tap, and a frame of padding around each plane, so that no tap needs a test.
#pragma once
#include <algorithm>
#include <vector>

#include "sampler.h"

namespace guise {

constexpr int kLanes = 4, kChunk = 64;  // channels in a group; positions that travel together

template <class T>
using Tile = T[kChunk][kLanes];

// Four numbers that the compiler keeps in one register, with or without AVX.
template <class T>
struct Lanes {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
};

// A plane of h x w pixels and its frame: offsets, and which positions it knows.
template <class T>
struct Plane {
  int64_t h, w;
  Span<T> x, y;

  Plane(int64_t h, int64_t w, int64_t padding)
      : h(h), w(w), x(span_of<T>(w, padding)), y(span_of<T>(h, padding)) {}
  int64_t stride() const { return w + 2 * kFrame; }
  int64_t size() const { return (h + 2 * kFrame) * stride() * kLanes; }
};

// The taps of up to kChunk positions: offset of the first in pixels, and the four weights.
template <class T>
struct Footprints {
  int32_t at[kChunk];
  T a[kChunk], b[kChunk], c[kChunk], d[kChunk];

  void set(const Plane<T>& p, const T* x, const T* y, int n) {
    const auto stride = int32_t(p.stride());
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const Tap<T> u = tap_at(x[i], p.x), v = tap_at(y[i], p.y);
      at[i] = (v.i + int32_t(kFrame)) * stride + u.i + int32_t(kFrame);
      a[i] = (1 - u.w) * (1 - v.w);
      b[i] = u.w * (1 - v.w);
      c[i] = (1 - u.w) * v.w;
      d[i] = u.w * v.w;
    }
  }
};

template <class T>
void read(const Plane<T>& p, const T* plane, const Footprints<T>& f, int n, Tile<T>& out) {
  using V = typename Lanes<T>::type;
  const int64_t below = p.stride();
  for (int i = 0; i < n; ++i) {
    const V* s = reinterpret_cast<const V*>(plane) + f.at[i];
    *reinterpret_cast<V*>(out[i]) =
        s[0] * f.a[i] + s[1] * f.b[i] + s[below] * f.c[i] + s[below + 1] * f.d[i];
  }
}

// The transpose of read: adds what arrives at each position to the pixels it was read from.
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

// A tile's first channels to planes that lie `apart` from each other, and back.
template <class S, class T>
void put(const Tile<T>& tile, int n, int64_t channels, int64_t apart, S* out) {
  for (int64_t c = 0; c < channels; ++c)
    for (int i = 0; i < n; ++i) out[c * apart + i] = S(tile[i][c]);
}

template <class S, class T>
void get(const S* in, int n, int64_t channels, int64_t apart, Tile<T>& tile) {
  for (int64_t c = 0; c < channels; ++c)
    for (int i = 0; i < n; ++i) tile[i][c] = T(in[c * apart + i]);
}

}  // namespace guise
