// Checks and pointers of the crops, shared by the CPU and the CUDA file.
#pragma once
#include "core/image.h"
#include "crops/crops.h"

namespace guise {

inline void check_views(const Tensor& views, const Tensor& image) {
  STD_TORCH_CHECK(views.dim() == 4 && views.size(0) == image.size(0) && views.size(2) == 3 &&
                      views.size(3) == 3,
                  "homographies must be [N, P, 3, 3], got ", shape_str(views));
  STD_TORCH_CHECK(views.scalar_type() == compute_type(image.scalar_type()),
                  "homographies must have the type that the image is computed in");
  check_device(views, image, "homographies");
}

inline void check_crops(const Tensor& image, const Tensor& views, int64_t h, int64_t w) {
  check_image(image, "image");
  check_views(views, image);
  check_plane(h, w, "a crop");
}

inline void check_crops_backward(const Tensor& grad, const Tensor& views, int64_t height,
                                 int64_t width) {
  STD_TORCH_CHECK(grad.dim() == 5 && grad.size(1) == views.size(1),
                  "grad must be [N, P, C, h, w], got ", shape_str(grad));
  check_views(views, grad);
  check_plane(grad.size(3), grad.size(4), "a crop");
  check_plane(height, width, "image");
}

template <class S, class T = compute_t<S>>
CropsArgs<S, T> crops_args(const Tensor& views, int64_t c, int64_t height, int64_t width, int64_t h,
                           int64_t w) {
  CropsArgs<S, T> a = {};
  a.views = reinterpret_cast<const Homography<T>*>(views.const_data_ptr<T>());
  a.n = views.size(0), a.p = views.size(1), a.c = c;
  a.height = height, a.width = width, a.h = h, a.w = w;
  return a;
}

}  // namespace guise
