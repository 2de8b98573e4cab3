#include "uv_cpu.h"

namespace guise {
namespace {

template <bool kLow, bool kMask, class S, class T>
void finish(const Chunk<S, T>& chunk, int n, int lane, int64_t at, S* out) {
  for (int k = 0; k < n; ++k) {
    T value = chunk.values[lane][k];
    if (kLow) value += T(chunk.a.low_frequency[at + k]);
    out[at + k] = S(kMask ? uv_blend(value, chunk.mask[k], chunk.a.background) : value);
  }
}

template <class S, class T = compute_t<S>>
void sample(const Image<S>& textures, const UvArgs<S, T>& a, S* out) {
  const bool low = a.low_frequency, mask = a.mask;
  const auto put = low    ? mask ? finish<true, true, S, T> : finish<true, false, S, T>
                   : mask ? finish<false, true, S, T>
                          : finish<false, false, S, T>;
  const auto body = [&](int64_t m, int64_t, const T* pixels, int64_t lo, int64_t hi) {
    Chunk<S, T> chunk(a);
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

Tensor uv_sample_cpu(const Tensor& texture, const Tensor& delta_, const MaybeTensor& low_frequency_,
                     const MaybeTensor& mask_, double background, int64_t padding) {
  check_uv(texture, delta_, low_frequency_, mask_);
  const Tensor delta = torch::stable::contiguous(delta_);
  const MaybeTensor low_frequency = contiguous(low_frequency_), mask = contiguous(mask_);
  Tensor picture = torch::stable::new_empty(
      texture, {delta.size(0), texture.size(1), delta.size(2), delta.size(3)});
  if (picture.numel() == 0) return picture;
  GUISE_DISPATCH(texture.scalar_type(), "uv_sample", {
    const auto a = uv_args<scalar_t>(texture, delta, low_frequency, mask, background, padding);
    sample(image_of<scalar_t>(texture), a, picture.mutable_data_ptr<scalar_t>());
  });
  return picture;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) { m.impl("uv_sample", TORCH_BOX(&guise::uv_sample_cpu)); }
