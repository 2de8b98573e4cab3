// Checks and pointers of the Gaussian maps, shared by the CPU and the CUDA file.
#pragma once
#include "gaussian.h"
#include "stable.h"

namespace guise {

// Python has said all this in friendlier words; here it keeps every access within bounds.
inline void check_gaussians(const Tensor& mean, const Tensor& covariance) {
  STD_TORCH_CHECK(mean.dim() == 3 && mean.size(2) == 2, "mean must be [N, K, 2], got ",
                  shape_str(mean));
  STD_TORCH_CHECK(covariance.dim() == 4 && covariance.size(0) == mean.size(0) &&
                      covariance.size(1) == mean.size(1) && covariance.size(2) == 2 &&
                      covariance.size(3) == 2,
                  "covariance must be [N, K, 2, 2], got ", shape_str(covariance));
  STD_TORCH_CHECK(covariance.scalar_type() == mean.scalar_type(),
                  "mean and covariance must have one dtype");
}

template <class S>
GaussianArgs<S, compute_t<S>> gaussian_args(const Tensor& mean, const Tensor& covariance, int64_t h,
                                            int64_t w) {
  return {mean.const_data_ptr<S>(),
          covariance.const_data_ptr<S>(),
          nullptr,
          nullptr,
          nullptr,
          mean.size(0) * mean.size(1),
          h,
          w};
}

template <class S>
GUISE_HD Gaussian<compute_t<S>> gaussian_at(const S* mean, const S* covariance, int64_t m) {
  using T = compute_t<S>;
  const S *p = mean + 2 * m, *c = covariance + 4 * m;
  return gaussian_of(T(p[0]), T(p[1]), T(c[0]), T(c[1]), T(c[2]), T(c[3]));
}

}  // namespace guise
