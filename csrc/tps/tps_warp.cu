// Forward reads the image, mostly through L2, and writes it in 16-byte stores. 16 x 3 x 128 x 128
// float32 is 3.1 MB each way, at least 2 us at 3 TB/s. The logarithms of the spline take longer: 25
// points are about 900 instructions a pixel, 8 us of an H100 (benchmarks/results/sass.json).
// Backward reads two images, writes one, and needs twelve atomic adds a pixel and 2 (K + 3) sums a
// block. Not yet measured on a GPU.
#include "core/sampler.cuh"
#include "tps/spline_args.h"

namespace guise {
namespace {

// Moves V pixels of a row of image n to the positions that they read: one loop over the nodes for
// all. Nodes m and the coefficients are at even addresses.
template <int V, class T>
__device__ __forceinline__ void place(const SplineArgs<T>& a, uint32_t n, uint32_t m, T (&x)[V],
                                      T y, T (&to)[V]) {
  const int k = int(a.k);
  const T* c = a.coefficients + int64_t(n) * (k + 3) * 2;
  const T* node = a.nodes + int64_t(m) * k * 2;
  const T v = a.down(m, y);
  T u[V], dx[V] = {}, dy[V] = {};
#pragma unroll
  for (int i = 0; i < V; ++i) u[i] = a.across(m, x[i]);
#pragma unroll 1
  for (int j = 0; j < k; ++j, node += 2, c += 2) {
    const auto at = load<2>(node), by = load<2>(c);
    const T below = (v - at.v[1]) * (v - at.v[1]);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const T b = radial((u[i] - at.v[0]) * (u[i] - at.v[0]) + below);
      dx[i] += b * by.v[0], dy[i] += b * by.v[1];
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    x[i] += dx[i] + (c[0] + u[i] * c[2] + v * c[4]);
    to[i] = y + (dy[i] + (c[1] + u[i] * c[3] + v * c[5]));
  }
}

// 16-bit packs need more than the 85 registers of 3 blocks.
// Packs of 16 bits need more than the 85 registers that 3 blocks leave.
template <int V, class S, class T, bool dense>
__global__ void __launch_bounds__(kThreads, V > 4 ? 2 : 3)
    warp_kernel(SplineArgs<T> a, Source<S, T> image, Packs<V> packs, Divider share, S* out) {
  const uint32_t area = a.h * a.w, step = gridDim.x * kThreads;
  for (uint32_t j = blockIdx.x * kThreads + threadIdx.x; j < packs.total; j += step) {
    const Pixels pixels = packs.at(j);
    T x[V], y[V];
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = T(pixels.x + i);
    place(a, pixels.plane, share.divide(pixels.plane), x, T(pixels.y), y);
    Taps<V, T, dense> taps;
#pragma unroll
    for (int i = 0; i < V; ++i) taps.set(i, x[i], y[i], image);
    const S* from = image.plane(pixels.plane);
    S* to = out + pixels.plane * (a.c * area) + pixels.offset;
#pragma unroll 1
    for (int c = 0; c < int(a.c); ++c, from += image.channel, to += area) {
      T value[V];
      taps.read(from, image, value);
      store(to, narrow<S>(value));
    }
  }
}

// A block works on one image and sums its gradients of the coefficients in shared memory.
template <class S, class T>
__global__ void __launch_bounds__(kThreads)
    warp_backward_kernel(SplineArgs<T> a, Source<S, T> image, const S* grad, T* grad_image,
                         T* grad_coefficients, int32_t blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  T* sums = reinterpret_cast<T*>(memory);
  const int32_t area = int32_t(a.h * a.w), width = int32_t(a.w), terms = int32_t(a.k + 3);
  const uint32_t n = blockIdx.x / blocks, m = n / uint32_t(a.share);
  for (int32_t j = threadIdx.x; j < 2 * terms; j += kThreads) sums[j] = 0;
  __syncthreads();
  for (int32_t base = blockIdx.x % blocks * kThreads; base < area; base += blocks * kThreads) {
    const int32_t pixel = base + threadIdx.x, row = pixel / width;
    const T px = T(pixel - row * width), py = T(row);
    T dx = 0, dy = 0;
    if (pixel < area) {
      T x[1] = {px}, y[1];
      place(a, n, m, x, py, y);
      const GradientTaps<T> taps(x[0], y[0], image);
      const S *from = image.plane(n), *by = grad + n * (a.c * area) + pixel;
      T* to = grad_image + n * (a.c * area);
#pragma unroll 1
      for (int c = 0; c < int(a.c); ++c, from += image.channel, by += area, to += area) {
        T q[4], qx, qy;
        taps.values(0, Corners<S>(from, image), q);
        taps.slopes(q, qx, qy);
        const T g = T(*by);
        dx += g * qx, dy += g * qy;
        taps.add(to, width, g);
      }
    }
    for (int32_t j = 0; j < terms; ++j) {  // whole warps, with 0 beyond the last pixel
      const T b = a.basis(m, j, a.across(m, px), a.down(m, py));
      T bx = b * dx, by = b * dy;
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        bx += __shfl_down_sync(0xffffffffu, bx, lanes);
        by += __shfl_down_sync(0xffffffffu, by, lanes);
      }
      if (threadIdx.x % 32 == 0) {
        atomicAdd(sums + 2 * j, bx);
        atomicAdd(sums + 2 * j + 1, by);
      }
    }
  }
  __syncthreads();
  for (int32_t j = threadIdx.x; j < 2 * terms; j += kThreads)
    atomicAdd(grad_coefficients + int64_t(n) * 2 * terms + j, sums[j]);
}

// A contiguous tensor whose pairs of numbers are aligned: a view may begin between two.
Tensor in_pairs(const Tensor& t) {
  const Tensor dense = torch::stable::contiguous(t);
  const auto address = reinterpret_cast<uintptr_t>(dense.data_ptr());
  return address % (2 * dense.element_size()) == 0 ? dense : torch::stable::clone(dense);
}

template <class S, class T = compute_t<S>>
void warp(const Tensor& image, const SplineArgs<T>& a, Tensor& warped) {
  S* out = warped.mutable_data_ptr<S>();
  const auto from = source_of<S>(image, a.padding);
  for_each_part<kWide<S>>(a.n, a.h, a.w, aligned(a.w, kWide<S>, out), [&](auto packs) {
    constexpr int V = packs.width;
    launch(V > 1 && from.has_dense_rows() ? warp_kernel<V, S, T, (V > 1)>
                                          : warp_kernel<V, S, T, false>,
           packs.total, image, a, from, packs, Divider(a.share), out);
  });
}

template <class S, class T = compute_t<S>>
void backward(const Tensor& image, const SplineArgs<T>& a, const Tensor& grad, Tensor& grad_image,
              Tensor& grad_coefficients) {
  if (a.n == 0) return;
  const int64_t blocks = std::min<int64_t>((a.h * a.w + kThreads - 1) / kThreads, 64);
  STD_TORCH_CHECK(a.n * blocks < (int64_t(1) << 31), "too many images: ", a.n);
  const size_t bytes = 2 * (a.k + 3) * sizeof(T);
  warp_backward_kernel<S, T><<<unsigned(a.n * blocks), kThreads, bytes, stream_of(image)>>>(
      a, source_of<S>(image, a.padding), grad.const_data_ptr<S>(), grad_image.mutable_data_ptr<T>(),
      grad_coefficients.mutable_data_ptr<T>(), int32_t(blocks));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor tps_warp_cuda(const Tensor& image_, const Tensor& nodes_, const Tensor& frame_,
                     const Tensor& coefficients_, int64_t padding) {
  check_spline(image_, nodes_, frame_, coefficients_);
  const torch::stable::accelerator::DeviceGuard guard(image_.get_device_index());
  const Tensor image = with_near_pixels(image_), nodes = in_pairs(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = in_pairs(coefficients_);
  Tensor out =
      torch::stable::new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)});
  if (out.numel() == 0) return out;
  GUISE_DISPATCH(image.scalar_type(), "tps_warp", {
    warp<scalar_t>(
        image, spline_args<compute_t<scalar_t>>(image, nodes, frame, coefficients, padding), out);
  });
  return out;
}

