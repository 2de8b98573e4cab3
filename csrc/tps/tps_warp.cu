// Forward reads the image, mostly through L2, and writes it in 16-byte stores. 16 x 3 x 128 x 128
// float32 is 3.1 MB each way, at least 2 us at 3 TB/s. The logarithms of the spline take longer: 25
// points and 3 channels are about 1060 instructions a pixel, 9 us of an H100 (benchmarks/sass.py).
// Backward reads two images, writes one, and needs twelve atomic adds a pixel and 2 (K + 3) sums a
// block. Not yet measured on a GPU.
#include "core/sampler.cuh"
#include "tps/spline_args.h"

namespace guise {
namespace {

// Moves V pixels of image n to the positions that they read. One loop over the nodes serves all V.
template <int V, class T>
__device__ __forceinline__ void place(const SplineArgs<T>& a, int64_t n, T (&x)[V], T (&y)[V]) {
  const int64_t m = n / a.share;
  const int k = int(a.k);
  const T* c = a.coefficients + n * (a.k + 3) * 2;
  const T* node = a.nodes + m * a.k * 2;
  T u[V], v[V], dx[V] = {}, dy[V] = {};
#pragma unroll
  for (int i = 0; i < V; ++i) u[i] = a.across(m, x[i]), v[i] = a.down(m, y[i]);
#pragma unroll 1
  for (int j = 0; j < k; ++j, node += 2, c += 2) {
    const T nx = node[0], ny = node[1], cx = c[0], cy = c[1];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const T b = radial((u[i] - nx) * (u[i] - nx) + (v[i] - ny) * (v[i] - ny));
      dx[i] += b * cx, dy[i] += b * cy;
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    x[i] += dx[i] + (c[0] + u[i] * c[2] + v[i] * c[4]);
    y[i] += dy[i] + (c[1] + u[i] * c[3] + v[i] * c[5]);
  }
}

template <int V, class S, class T>
__global__ void __launch_bounds__(kThreads) warp_kernel(SplineArgs<T> a, Image<S> image, S* out) {
  const int64_t area = a.h * a.w, packs = area / V, total = a.n * packs;
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < total; j += step) {
    const int64_t n = j / packs, first = (j - n * packs) * V;
    T x[V], y[V];
    positions_of<V>(uint32_t(first), a.w, x, y);
    place<V>(a, n, x, y);
    Taps<T> taps[V];
#pragma unroll
    for (int i = 0; i < V; ++i) taps[i] = Taps<T>(x[i], y[i], a.h, a.w, a.padding);
#pragma unroll 1
    for (int64_t c = 0; c < a.c; ++c) {
      const S* from = image.data + n * image.sn + c * image.sc;
      Pack<S, V> result;
#pragma unroll
      for (int i = 0; i < V; ++i) result.v[i] = S(taps[i].read(from, image.sy, image.sx));
      *reinterpret_cast<Pack<S, V>*>(out + (n * a.c + c) * area + first) = result;
    }
  }
}

// A block works on one image and sums its gradients of the coefficients in shared memory.
template <class S, class T>
__global__ void __launch_bounds__(kThreads)
    warp_backward_kernel(SplineArgs<T> a, Image<S> image, const S* grad, T* grad_image,
                         T* grad_coefficients, int64_t blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  T* sums = reinterpret_cast<T*>(memory);
  const int64_t area = a.h * a.w, n = blockIdx.x / blocks, m = n / a.share, terms = a.k + 3;
  for (int64_t j = threadIdx.x; j < 2 * terms; j += blockDim.x) sums[j] = 0;
  __syncthreads();
  for (int64_t base = blockIdx.x % blocks * blockDim.x; base < area; base += blocks * blockDim.x) {
    const int64_t pixel = base + threadIdx.x;
    T px, py;
    position_of(uint32_t(pixel), a.w, px, py);
    T dx = 0, dy = 0;
    if (pixel < area) {
      T x[1] = {px}, y[1] = {py};
      place<1>(a, n, x, y);
      const Taps<T> taps(x[0], y[0], a.h, a.w, a.padding);
      for (int64_t c = 0; c < a.c; ++c) {
        T q[4], qx, qy;
        taps.values(image.data + n * image.sn + c * image.sc, image.sy, image.sx, q);
        taps.slopes(q, qx, qy);
        const T g = T(grad[(n * a.c + c) * area + pixel]);
        dx += g * qx, dy += g * qy;
        taps.add(grad_image + (n * a.c + c) * area, a.w, g);
      }
    }
    for (int64_t j = 0; j < terms; ++j) {  // whole warps, with 0 beyond the last pixel
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
  for (int64_t j = threadIdx.x; j < 2 * terms; j += blockDim.x)
    atomicAdd(grad_coefficients + n * 2 * terms + j, sums[j]);
}

template <class S, class T = compute_t<S>>
void warp(const Tensor& image, const SplineArgs<T>& a, Tensor& warped) {
  constexpr int V = kPixels<S>;
  S* out = warped.mutable_data_ptr<S>();
  const int64_t area = a.h * a.w;
  if (aligned(area, V, out)) {
    launch(warp_kernel<V, S, T>, a.n * (area / V), image, a, image_of<S>(image), out);
  } else {
    launch(warp_kernel<1, S, T>, a.n * area, image, a, image_of<S>(image), out);
  }
}

template <class S, class T = compute_t<S>>
void backward(const Tensor& image, const SplineArgs<T>& a, const Tensor& grad, Tensor& grad_image,
              Tensor& grad_coefficients) {
  if (a.n == 0) return;
  const int64_t blocks = std::min<int64_t>((a.h * a.w + kThreads - 1) / kThreads, 64);
  STD_TORCH_CHECK(a.n * blocks < (int64_t(1) << 31), "too many images: ", a.n);
  const size_t bytes = 2 * (a.k + 3) * sizeof(T);
  warp_backward_kernel<S, T><<<unsigned(a.n * blocks), kThreads, bytes, stream_of(image)>>>(
      a, image_of<S>(image), grad.const_data_ptr<S>(), grad_image.mutable_data_ptr<T>(),
      grad_coefficients.mutable_data_ptr<T>(), blocks);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor tps_warp_cuda(const Tensor& image, const Tensor& nodes_, const Tensor& frame_,
                     const Tensor& coefficients_, int64_t padding) {
  check_spline(image, nodes_, frame_, coefficients_);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const Tensor nodes = torch::stable::contiguous(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = torch::stable::contiguous(coefficients_);
  Tensor out =
      torch::stable::new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)});
  if (out.numel() == 0) return out;
  GUISE_DISPATCH(image.scalar_type(), "tps_warp", {
    warp<scalar_t>(
        image, spline_args<compute_t<scalar_t>>(image, nodes, frame, coefficients, padding), out);
  });
  return out;
}

std::tuple<Tensor, Tensor> tps_warp_backward_cuda(const Tensor& grad_, const Tensor& image,
                                                  const Tensor& nodes_, const Tensor& frame_,
                                                  const Tensor& coefficients_, int64_t padding) {
  check_spline_grad(grad_, image, nodes_, frame_, coefficients_);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_), nodes = torch::stable::contiguous(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = torch::stable::contiguous(coefficients_);
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
