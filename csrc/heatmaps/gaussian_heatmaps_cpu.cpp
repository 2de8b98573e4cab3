#include <algorithm>
#include <vector>

#include "heatmaps/gaussian_args.h"

namespace guise {
namespace {

// 1 / (u^2 + rest) along a row. The halves of the row share divisions, the most expensive part.
// Returns false and writes nothing if a product of two denominators could leave the type's range.
template <class T>
bool fill_rational(const T* dx, T shift, T rest, int64_t w, T* out) {
  const T first = dx[0] - shift, last = dx[w - 1] - shift;
  if (!(rest > T(0.5) && first * first + rest < T(1e18) && last * last + rest < T(1e18)))
    return false;  // also if NaN
  const int64_t half = w / 2;
#pragma omp simd
  for (int64_t x = 0; x < half; ++x) {
    const T u = dx[x] - shift, v = dx[x + half] - shift;
    const T p = u * u + rest, q = v * v + rest, both = 1 / (p * q);
    out[x] = q * both;
    out[x + half] = p * both;
  }
  if (w % 2) out[w - 1] = 1 / (last * last + rest);
  return true;
}

// Rows lo to hi of all maps.
template <GaussianKind kind, class T>
void fill_rows(const GaussianArgs<T>& a, T* heat, const T* grid_x, const T* grid_y, int64_t lo,
               int64_t hi) {
  std::vector<T> dx(a.w), scaled(a.w);
  for (int64_t r = lo; r < hi;) {
    const int64_t m = r / a.h, end = std::min(hi, (m + 1) * a.h);
    const Gaussian<T> g = a.gaussian(m);
    const T root = std::sqrt(g.px);  // NaN for an invalid covariance: fill_rational returns false
    for (int64_t x = 0; x < a.w; ++x) dx[x] = grid_x[x] - g.mx, scaled[x] = root * dx[x];
    for (; r < end; ++r) {
      const T dy = grid_y[r - m * a.h] - g.my, shift = g.skew * dy, rest = g.py * dy * dy;
      T* const out = heat + r * a.w;
      if (kind == kRational && fill_rational(scaled.data(), root * shift, 1 + rest, a.w, out))
        continue;
#pragma omp simd
      for (int64_t x = 0; x < a.w; ++x) out[x] = gaussian_value<kind>(dx[x] - shift, g.px, rest);
    }
  }
}

// A row is summed in lanes of the compute type, the rows of a map in double.
template <GaussianKind kind, class T>
GaussianSums<T> sums_of(const GaussianArgs<T>& a, const Gaussian<T>& g, const T* grad,
                        const T* grid_x, const T* grid_y) {
  GaussianSums<double> all{};
  for (int32_t y = 0; y < a.h; ++y, grad += a.w) {
    const T dy = grid_y[y] - g.my, shift = g.skew * dy, rest = g.py * dy * dy;
    T s0 = 0, s1 = 0, s2 = 0;
#pragma omp simd reduction(+ : s0, s1, s2)
    for (int64_t x = 0; x < a.w; ++x) {
      const T u = grid_x[x] - g.mx - shift, s = grad[x] * gaussian_slope<kind>(u, g.px, rest);
      s0 += s;
      s1 += s * u;
      s2 += s * u * u;
    }
    const double v = dy;
    all.u += s1;
    all.y += s0 * v;
    all.uu += s2;
    all.uy += s1 * v;
    all.yy += s0 * v * v;
  }
  return {T(all.u), T(all.y), T(all.uu), T(all.uy), T(all.yy)};
}

Tensor gaussian_heatmaps_cpu(const Tensor& mean_, const Tensor& covariance_, int64_t h, int64_t w,
                             int64_t kind) {
  check_gaussians(mean_, covariance_, h, w, kind);
  const Tensor mean = torch::stable::contiguous(computed(mean_));
  const Tensor covariance = torch::stable::contiguous(computed(covariance_));
  const Tensor heat = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), h, w});
  GUISE_DISPATCH(mean.scalar_type(), "gaussian_heatmaps", {
    const auto a = gaussian_args<scalar_t>(mean, covariance, h, w);
    const auto x = grid_of<scalar_t>(a.w), y = grid_of<scalar_t>(a.h);
    scalar_t* const out = heat.mutable_data_ptr<scalar_t>();
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(w, 1));
    torch::stable::parallel_for(0, a.maps * h, grain, [&](int64_t lo, int64_t hi) {
      kind == kRational ? fill_rows<kRational>(a, out, x.data(), y.data(), lo, hi)
                        : fill_rows<kExponential>(a, out, x.data(), y.data(), lo, hi);
    });
  });
  return as_type(heat, mean_.scalar_type());
}

std::tuple<Tensor, Tensor> gaussian_heatmaps_backward_cpu(const Tensor& grad_, const Tensor& mean_,
                                                          const Tensor& covariance_, int64_t kind) {
  check_gaussian_grad(grad_, mean_);
  const int64_t h = grad_.size(2), w = grad_.size(3);
  check_gaussians(mean_, covariance_, h, w, kind);
  const Tensor grad = torch::stable::contiguous(computed(grad_));
  const Tensor mean = torch::stable::contiguous(computed(mean_));
  const Tensor covariance = torch::stable::contiguous(computed(covariance_));
  const Tensor by_mean = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), 2});
  const Tensor by_covariance = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), 2, 2});
  GUISE_DISPATCH(mean.scalar_type(), "gaussian_heatmaps_backward", {
    const auto a = gaussian_args<scalar_t>(mean, covariance, h, w);
    const auto x = grid_of<scalar_t>(a.w), y = grid_of<scalar_t>(a.h);
    const scalar_t* const from = grad.const_data_ptr<scalar_t>();
    scalar_t* const to_mean = by_mean.mutable_data_ptr<scalar_t>();
    scalar_t* const to_covariance = by_covariance.mutable_data_ptr<scalar_t>();
    // One thread sums a map, so the sums do not depend on the number of threads.
    torch::stable::parallel_for(0, a.maps, 1, [&](int64_t lo, int64_t hi) {
      for (int64_t m = lo; m < hi; ++m) {
        const auto g = a.gaussian(m);
        const scalar_t* const map = from + m * h * w;
        const auto sums = kind == kRational ? sums_of<kRational>(a, g, map, x.data(), y.data())
                                            : sums_of<kExponential>(a, g, map, x.data(), y.data());
        gaussian_gradients(g, sums, to_mean + 2 * m, to_covariance + 4 * m);
      }
    });
  });
  const auto type = mean_.scalar_type();
  return {as_type(by_mean, type), as_type(by_covariance, type)};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("gaussian_heatmaps", TORCH_BOX(&guise::gaussian_heatmaps_cpu));
  m.impl("gaussian_heatmaps_backward", TORCH_BOX(&guise::gaussian_heatmaps_backward_cpu));
}
