// Bytes a pixel, float32, 3 channels. Forward: offsets 8, low-frequency layer 12, mask 4 and result
// 12 in 16-byte accesses, and 12 of the texture through L1 and L2. 8 x 3 x 256 x 256 is 25 MB, at
// least 8 us at 3 TB/s. Backward: reads the same and 12 of grad, writes gradients of 12 + 8 + 4,
// and needs twelve atomic adds. Not yet measured on a GPU.
#include "core/sampler.cuh"
#include "uv/uv_args.h"

namespace guise {
namespace {

// Within 64 registers, or 128 of a 16-bit pack. Fewer would cost a tenth more instructions.
// Packs of 16 bits have 128 registers. With the 85 of 3 blocks they take 4 % more instructions.
template <int V, class S, class T>
__global__ void __launch_bounds__(kThreads, V > 4 ? 2 : 4)
    uv_kernel(UvArgs<S, T> a, Source<S, T> textures, Packs<V> packs, Divider share, S* out) {
  const uint32_t area = a.h * a.w, step = gridDim.x * kThreads;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < packs.total; i += step) {
    const Pixels pixels = packs.at(i);
    const S* delta = a.delta + int64_t(pixels.plane) * area * 2 + pixels.offset;
    T x[V], y[V], mask[V], rest[V];
    widen(load<V>(delta), x), widen(load<V>(delta + area), y);
    Taps<V, T, (V > 1)> taps;
#pragma unroll
    for (int k = 0; k < V; ++k)
      taps.set(k, a.x.at(T(pixels.x + k), x[k]), a.y.at(T(pixels.y), y[k]), textures);
#pragma unroll
    for (int k = 0; k < V; ++k) mask[k] = 1;
    if (a.mask) widen(load<V>(a.mask + int64_t(pixels.plane) * area + pixels.offset), mask);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      rest[k] = a.background * (1 - mask[k]);
      keep(mask[k]), keep(rest[k]);
    }
    const S* from = textures.plane(share.divide(pixels.plane));
    int64_t at = pixels.plane * (a.c * area) + pixels.offset;
#pragma unroll 1
    for (int c = 0; c < int(a.c); ++c, from += textures.channel, at += area) {
      Pack<S, V> pack = {};
      if (a.low_frequency) pack = load<V>(a.low_frequency + at);
      keep(pack);
      T low[V], value[V];
      widen(pack, low);
      taps.read(from, textures, value);
#pragma unroll
      for (int k = 0; k < V; ++k) value[k] = (value[k] + low[k]) * mask[k] + rest[k];
      store(out + at, narrow<S>(value));
    }
  }
}

template <class S, class T>
__global__ void __launch_bounds__(kThreads)
    uv_backward_kernel(UvArgs<S, T> a, Source<S, T> textures, Packs<1> packs, Divider share,
                       UvGrads<S> grads, T* sum) {
  const uint32_t area = a.h * a.w, size = textures.h * textures.w, step = gridDim.x * kThreads;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < packs.total; i += step) {
    const Pixels pixel = packs.at(i);
    const int64_t whole = int64_t(pixel.plane) * area + pixel.offset;  // of all images
    const int64_t along = whole + int64_t(pixel.plane) * area;         // of all offsets
    const uint32_t texture = share.divide(pixel.plane);
    const GradientTaps<T> taps(a.x.at(T(pixel.x), T(a.delta[along])),
                               a.y.at(T(pixel.y), T(a.delta[along + area])), textures);
    const T mask = a.mask ? T(a.mask[whole]) : T(1);
    const S* from = textures.plane(texture);
    T* to = sum + texture * (a.c * size);
    int64_t at = pixel.plane * (a.c * area) + pixel.offset;
    T dx = 0, dy = 0, shown = 0;
#pragma unroll 1
    for (int c = 0; c < int(a.c); ++c, from += textures.channel, to += size, at += area) {
      T q[4], qx, qy;
      taps.values(0, Corners<S>(from, textures), q);
      taps.slopes(q, qx, qy);
      const T by = T(grads.image[at]), grad = by * mask;
      const T low = a.low_frequency ? T(a.low_frequency[at]) : T(0);
      shown += by * (taps.blend(0, q) + low - a.background);
      dx += grad * qx, dy += grad * qy;
      if (grads.low_frequency) grads.low_frequency[at] = S(grad);
      taps.add(to, textures.w, grad);
    }
    grads.delta[along] = S(dx * a.x.reach);
    grads.delta[along + area] = S(dy * a.y.reach);
    if (grads.mask) grads.mask[whole] = S(shown);
  }
}

template <class S, class T = compute_t<S>>
void sample(const Tensor& texture, const UvArgs<S, T>& a, Tensor& image) {
  S* out = image.mutable_data_ptr<S>();
  const auto from = source_of<S>(texture, a.padding);
  const bool wide =
      aligned(a.w, kWide<S>, out, a.delta, a.low_frequency, a.mask) && from.has_dense_rows();
  for_each_part<kWide<S>>(a.n, a.h, a.w, wide, [&](auto packs) {
    launch(uv_kernel<packs.width, S, T>, packs.total, texture, a, from, packs, Divider(a.share),
           out);
  });
}

template <class S, class T = compute_t<S>>
void backward(const Tensor& texture, const UvArgs<S, T>& a, const UvGrads<S>& grads, Tensor& sum) {
  const auto from = source_of<S>(texture, a.padding);
  for_each_part<1>(a.n, a.h, a.w, true, [&](auto packs) {
    launch(uv_backward_kernel<S, T>, packs.total, texture, a, from, packs, Divider(a.share), grads,
           sum.mutable_data_ptr<T>());
  });
}

Tensor uv_sample_cuda(const Tensor& texture_, const Tensor& delta_,
                      const MaybeTensor& low_frequency_, const MaybeTensor& mask_,
                      double background, int64_t padding) {
  check_uv(texture_, delta_, low_frequency_, mask_);
  const torch::stable::accelerator::DeviceGuard guard(texture_.get_device_index());
  const Tensor texture = with_near_pixels(texture_), delta = torch::stable::contiguous(delta_);
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

FourTensors uv_sample_backward_cuda(const Tensor& grad_, const Tensor& texture_,
                                    const Tensor& delta_, const MaybeTensor& low_frequency_,
                                    const MaybeTensor& mask_, double background, int64_t padding) {
  check_uv(texture_, delta_, low_frequency_, mask_);
  check_uv_grad(grad_, texture_, delta_);
  const torch::stable::accelerator::DeviceGuard guard(texture_.get_device_index());
  const Tensor texture = with_near_pixels(texture_);
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
