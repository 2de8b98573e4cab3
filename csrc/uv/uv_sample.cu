// Bytes a pixel, float32, 3 channels. Forward: offsets 8, low-frequency layer 12, mask 4 and result
// 12 in 16-byte accesses, and 12 of the texture through L1 and L2. 8 x 3 x 256 x 256 is 25 MB, at
// least 8 us at 3 TB/s. Backward: reads the same and 12 of grad, writes gradients of 12 + 8 + 4,
// and needs twelve atomic adds. Not yet measured on a GPU.
#include "core/sampler.cuh"
#include "uv/uv_args.h"

namespace guise {
namespace {

template <int V, class S, class T>
__global__ void __launch_bounds__(kThreads) uv_kernel(UvArgs<S, T> a, Image<S> textures, S* out) {
  const int64_t area = a.h * a.w, packs = area / V, total = a.n * packs;
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < total; j += step) {
    const int64_t i = j / packs, first = (j - i * packs) * V;
    const auto dx = load<V>(a.delta + 2 * i * area + first);
    const auto dy = load<V>(a.delta + (2 * i + 1) * area + first);
    Pack<S, V> mask = {};
    if (a.mask) mask = load<V>(a.mask + i * area + first);
    T x[V], y[V];
    positions_of<V>(uint32_t(first), a.w, x, y);
    Taps<T> taps[V];
#pragma unroll
    for (int k = 0; k < V; ++k)
      taps[k] =
          Taps<T>(a.x.at(x[k], T(dx.v[k])), a.y.at(y[k], T(dy.v[k])), a.high, a.wide, a.padding);
#pragma unroll 1
    for (int64_t c = 0; c < a.c; ++c) {
      const S* texture = textures.data + i / a.share * textures.sn + c * textures.sc;
      const int64_t at = (i * a.c + c) * area + first;
      Pack<S, V> low = {}, result;
      if (a.low_frequency) low = load<V>(a.low_frequency + at);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const T value = taps[k].read(texture, textures.sy, textures.sx) + T(low.v[k]);
        result.v[k] = S(a.mask ? uv_blend(value, T(mask.v[k]), a.background) : value);
      }
      *reinterpret_cast<Pack<S, V>*>(out + at) = result;
    }
  }
}

template <class S, class T>
__global__ void __launch_bounds__(kThreads)
    uv_backward_kernel(UvArgs<S, T> a, Image<S> textures, UvGrads<S> grads, T* sum) {
  const int64_t area = a.h * a.w, total = a.n * area;
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < total; j += step) {
    const int64_t i = j / area, pixel = j - i * area;
    const S* delta = a.delta + 2 * i * area + pixel;
    T x, y;
    position_of(uint32_t(pixel), a.w, x, y);
    const Taps<T> taps(a.x.at(x, T(delta[0])), a.y.at(y, T(delta[area])), a.high, a.wide,
                       a.padding);
    const T mask = a.mask ? T(a.mask[i * area + pixel]) : T(1);
    T dx = 0, dy = 0, shown = 0;
    for (int64_t c = 0; c < a.c; ++c) {
      const int64_t at = (i * a.c + c) * area + pixel, plane = i / a.share * a.c + c;
      const S* texture = textures.data + i / a.share * textures.sn + c * textures.sc;
      T q[4], qx, qy;
      taps.values(texture, textures.sy, textures.sx, q);
      taps.slopes(q, qx, qy);
      const T whole = T(grads.image[at]), grad = whole * mask;
      const T low = a.low_frequency ? T(a.low_frequency[at]) : T(0);
      shown += whole * (taps.blend(q) + low - a.background);
      dx += grad * qx, dy += grad * qy;
      if (grads.low_frequency) grads.low_frequency[at] = S(grad);
      taps.add(sum + plane * a.high * a.wide, a.wide, grad);
    }
    grads.delta[2 * i * area + pixel] = S(dx * a.x.reach);
    grads.delta[(2 * i + 1) * area + pixel] = S(dy * a.y.reach);
    if (grads.mask) grads.mask[i * area + pixel] = S(shown);
  }
}

template <class S, class T = compute_t<S>>
void sample(const Tensor& texture, const UvArgs<S, T>& a, Tensor& image) {
  constexpr int V = kPixels<S>;
  S* out = image.mutable_data_ptr<S>();
  const Image<S> from = image_of<S>(texture);
  const int64_t area = a.h * a.w;
  if (aligned(area, V, out, a.delta, a.low_frequency, a.mask)) {
    launch(uv_kernel<V, S, T>, a.n * (area / V), texture, a, from, out);
  } else {
    launch(uv_kernel<1, S, T>, a.n * area, texture, a, from, out);
  }
}

template <class S, class T = compute_t<S>>
void backward(const Tensor& texture, const UvArgs<S, T>& a, const UvGrads<S>& grads, Tensor& sum) {
  if (a.n * a.h * a.w == 0) return;
  launch(uv_backward_kernel<S, T>, a.n * a.h * a.w, texture, a, image_of<S>(texture), grads,
         sum.mutable_data_ptr<T>());
}

Tensor uv_sample_cuda(const Tensor& texture, const Tensor& delta_,
                      const MaybeTensor& low_frequency_, const MaybeTensor& mask_,
                      double background, int64_t padding) {
  check_uv(texture, delta_, low_frequency_, mask_);
  const torch::stable::accelerator::DeviceGuard guard(texture.get_device_index());
  const Tensor delta = torch::stable::contiguous(delta_);
  const MaybeTensor low_frequency = contiguous(low_frequency_), mask = contiguous(mask_);
  Tensor image = torch::stable::new_empty(
      texture, {delta.size(0), texture.size(1), delta.size(2), delta.size(3)});
  if (image.numel() == 0) return image;
  GUISE_DISPATCH(texture.scalar_type(), "uv_sample", {
    sample<scalar_t>(texture,
                     uv_args<scalar_t>(texture, delta, low_frequency, mask, background, padding),
                     image);
  });
  return image;
}

FourTensors uv_sample_backward_cuda(const Tensor& grad_, const Tensor& texture,
                                    const Tensor& delta_, const MaybeTensor& low_frequency_,
                                    const MaybeTensor& mask_, double background, int64_t padding) {
  check_uv(texture, delta_, low_frequency_, mask_);
  check_uv_grad(grad_, texture, delta_);
  const torch::stable::accelerator::DeviceGuard guard(texture.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_), delta = torch::stable::contiguous(delta_);
  const MaybeTensor low_frequency = contiguous(low_frequency_), mask = contiguous(mask_);
  const auto type = texture.scalar_type();
  Tensor sum = torch::stable::new_zeros(
      texture, {texture.size(0), texture.size(1), texture.size(2), texture.size(3)},
      compute_type(type));
  Tensor for_delta = empty_as(delta), none = torch::stable::new_empty(texture, {0});
  Tensor for_low = empty_as(low_frequency, texture), for_mask = empty_as(mask, texture);
  GUISE_DISPATCH(type, "uv_sample_backward", {
    backward<scalar_t>(texture,
                       uv_args<scalar_t>(texture, delta, low_frequency, mask, background, padding),
                       uv_grads<scalar_t>(grad, none, for_delta, for_low, for_mask), sum);
  });
  if (type != sum.scalar_type()) sum = torch::stable::to(sum, type);
  return {sum, for_delta, for_low, for_mask};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CUDA, m) {
  m.impl("uv_sample", TORCH_BOX(&guise::uv_sample_cuda));
  m.impl("uv_sample_backward", TORCH_BOX(&guise::uv_sample_backward_cuda));
}
