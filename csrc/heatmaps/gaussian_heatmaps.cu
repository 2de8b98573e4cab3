#include "core/launch.cuh"
#include "core/reduce.cuh"
#include "heatmaps/gaussian_args.h"

namespace guise {
namespace {

constexpr int32_t kStrip = 4096;  // pixels of one map that a block fills at once

GUISE_HD int32_t strips_of(int64_t area) { return int32_t((area + kStrip - 1) / kStrip); }

// Writes maps*h*w values and reads 6 for each map: 31.5 MB for 16x30x128x128 in float32, 6.6 us at
// the 4.8 TB/s of an H200. Not yet measured on a GPU.
template <GaussianKind kind, class S, int V>
__global__ void __launch_bounds__(kThreads) fill_kernel(const GaussianArgs<S> a, S* heat) {
  using T = compute_t<S>;
  const int32_t area = a.h * a.w, strips = strips_of(area);
  for (int64_t b = blockIdx.x; b < a.maps * strips; b += gridDim.x) {
    const int64_t m = b / strips;
    const int32_t begin = int32_t(b % strips) * kStrip;
    const int32_t end = area - begin > kStrip ? begin + kStrip : area;
    const Gaussian<T> g = a.gaussian(m);
    S* const map = heat + m * area;
    for (uint32_t i = begin + threadIdx.x * V; i < uint32_t(end); i += kThreads * V) {
      const int32_t y = i / a.w, x = i - y * a.w;  // a pack stays within its row
      const T dy = grid_at<T>(y, a.h) - g.my, shift = g.skew * dy, rest = g.py * dy * dy;
      Pack<S, V> out;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        out.v[k] = S(gaussian_value<kind>(grid_at<T>(x + k, a.w) - g.mx - shift, g.px, rest));
      }
      *reinterpret_cast<Pack<S, V>*>(map + i) = out;
    }
  }
}

// One block for each map. Reads grad once (31.5 MB, 6.6 us at 4.8 TB/s for the size above), writes
// 6 values, and computes the maps again. Without atomics the sums are the same every time. Not yet
// measured on a GPU.
template <GaussianKind kind, class S, int V>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const GaussianArgs<S> a, const S* grad, S* grad_mean, S* grad_covariance) {
  using T = compute_t<S>;
  const int32_t area = a.h * a.w;
  for (int64_t m = blockIdx.x; m < a.maps; m += gridDim.x) {
    const Gaussian<T> g = a.gaussian(m);
    const S* const map = grad + m * area;
    GaussianSums<T> s{};
    for (uint32_t i = threadIdx.x * V; i < uint32_t(area); i += kThreads * V) {
      const int32_t y = i / a.w, x = i - y * a.w;
      const T dy = grid_at<T>(y, a.h) - g.my, shift = g.skew * dy, rest = g.py * dy * dy;
      const auto in = *reinterpret_cast<const Pack<S, V>*>(map + i);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const T u = grid_at<T>(x + k, a.w) - g.mx - shift;
        const T v = T(in.v[k]) * gaussian_slope<kind>(u, g.px, rest);
        s.u += v * u;
        s.y += v * dy;
        s.uu += v * u * u;
        s.uy += v * u * dy;
        s.yy += v * dy * dy;
      }
    }
    s = {block_sum(s.u), block_sum(s.y), block_sum(s.uu), block_sum(s.uy), block_sum(s.yy)};
    if (threadIdx.x == 0) {
      T by_mean[2], by_covariance[4];
      gaussian_gradients(g, s, by_mean, by_covariance);
      for (int k = 0; k < 2; ++k) grad_mean[2 * m + k] = S(by_mean[k]);
      for (int k = 0; k < 4; ++k) grad_covariance[4 * m + k] = S(by_covariance[k]);
    }
  }
}

template <GaussianKind kind, class S>
void fill(const GaussianArgs<S>& a, S* heat, const Tensor& like) {
  const int64_t threads = a.maps * strips_of(int64_t(a.h) * a.w) * kThreads;
  if (threads == 0) return;  // an empty grid is a launch error
  if (aligned(a.w, kWide<S>, heat)) {
    launch(fill_kernel<kind, S, kWide<S>>, threads, like, a, heat);
  } else {
    launch(fill_kernel<kind, S, 1>, threads, like, a, heat);
  }
}

template <GaussianKind kind, class S>
void backward(const GaussianArgs<S>& a, const S* grad, S* by_mean, S* by_covariance,
              const Tensor& like) {
  const int64_t threads = a.maps * kThreads;
  if (threads == 0) return;
  constexpr int V = sizeof(S) == 8 ? 1 : kWide<S>;  // two doubles would not fit the registers
  if (aligned(a.w, V, grad)) {
    launch(backward_kernel<kind, S, V>, threads, like, a, grad, by_mean, by_covariance);
  } else {
    launch(backward_kernel<kind, S, 1>, threads, like, a, grad, by_mean, by_covariance);
  }
}

Tensor gaussian_heatmaps_cuda(const Tensor& mean_, const Tensor& covariance_, int64_t h, int64_t w,
                              int64_t kind) {
  check_gaussians(mean_, covariance_, h, w, kind);
  const torch::stable::accelerator::DeviceGuard guard(mean_.get_device_index());
  const Tensor mean = torch::stable::contiguous(mean_);
  const Tensor covariance = torch::stable::contiguous(covariance_);
  Tensor heat = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), h, w});
  GUISE_DISPATCH(mean.scalar_type(), "gaussian_heatmaps", {
    const auto a = gaussian_args<scalar_t>(mean, covariance, h, w);
    (kind == kRational ? fill<kRational, scalar_t>
                       : fill<kExponential, scalar_t>)(a, heat.mutable_data_ptr<scalar_t>(), mean);
  });
  return heat;
}

std::tuple<Tensor, Tensor> gaussian_heatmaps_backward_cuda(const Tensor& grad_, const Tensor& mean_,
                                                           const Tensor& covariance_,
                                                           int64_t kind) {
  check_gaussian_grad(grad_, mean_);
  const int64_t h = grad_.size(2), w = grad_.size(3);
  check_gaussians(mean_, covariance_, h, w, kind);
  const torch::stable::accelerator::DeviceGuard guard(mean_.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_), mean = torch::stable::contiguous(mean_);
  const Tensor covariance = torch::stable::contiguous(covariance_);
  Tensor grad_mean = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), 2});
  Tensor grad_covariance = torch::stable::new_empty(mean, {mean.size(0), mean.size(1), 2, 2});
  GUISE_DISPATCH(mean.scalar_type(), "gaussian_heatmaps_backward", {
    const auto a = gaussian_args<scalar_t>(mean, covariance, h, w);
    (kind == kRational
         ? backward<kRational, scalar_t>
         : backward<kExponential, scalar_t>)(a, grad.const_data_ptr<scalar_t>(),
                                             grad_mean.mutable_data_ptr<scalar_t>(),
                                             grad_covariance.mutable_data_ptr<scalar_t>(), mean);
  });
  return {grad_mean, grad_covariance};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CUDA, m) {
  m.impl("gaussian_heatmaps", TORCH_BOX(&guise::gaussian_heatmaps_cuda));
  m.impl("gaussian_heatmaps_backward", TORCH_BOX(&guise::gaussian_heatmaps_backward_cuda));
}
