// Checks of an image for the sampler, independent of those in Python.
#pragma once
#include "core/sampler.h"
#include "core/stable.h"

namespace guise {

inline void check_plane(int64_t h, int64_t w, const char* name) {
  STD_TORCH_CHECK(h >= 1 && w >= 1 && h < kMaxSide && w < kMaxSide && h * w < kMaxPlane, name,
                  " must have 1 to 2^24 - 1 pixels a side and fewer than 2^30 a plane, got ", h,
                  " x ", w);
}

inline void check_image(const Tensor& image, const char* name) {
  STD_TORCH_CHECK(image.dim() == 4, name, " must be [N, C, H, W], got ", shape_str(image));
  check_plane(image.size(2), image.size(3), name);
}

// A view of an image with any strides: channels_last and expanded images need no copy.
template <class S>
struct Image {
  const S* data;
  int64_t n, c, h, w;
  int64_t sn, sc, sy, sx;
};

template <class S>
Image<S> image_of(const Tensor& t) {
  return {t.const_data_ptr<S>(), t.size(0),   t.size(1),   t.size(2),  t.size(3),
          t.stride(0),           t.stride(1), t.stride(2), t.stride(3)};
}

}  // namespace guise
