#include "uv_cpu.h"

namespace guise {
namespace {

// The gradients at one chunk of pixels, and what they add to the texture's.
template <class S, class T>
void spread(Chunk<S, T>& chunk, const UvGrads<S>& grads, const T* pixels, T* sum, int64_t i,
            int64_t y, int64_t x, int n) {
  const UvArgs<S, T>& a = chunk.a;
  const int64_t area = a.h * a.w, at = y * a.w + x;
  alignas(64) Rows<T> grad = {};
  alignas(64) Tile<T> tile;
  alignas(64) T dx[kChunk] = {}, dy[kChunk] = {}, shown[kChunk] = {};
  chunk.place(i, y, x, n);
  for (int64_t c = 0; c < a.c; c += kLanes) {
    const int64_t from = (i * a.c + c) * area + at, group = c / kLanes * chunk.plane.size();
    const int lanes = int(std::min<int64_t>(kLanes, a.c - c));
    get(grads.picture + from, n, lanes, area, grad);
    if (a.mask) {
      read(chunk.plane, pixels + group, chunk.taps, n, chunk.values);
      for (int l = 0; l < lanes; ++l) {
        if (a.low_frequency)
          for (int k = 0; k < n; ++k) chunk.values[l][k] += T(a.low_frequency[from + l * area + k]);
        for (int k = 0; k < n; ++k) {
          shown[k] += grad[l][k] * (chunk.values[l][k] - a.background);
          grad[l][k] *= chunk.mask[k];
        }
      }
    }
    if (grads.low_frequency) put(grad, n, lanes, area, grads.low_frequency + from);
    to_tile<T>(grad, tile);
    add(chunk.plane, sum + group, chunk.taps, n, tile);
    slope(chunk.plane, pixels + group, chunk.taps, n, tile, dx, dy);
  }
  S* delta = grads.delta + 2 * i * area + at;
  for (int k = 0; k < n; ++k) {
    delta[k] = S(dx[k] * a.x.reach * slope_at(chunk.x[k], chunk.plane.x));
    delta[area + k] = S(dy[k] * a.y.reach * slope_at(chunk.y[k], chunk.plane.y));
  }
  if (grads.mask)
    for (int k = 0; k < n; ++k) grads.mask[i * area + at + k] = S(shown[k]);
}

// One texture's gradient is summed by one thread, in order: the same sum every time.
template <class S, class T = compute_t<S>>
void backward(const Image<S>& textures, const UvArgs<S, T>& a, const UvGrads<S>& grads) {
  torch::stable::parallel_for(0, textures.n, 1, [&](int64_t lo, int64_t hi) {
    Chunk<S, T> chunk(a);
    const int64_t size = groups_of(a.c) * chunk.plane.size();
    std::unique_ptr<T[]> pixels(new T[size]), sum(new T[size]);
    for (int64_t m = lo; m < hi; ++m) {
      pack_image(textures, a.padding, m, pixels.get());
      std::fill_n(sum.get(), size, T(0));
      for (int64_t row = m * a.share * a.h; row < (m + 1) * a.share * a.h; ++row)
        for (int64_t x = 0; x < a.w; x += kChunk)
          spread(chunk, grads, pixels.get(), sum.get(), row / a.h, row % a.h, x,
                 int(std::min<int64_t>(kChunk, a.w - x)));
      unpack(chunk.plane, sum.get(), a.c, grads.texture + m * a.c * a.high * a.wide);
    }
  });
}

FourTensors uv_sample_backward_cpu(const Tensor& grad_, const Tensor& texture, const Tensor& delta_,
                                   const MaybeTensor& low_frequency_, const MaybeTensor& mask_,
                                   double background, int64_t padding) {
  check_uv(texture, delta_, low_frequency_, mask_);
  check_uv_grad(grad_, texture, delta_);
  const Tensor grad = torch::stable::contiguous(grad_), delta = torch::stable::contiguous(delta_);
  const MaybeTensor low_frequency = contiguous(low_frequency_), mask = contiguous(mask_);
  Tensor for_texture = empty_as(texture), for_delta = empty_as(delta);
  Tensor for_low = empty_as(low_frequency, texture), for_mask = empty_as(mask, texture);
  GUISE_DISPATCH(texture.scalar_type(), "uv_sample_backward", {
    const auto a = uv_args<scalar_t>(texture, delta, low_frequency, mask, background, padding);
    const auto grads = uv_grads<scalar_t>(grad, for_texture, for_delta, for_low, for_mask);
    backward(image_of<scalar_t>(texture), a, grads);
  });
  return {for_texture, for_delta, for_low, for_mask};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("uv_sample_backward", TORCH_BOX(&guise::uv_sample_backward_cpu));
}
