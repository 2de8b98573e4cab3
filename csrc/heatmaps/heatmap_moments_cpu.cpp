#include <algorithm>
#include <limits>

#include "heatmaps/moments_args.h"

namespace guise {
namespace {

// One map, which stays in the cache: its maximum, then e^(logit - maximum) and the mean, then the
// scaled map and the covariance. Rows are summed in lanes, the map in double.
template <class T>
void moments(const MomentsArgs<T>& a, int64_t m, const T* grid_x, const T* grid_y) {
  const int64_t area = int64_t(a.h) * a.w;
  const T* const logits = a.logits + m * area;
  T* const map = a.map + m * area;
  T top = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < area; ++i) top = logits[i] > top ? logits[i] : top;

  double sum = 0, sum_x = 0, sum_y = 0;
  for (int32_t y = 0; y < a.h; ++y) {
    const T* const from = logits + int64_t(y) * a.w;
    T* const to = map + int64_t(y) * a.w;
    T s = 0, sx = 0;
#pragma omp simd reduction(+ : s, sx)
    for (int64_t x = 0; x < a.w; ++x) {
      const T v = exp_nonpositive(from[x] - top);
      to[x] = v;
      s += v;
      sx += v * grid_x[x];
    }
    sum += s;
    sum_x += sx;
    sum_y += double(s) * grid_y[y];
  }
  const T mx = T(sum_x / sum), my = T(sum_y / sum), scale = T(1 / sum);

  double xx = 0, xy = 0, yy = 0;
  for (int32_t y = 0; y < a.h; ++y) {
    T* const to = map + int64_t(y) * a.w;
    T s = 0, sx = 0, sxx = 0;
#pragma omp simd reduction(+ : s, sx, sxx)
    for (int64_t x = 0; x < a.w; ++x) {
      const T v = to[x] * scale, dx = grid_x[x] - mx;
      to[x] = v;
      s += v;
      sx += v * dx;
      sxx += v * dx * dx;
    }
    const double dy = grid_y[y] - my;
    xx += sxx;
    xy += sx * dy;
    yy += s * dy * dy;
  }
  const T moments[6] = {mx, my, T(xx), T(xy), T(xy), T(yy)};
  std::copy(moments, moments + 2, a.mean + 2 * m);
  std::copy(moments + 2, moments + 6, a.covariance + 4 * m);
}

std::tuple<Tensor, Tensor, Tensor> heatmap_moments_cpu(const Tensor& logits_) {
  check_moments(logits_);
  const Tensor logits = torch::stable::contiguous(computed(logits_));
  const int64_t n = logits.size(0), k = logits.size(1);
  const Tensor map = torch::stable::new_empty(logits, {n, k, logits.size(2), logits.size(3)});
  const Tensor mean = torch::stable::new_empty(logits, {n, k, 2});
  const Tensor covariance = torch::stable::new_empty(logits, {n, k, 2, 2});
  GUISE_DISPATCH(logits.scalar_type(), "heatmap_moments", {
    const auto a = moments_args<scalar_t>(logits, map, mean, covariance);
    const auto x = grid_of<scalar_t>(a.w), y = grid_of<scalar_t>(a.h);
    torch::stable::parallel_for(0, a.maps, 1, [&](int64_t lo, int64_t hi) {
      for (int64_t m = lo; m < hi; ++m) moments(a, m, x.data(), y.data());
    });
  });
  const auto type = logits_.scalar_type();
  return {as_type(map, type), as_type(mean, type), as_type(covariance, type)};
}

// Gradient of the logits: h (s - sum h s), s the gradient of h.
template <bool with_map, class T>
void moments_backward(const MomentsBackwardArgs<T>& a, int64_t m, const T* grid_x,
                      const T* grid_y) {
  const int64_t area = int64_t(a.h) * a.w;
  const T* const map = a.map + m * area;
  const T* const grad = with_map ? a.grad_map + m * area : nullptr;
  T* const out = a.grad_logits + m * area;
  const auto slopes = a.slopes(m);
  const T mx = a.mean[2 * m], my = a.mean[2 * m + 1];
  double dot = 0;
  for (int32_t y = 0; y < a.h; ++y) {
    const int64_t at = int64_t(y) * a.w;
    const T row = slopes.row(grid_y[y] - my), slant = slopes.slant(grid_y[y] - my);
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t x = 0; x < a.w; ++x) {
      const T g = with_map ? grad[at + x] : T(0);
      part += map[at + x] * slopes.at(g, row, slant, grid_x[x] - mx);
    }
    dot += part;
  }
  const T constant = T(dot);
  for (int32_t y = 0; y < a.h; ++y) {
    const int64_t at = int64_t(y) * a.w;
    const T row = slopes.row(grid_y[y] - my), slant = slopes.slant(grid_y[y] - my);
#pragma omp simd
    for (int64_t x = 0; x < a.w; ++x) {
      const T g = with_map ? grad[at + x] : T(0);
      out[at + x] = map[at + x] * (slopes.at(g, row, slant, grid_x[x] - mx) - constant);
    }
  }
}

Tensor heatmap_moments_backward_cpu(const std::optional<Tensor>& grad_map_,
                                    const Tensor& grad_mean_, const Tensor& grad_covariance_,
                                    const Tensor& map_, const Tensor& mean_) {
  check_moments_backward(grad_map_, grad_mean_, grad_covariance_, map_, mean_);
  const Tensor grad_mean = torch::stable::contiguous(computed(grad_mean_));
  const Tensor grad_covariance = torch::stable::contiguous(computed(grad_covariance_));
  const Tensor map = torch::stable::contiguous(computed(map_));
  const Tensor mean = torch::stable::contiguous(computed(mean_));
  const Tensor grad_map = grad_map_ ? torch::stable::contiguous(computed(*grad_map_)) : map;
  const Tensor grad =
      torch::stable::new_empty(map, {map.size(0), map.size(1), map.size(2), map.size(3)});
  GUISE_DISPATCH(map.scalar_type(), "heatmap_moments_backward", {
    const auto a = moments_backward_args<scalar_t>(grad_map_ ? &grad_map : nullptr, grad_mean,
                                                   grad_covariance, map, mean, grad);
    const auto x = grid_of<scalar_t>(a.w), y = grid_of<scalar_t>(a.h);
    torch::stable::parallel_for(0, a.maps, 1, [&](int64_t lo, int64_t hi) {
      for (int64_t m = lo; m < hi; ++m) {
        a.grad_map ? moments_backward<true>(a, m, x.data(), y.data())
                   : moments_backward<false>(a, m, x.data(), y.data());
      }
    });
  });
  return as_type(grad, map_.scalar_type());
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("heatmap_moments", TORCH_BOX(&guise::heatmap_moments_cpu));
  m.impl("heatmap_moments_backward", TORCH_BOX(&guise::heatmap_moments_backward_cpu));
}
