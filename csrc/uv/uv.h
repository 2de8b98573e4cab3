// Textures sampled at offsets from the identity grid: positions and blending, for host and device.
//
// Pixel i of n lies at -1 + (2 i + 1) / n in [-1, 1] (pixel centres, align_corners = False),
// and offsets are in the same frame. In pixels of the texture that is i * scale + offset + delta *
// reach. It is exactly i if the sizes are equal and delta is 0.
#pragma once
#include "core/sampler.h"

namespace guise {

template <class T>
struct UvAxis {
  T scale, offset, reach;

  GUISE_HD T at(T i, T delta) const { return i * scale + offset + delta * reach; }
};

template <class T>
GUISE_HD UvAxis<T> uv_axis(int64_t texture, int64_t image) {
  const T scale = T(texture) / T(image);
  return {scale, (scale - 1) / 2, T(texture) / 2};
}

template <class S, class T>
struct UvArgs {
  int64_t n, share;    // images; consecutive images that share a texture
  int64_t c, h, w;     // of an image
  int64_t high, wide;  // of a texture
  int64_t padding;
  UvAxis<T> x, y;
  T background;
  const S* delta;          // [N, 2, h, w]  x, y
  const S* low_frequency;  // [N, C, h, w]  or null
  const S* mask;           // [N, 1, h, w]  or null
};

// Blends a value with the background.
template <class T>
GUISE_HD T uv_blend(T value, T mask, T background) {
  return value * mask + background * (1 - mask);
}

}  // namespace guise
