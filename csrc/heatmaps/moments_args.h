// Checks and pointers of the map moments, shared by the CPU and the CUDA file.
#pragma once
#include <optional>

#include "core/stable.h"
#include "heatmaps/moments.h"

namespace guise {

template <class S>
struct MomentsArgs {
  const S* logits;  // [maps, h, w]
  S* map;           // [maps, h, w]  out
  S* mean;          // [maps, 2]     out
  S* covariance;    // [maps, 2, 2]  out
  int64_t maps;
  int32_t h, w;
};

template <class S>
struct MomentsBackwardArgs {
  using T = compute_t<S>;
  const S* grad_map;         // [maps, h, w]  or null if nothing depends on the map itself
  const S* grad_mean;        // [maps, 2]
  const S* grad_covariance;  // [maps, 2, 2]
  const S* map;              // [maps, h, w]
  const S* mean;             // [maps, 2]
  S* grad_logits;            // [maps, h, w]  out
  int64_t maps;
  int32_t h, w;

  GUISE_HD MomentSlopes<T> slopes(int64_t m) const {
    const S *g = grad_mean + 2 * m, *c = grad_covariance + 4 * m;
    return {T(g[0]), T(g[1]), T(c[0]), T(c[1]) + T(c[2]), T(c[3])};
  }
};

inline void check_moments(const Tensor& logits) {
  STD_TORCH_CHECK(logits.dim() == 4, "logits must be [N, K, H, W], got ", shape_str(logits));
  check_map_size(logits.size(2), logits.size(3));
}

inline void check_moments_backward(const std::optional<Tensor>& grad_map, const Tensor& grad_mean,
                                   const Tensor& grad_covariance, const Tensor& map,
                                   const Tensor& mean) {
  check_moments(map);
  const int64_t maps = map.size(0) * map.size(1);
  const auto type = map.scalar_type();
  STD_TORCH_CHECK(
      !grad_map || (grad_map->numel() == map.numel() && grad_map->scalar_type() == type),
      "grad_map must be like map");
  STD_TORCH_CHECK(grad_mean.numel() == 2 * maps && mean.numel() == 2 * maps &&
                      grad_covariance.numel() == 4 * maps,
                  "the moments must be [N, K, 2] and [N, K, 2, 2] of the map's");
  STD_TORCH_CHECK(grad_mean.scalar_type() == type && mean.scalar_type() == type &&
                      grad_covariance.scalar_type() == type,
                  "one dtype for all, please");
  check_device(grad_map, map, "grad_map"), check_device(grad_mean, map, "grad_mean");
  check_device(grad_covariance, map, "grad_covariance"), check_device(mean, map, "mean");
}

template <class S>
MomentsArgs<S> moments_args(const Tensor& logits, const Tensor& map, const Tensor& mean,
                            const Tensor& covariance) {
  return {logits.const_data_ptr<S>(),      map.mutable_data_ptr<S>(),
          mean.mutable_data_ptr<S>(),      covariance.mutable_data_ptr<S>(),
          logits.size(0) * logits.size(1), int32_t(logits.size(2)),
          int32_t(logits.size(3))};
}

template <class S>
MomentsBackwardArgs<S> moments_backward_args(const Tensor* grad_map, const Tensor& grad_mean,
                                             const Tensor& grad_covariance, const Tensor& map,
                                             const Tensor& mean, const Tensor& grad) {
  const S* const by_map = grad_map ? grad_map->const_data_ptr<S>() : nullptr;
  return {by_map,
          grad_mean.const_data_ptr<S>(),
          grad_covariance.const_data_ptr<S>(),
          map.const_data_ptr<S>(),
          mean.const_data_ptr<S>(),
          grad.mutable_data_ptr<S>(),
          map.size(0) * map.size(1),
          int32_t(map.size(2)),
          int32_t(map.size(3))};
}

}  // namespace guise
