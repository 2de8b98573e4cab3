#include "moments_args.h"

namespace guise {
namespace {

// d logits = h (s - sum h s), with s the slope of the loss by h.
template <bool with_map, class S, class T>
void moments_backward(const MomentsBackwardArgs<S>& a, int64_t m, const T* grid_x,
                      const T* grid_y) {
  const int64_t area = int64_t(a.h) * a.w;
  const S* const map = a.map + m * area;
  const S* const grad = with_map ? a.grad_map + m * area : nullptr;
  S* const out = a.grad_logits + m * area;
  const auto slopes = a.slopes(m);
  const T mx = T(a.mean[2 * m]), my = T(a.mean[2 * m + 1]);
  double dot = 0;
  for (int32_t y = 0; y < a.h; ++y) {
    const int64_t at = int64_t(y) * a.w;
    const T row = slopes.row(grid_y[y] - my), slant = slopes.slant(grid_y[y] - my);
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t x = 0; x < a.w; ++x) {
      const T g = with_map ? T(grad[at + x]) : T(0);
      part += T(map[at + x]) * slopes.at(g, row, slant, grid_x[x] - mx);
    }
    dot += part;
  }
  const T constant = T(dot);
  for (int32_t y = 0; y < a.h; ++y) {
    const int64_t at = int64_t(y) * a.w;
    const T row = slopes.row(grid_y[y] - my), slant = slopes.slant(grid_y[y] - my);
#pragma omp simd
    for (int64_t x = 0; x < a.w; ++x) {
      const T g = with_map ? T(grad[at + x]) : T(0);
      out[at + x] = T(map[at + x]) * (slopes.at(g, row, slant, grid_x[x] - mx) - constant);
    }
  }
}

Tensor heatmap_moments_backward_cpu(const std::optional<Tensor>& grad_map_,
                                    const Tensor& grad_mean_, const Tensor& grad_covariance_,
                                    const Tensor& map_, const Tensor& mean_) {
  check_moments_backward(grad_map_, grad_mean_, grad_covariance_, map_, mean_);
  const Tensor grad_mean = torch::stable::contiguous(grad_mean_);
  const Tensor grad_covariance = torch::stable::contiguous(grad_covariance_);
  const Tensor map = torch::stable::contiguous(map_), mean = torch::stable::contiguous(mean_);
  const Tensor grad_map = grad_map_ ? torch::stable::contiguous(*grad_map_) : map;
  Tensor grad = torch::stable::new_empty(map, {map.size(0), map.size(1), map.size(2), map.size(3)});
  GUISE_DISPATCH(map.scalar_type(), "heatmap_moments_backward", {
    using T = compute_t<scalar_t>;
    const auto a = moments_backward_args<scalar_t>(grad_map_ ? &grad_map : nullptr, grad_mean,
                                                   grad_covariance, map, mean, grad);
    const auto x = grid_of<T>(a.w), y = grid_of<T>(a.h);
    torch::stable::parallel_for(0, a.maps, 1, [&](int64_t lo, int64_t hi) {
      for (int64_t m = lo; m < hi; ++m) {
        a.grad_map ? moments_backward<true>(a, m, x.data(), y.data())
                   : moments_backward<false>(a, m, x.data(), y.data());
      }
    });
  });
  return grad;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("heatmap_moments_backward", TORCH_BOX(&guise::heatmap_moments_backward_cpu));
}
