#include "uv/uv_cpu.h"

namespace guise {
namespace {

template <bool kLow, bool kMask, class T>
void finish(const Chunk<T>& chunk, int n, int lane, int64_t at, T* out) {
  for (int k = 0; k < n; ++k) {
    T value = chunk.values[lane][k];
    if (kLow) value += chunk.a.low_frequency[at + k];
    out[at + k] = kMask ? uv_blend(value, chunk.mask[k], chunk.a.background) : value;
  }
}

template <class T>
void sample(const Image<T>& textures, const UvArgs<T, T>& a, T* out) {
  const bool low = a.low_frequency, mask = a.mask;
  const auto put = low    ? mask ? finish<true, true, T> : finish<true, false, T>
                   : mask ? finish<false, true, T>
                          : finish<false, false, T>;
  const auto body = [&](int64_t m, int64_t, const T* pixels, int64_t lo, int64_t hi) {
    Chunk<T> chunk(a);
    for (int64_t row = lo; row < hi; ++row) {
      const int64_t i = m * a.share + row / a.h, y = row % a.h;
      for (int64_t x = 0; x < a.w; x += kChunk) {
        const int n = int(std::min<int64_t>(kChunk, a.w - x));
        chunk.place(i, y, x, n);
        for (int64_t c = 0; c < a.c; ++c) {
          const T* plane = pixels + c / kLanes * chunk.plane.size();
          if (c % kLanes == 0) read(chunk.plane, plane, chunk.taps, n, chunk.values);
          put(chunk, n, int(c % kLanes), ((i * a.c + c) * a.h + y) * a.w + x, out);
        }
      }
    }
  };
  for_each_packed(textures, a.padding, a.share * a.h, a.w, 1, body);
}

Tensor uv_sample_cpu(const Tensor& texture_, const Tensor& delta_,
                     const MaybeTensor& low_frequency_, const MaybeTensor& mask_, double background,
                     int64_t padding) {
  check_uv(texture_, delta_, low_frequency_, mask_);
  const Tensor texture = computed(texture_);
  const Tensor delta = torch::stable::contiguous(computed(delta_));
  const MaybeTensor low_frequency = computed(low_frequency_), mask = computed(mask_);
  const Tensor image = torch::stable::new_empty(
      texture, {delta.size(0), texture.size(1), delta.size(2), delta.size(3)});
  if (image.numel() > 0) {
    GUISE_DISPATCH(texture.scalar_type(), "uv_sample", {
      const auto a = uv_args<scalar_t>(texture, delta, low_frequency, mask, background, padding);
      sample(image_of<scalar_t>(texture), a, image.mutable_data_ptr<scalar_t>());
    });
  }
  return as_type(image, texture_.scalar_type());
}

// Writes the gradients at one chunk of pixels and adds to the gradient of the texture.
template <class T>
void spread(Chunk<T>& chunk, const UvGrads<T>& grads, const T* pixels, T* sum, int64_t i, int64_t y,
            int64_t x, int n) {
  const UvArgs<T, T>& a = chunk.a;
  const int64_t area = a.h * a.w, at = y * a.w + x;
  alignas(64) Rows<T> grad = {};
  alignas(64) Tile<T> tile;
  alignas(64) T dx[kChunk] = {}, dy[kChunk] = {}, shown[kChunk] = {};
  chunk.place(i, y, x, n);
  for (int64_t c = 0; c < a.c; c += kLanes) {
    const int64_t from = (i * a.c + c) * area + at, group = c / kLanes * chunk.plane.size();
    const int lanes = int(std::min<int64_t>(kLanes, a.c - c));
    get(grads.image + from, n, lanes, area, grad);
    if (a.mask) {
      read(chunk.plane, pixels + group, chunk.taps, n, chunk.values);
      for (int l = 0; l < lanes; ++l) {
        if (a.low_frequency)
          for (int k = 0; k < n; ++k) chunk.values[l][k] += a.low_frequency[from + l * area + k];
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
  T* delta = grads.delta + 2 * i * area + at;
  for (int k = 0; k < n; ++k) {
    delta[k] = dx[k] * a.x.reach * slope_at(chunk.x[k], chunk.plane.x);
    delta[area + k] = dy[k] * a.y.reach * slope_at(chunk.y[k], chunk.plane.y);
  }
  if (grads.mask) std::copy_n(shown, n, grads.mask + i * area + at);
}

// One thread sums the gradient of a texture, in order: the same sum every time.
template <class T>
void backward(const Image<T>& textures, const UvArgs<T, T>& a, const UvGrads<T>& grads) {
  torch::stable::parallel_for(0, textures.n, 1, [&](int64_t lo, int64_t hi) {
    Chunk<T> chunk(a);
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

FourTensors uv_sample_backward_cpu(const Tensor& grad_, const Tensor& texture_,
                                   const Tensor& delta_, const MaybeTensor& low_frequency_,
                                   const MaybeTensor& mask_, double background, int64_t padding) {
  check_uv(texture_, delta_, low_frequency_, mask_);
  check_uv_grad(grad_, texture_, delta_);
  const Tensor grad = torch::stable::contiguous(computed(grad_)), texture = computed(texture_);
  const Tensor delta = torch::stable::contiguous(computed(delta_));
  const MaybeTensor low_frequency = computed(low_frequency_), mask = computed(mask_);
  Tensor for_texture = empty_as(texture), for_delta = empty_as(delta);
  Tensor for_low = empty_as(low_frequency, texture), for_mask = empty_as(mask, texture);
  GUISE_DISPATCH(texture.scalar_type(), "uv_sample_backward", {
    const auto a = uv_args<scalar_t>(texture, delta, low_frequency, mask, background, padding);
    const auto grads = uv_grads<scalar_t>(grad, for_texture, for_delta, for_low, for_mask);
    backward(image_of<scalar_t>(texture), a, grads);
  });
  const auto type = texture_.scalar_type();
  return {as_type(for_texture, type), as_type(for_delta, type), as_type(for_low, type),
          as_type(for_mask, type)};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("uv_sample", TORCH_BOX(&guise::uv_sample_cpu));
  m.impl("uv_sample_backward", TORCH_BOX(&guise::uv_sample_backward_cpu));
}
