#include <algorithm>
#include <limits>
#include <vector>

#include "moments_args.h"

namespace guise {
namespace {

// One map, which stays in the processor's cache: its maximum, then e^(logit - maximum) and the
// mean, then the scaled map and the covariance. Rows are summed in lanes, the map in double.
template <class S, class T>
void moments(const MomentsArgs<S>& a, int64_t m, const T* grid_x, const T* grid_y, T* scratch) {
  const int64_t area = int64_t(a.h) * a.w;
  const S* const logits = a.logits + m * area;
  S* const map = a.map + m * area;
  T* const e = std::is_same_v<S, T> ? reinterpret_cast<T*>(map) : scratch;
  T top = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < area; ++i) top = T(logits[i]) > top ? T(logits[i]) : top;

  double sum = 0, sum_x = 0, sum_y = 0;
  for (int32_t y = 0; y < a.h; ++y) {
    const S* const from = logits + int64_t(y) * a.w;
    T* const to = e + int64_t(y) * a.w;
    T s = 0, sx = 0;
#pragma omp simd reduction(+ : s, sx)
    for (int64_t x = 0; x < a.w; ++x) {
      const T v = exp_nonpositive(T(from[x]) - top);
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
    const int64_t row = int64_t(y) * a.w;
    T* const to = e + row;
    T s = 0, sx = 0, sxx = 0;
#pragma omp simd reduction(+ : s, sx, sxx)
    for (int64_t x = 0; x < a.w; ++x) {
      const T v = to[x] * scale, dx = grid_x[x] - mx;
      to[x] = v;
      s += v;
      sx += v * dx;
      sxx += v * dx * dx;
    }
    if constexpr (!std::is_same_v<S, T>) std::copy(to, to + a.w, map + row);
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
  const Tensor logits = torch::stable::contiguous(logits_);
  const int64_t n = logits.size(0), k = logits.size(1);
  Tensor map = torch::stable::new_empty(logits, {n, k, logits.size(2), logits.size(3)});
  Tensor mean = torch::stable::new_empty(logits, {n, k, 2});
  Tensor covariance = torch::stable::new_empty(logits, {n, k, 2, 2});
  GUISE_DISPATCH(logits.scalar_type(), "heatmap_moments", {
    using T = compute_t<scalar_t>;
    const auto a = moments_args<scalar_t>(logits, map, mean, covariance);
    const auto x = grid_of<T>(a.w), y = grid_of<T>(a.h);
    torch::stable::parallel_for(0, a.maps, 1, [&](int64_t lo, int64_t hi) {
      std::vector<T> scratch(std::is_same_v<scalar_t, T> ? 0 : int64_t(a.h) * a.w);
      for (int64_t m = lo; m < hi; ++m) moments(a, m, x.data(), y.data(), scratch.data());
    });
  });
  return {map, mean, covariance};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("heatmap_moments", TORCH_BOX(&guise::heatmap_moments_cpu));
}
