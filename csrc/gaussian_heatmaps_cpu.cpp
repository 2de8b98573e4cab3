#include <algorithm>
#include <vector>

#include "gaussian_args.h"

namespace guise {
namespace {

template <int64_t kind, class T>
void fill_row(T* out, const T* grid, int64_t w, T offset, T px, T rest) {
#pragma omp simd
  for (int64_t x = 0; x < w; ++x) {
    const T u = grid[x] - offset, q = px * u * u + rest;
    out[x] = kind == kRational ? 1 / (1 + q) : std::exp(T(-0.5) * q);
  }
}

template <int64_t kind, class S, class T>
void fill(const GaussianArgs<S, T>& a, const T* grid, int64_t lo, int64_t hi) {
  std::vector<T> row(std::is_same_v<S, T> ? 0 : a.w);
  int64_t m = -1;
  Gaussian<T> g{};
  for (int64_t r = lo; r < hi; ++r) {
    if (r / a.h != m) g = gaussian_at(a.mean, a.covariance, m = r / a.h);
    const T dy = g.row(grid_at<T>(r % a.h, a.h));
    if constexpr (std::is_same_v<S, T>) {
      fill_row<kind>(a.heat + r * a.w, grid, a.w, g.offset(dy), g.px, g.py * dy * dy);
    } else {
      fill_row<kind>(row.data(), grid, a.w, g.offset(dy), g.px, g.py * dy * dy);
      std::copy(row.begin(), row.end(), a.heat + r * a.w);
    }
  }
}

Tensor gaussian_heatmaps_cpu(const Tensor& mean_, const Tensor& covariance_, int64_t h, int64_t w,
                             int64_t kind) {
  check_gaussians(mean_, covariance_);
  const Tensor mean = torch::stable::contiguous(mean_);
  const Tensor covariance = torch::stable::contiguous(covariance_);
  Tensor heat = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), h, w});
  GUISE_DISPATCH(mean.scalar_type(), "gaussian_heatmaps", {
    using T = compute_t<scalar_t>;
    auto a = gaussian_args<scalar_t>(mean, covariance, h, w);
    a.heat = heat.mutable_data_ptr<scalar_t>();
    std::vector<T> grid(w);
    for (int64_t x = 0; x < w; ++x) grid[x] = grid_at<T>(x, w);
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(w, 1));
    torch::stable::parallel_for(0, a.maps * h, grain, [&](int64_t lo, int64_t hi) {
      kind == kRational ? fill<kRational>(a, grid.data(), lo, hi)
                        : fill<kExponential>(a, grid.data(), lo, hi);
    });
  });
  return heat;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("gaussian_heatmaps", TORCH_BOX(&guise::gaussian_heatmaps_cpu));
}
