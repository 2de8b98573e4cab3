// Bilinear lookup at pixel positions: the arithmetic that all warps share, for host and device.
//
// Pixel centres lie at the integers, the first at 0, the last at n - 1. With zeros padding the
// image is surrounded by 0, with border padding positions are clamped to it. A position that is NaN
// reads the padding: 0, or the border at 0. No position, whatever its value, reads outside the
// image.
#pragma once
#include "core/hd.h"

namespace guise {

enum Padding : int64_t { kZeros = 0, kBorder = 1 };

// Limits for exact float positions along a side, and for 32-bit offsets in a plane.
constexpr int64_t kMaxSide = int64_t(1) << 24, kMaxPlane = int64_t(1) << 30;

// Width of the frame around a plane. With zeros padding both taps of a far position lie in it.
constexpr int64_t kFrame = 2;

// The range of positions on an axis of n pixels. All others are clamped to it.
template <class T>
struct Span {
  T lo, hi;
};

template <class T>
GUISE_HD Span<T> span_of(int64_t n, int64_t padding) {
  if (padding == kZeros) return {T(-kFrame), T(n)};
  return {T(0), T(n - 1)};
}

// A position on one axis: between tap i with weight 1 - w and tap i + 1 with weight w.
template <class T>
struct Tap {
  int32_t i;
  T w;
};

template <class T>
GUISE_HD Tap<T> tap_at(T x, Span<T> span) {
#ifdef __CUDA_ARCH__
  // Each is one instruction, and the limit if x is NaN.
  x = std::fmin(std::fmax(x, span.lo), span.hi);
  const auto i = int32_t(std::floor(x));
#else
  x = x > span.lo ? x : span.lo;  // "not above", so that NaN is clamped before the cast
  x = x < span.hi ? x : span.hi;
  int32_t i = int32_t(x);
  i -= T(i) > x;  // the cast truncates; this makes it a floor
#endif
  return {i, x - T(i)};
}

// The derivative with border padding is 0 where the position is clamped.
template <class T>
GUISE_HD T slope_at(T x, Span<T> span) {
  return x > span.lo && x < span.hi ? T(1) : T(0);
}

}  // namespace guise