std::tuple<Tensor, Tensor> tps_warp_backward_cuda(const Tensor& grad_, const Tensor& image_,
                                                  const Tensor& nodes_, const Tensor& frame_,
                                                  const Tensor& coefficients_, int64_t padding) {
  check_spline_grad(grad_, image_, nodes_, frame_, coefficients_);
  const torch::stable::accelerator::DeviceGuard guard(image_.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_), image = with_near_pixels(image_);
  const Tensor nodes = in_pairs(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = in_pairs(coefficients_);
  const auto type = image.scalar_type();
  Tensor for_image = torch::stable::new_zeros(
      image, {image.size(0), image.size(1), image.size(2), image.size(3)}, compute_type(type));
  Tensor for_coefficients =
      torch::stable::new_zeros(coefficients, {coefficients.size(0), coefficients.size(1), 2});
  GUISE_DISPATCH(type, "tps_warp_backward", {
    backward<scalar_t>(image,
                       spline_args<compute_t<scalar_t>>(image, nodes, frame, coefficients, padding),
                       grad, for_image, for_coefficients);
  });
  if (type != for_image.scalar_type()) for_image = torch::stable::to(for_image, type);
  return {for_image, for_coefficients};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CUDA, m) {
  m.impl("tps_warp", TORCH_BOX(&guise::tps_warp_cuda));
  m.impl("tps_warp_backward", TORCH_BOX(&guise::tps_warp_backward_cuda));
}
