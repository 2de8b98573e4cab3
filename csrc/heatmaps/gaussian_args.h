// Checks and pointers of the Gaussian maps, shared by the CPU and the CUDA file.
#pragma once
#include "core/stable.h"
#include "heatmaps/gaussian.h"

namespace guise {

template <class S>
struct GaussianArgs {
  using T = compute_t<S>;
  const S* mean;        // [maps, 2]     (x, y)
  const S* covariance;  // [maps, 2, 2]  its symmetric part counts
  int64_t maps;
  int32_t h, w;  // h w < 2^31: 32 bits suffice within a map

  GUISE_HD Gaussian<T> gaussian(int64_t m) const {
    const S *p = mean + 2 * m, *c = covariance + 4 * m;
    return gaussian_of(T(p[0]), T(p[1]), T(c[0]), T(c[1]), T(c[2]), T(c[3]));
  }
};

// Python has checked all this with clearer messages. Here it keeps every access within bounds.
inline void check_gaussians(const Tensor& mean, const Tensor& covariance, int64_t h, int64_t w,
                            int64_t kind) {
  STD_TORCH_CHECK(mean.dim() == 3 && mean.size(2) == 2, "mean must be [N, K, 2], got ",
                  shape_str(mean));
  STD_TORCH_CHECK(covariance.dim() == 4 && covariance.size(0) == mean.size(0) &&
                      covariance.size(1) == mean.size(1) && covariance.size(2) == 2 &&
                      covariance.size(3) == 2,
                  "covariance must be [N, K, 2, 2], got ", shape_str(covariance));
  STD_TORCH_CHECK(covariance.scalar_type() == mean.scalar_type(), "one dtype for all, please");
  check_device(covariance, mean, "covariance");
  check_map_size(h, w);
  STD_TORCH_CHECK(kind == kRational || kind == kExponential, "kind must be 0 or 1, got ", kind);
}

inline void check_gaussian_grad(const Tensor& grad, const Tensor& mean) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == mean.size(0) && grad.size(1) == mean.size(1),
                  "grad must be [N, K, H, W], got ", shape_str(grad));
  STD_TORCH_CHECK(grad.scalar_type() == mean.scalar_type(), "one dtype for all, please");
  check_device(grad, mean, "grad");
}

template <class S>
GaussianArgs<S> gaussian_args(const Tensor& mean, const Tensor& covariance, int64_t h, int64_t w) {
  return {mean.const_data_ptr<S>(), covariance.const_data_ptr<S>(), mean.size(0) * mean.size(1),
          int32_t(h), int32_t(w)};
}

}  // namespace guise
