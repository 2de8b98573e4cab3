// Checks and pointers of the UV lookup, shared by the CPU and the CUDA file.
#pragma once
#include <algorithm>
#include <optional>

#include "core/image.h"
#include "uv/uv.h"

namespace guise {

using MaybeTensor = std::optional<Tensor>;
using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

inline bool is_per_image(const Tensor& t, const Tensor& texture, const Tensor& delta, int64_t c) {
  return t.dim() == 4 && t.size(0) == delta.size(0) && t.size(1) == c &&
         t.size(2) == delta.size(2) && t.size(3) == delta.size(3) &&
         t.scalar_type() == texture.scalar_type();
}

inline void check_uv(const Tensor& texture, const Tensor& delta, const MaybeTensor& low_frequency,
                     const MaybeTensor& mask) {
  check_image(texture, "texture");
  check_image(delta, "delta");
  const int64_t textures = texture.size(0), n = delta.size(0);
  STD_TORCH_CHECK(textures > 0 ? n % textures == 0 : n == 0, "delta must have a whole number of ",
                  "images a texture, got ", shape_str(delta), " for ", shape_str(texture));
  STD_TORCH_CHECK(is_per_image(delta, texture, delta, 2),
                  "delta must be [N, 2, H, W] of texture's ", "type, got ", shape_str(delta));
  STD_TORCH_CHECK(!low_frequency || is_per_image(*low_frequency, texture, delta, texture.size(1)),
                  "low_frequency must be [N, C, H, W] of texture's type");
  STD_TORCH_CHECK(!mask || is_per_image(*mask, texture, delta, 1),
                  "mask must be [N, 1, H, W] of texture's type");
  check_device(delta, texture, "delta"), check_device(mask, texture, "mask");
  check_device(low_frequency, texture, "low_frequency");
}

inline void check_uv_grad(const Tensor& grad, const Tensor& texture, const Tensor& delta) {
  STD_TORCH_CHECK(is_per_image(grad, texture, delta, texture.size(1)),
                  "grad must be [N, C, H, W] of texture's type, got ", shape_str(grad));
  check_device(grad, texture, "grad");
}

// A contiguous tensor of t's shape; an empty one if t is absent.
inline Tensor empty_as(const Tensor& t) {
  return torch::stable::new_empty(t, {t.size(0), t.size(1), t.size(2), t.size(3)});
}

inline Tensor empty_as(const MaybeTensor& t, const Tensor& like) {
  return t ? empty_as(*t) : torch::stable::new_empty(like, {0});
}

template <class S>
struct UvGrads {
  const S* image;                             // [N, C, h, w]
  S *texture, *delta, *low_frequency, *mask;  // out; the last two may be null
};

template <class S>
UvGrads<S> uv_grads(const Tensor& image, Tensor& texture, Tensor& delta, Tensor& low_frequency,
                    Tensor& mask) {
  const auto out = [](Tensor& t) { return t.dim() == 4 ? t.mutable_data_ptr<S>() : nullptr; };
  return {image.const_data_ptr<S>(), out(texture), out(delta), out(low_frequency), out(mask)};
}

inline MaybeTensor contiguous(const MaybeTensor& t) {
  return t ? MaybeTensor(torch::stable::contiguous(*t)) : t;
}

// The images must be contiguous.
template <class S, class T = compute_t<S>>
UvArgs<S, T> uv_args(const Tensor& texture, const Tensor& delta, const MaybeTensor& low_frequency,
                     const MaybeTensor& mask, double background, int64_t padding) {
  const int64_t h = delta.size(2), w = delta.size(3);
  const int64_t high = texture.size(2), wide = texture.size(3);
  return {delta.size(0),
          delta.size(0) / std::max<int64_t>(texture.size(0), 1),
          texture.size(1),
          h,
          w,
          high,
          wide,
          padding,
          uv_axis<T>(wide, w),
          uv_axis<T>(high, h),
          T(background),
          delta.const_data_ptr<S>(),
          low_frequency ? low_frequency->const_data_ptr<S>() : nullptr,
          mask ? mask->const_data_ptr<S>() : nullptr};
}

}  // namespace guise
