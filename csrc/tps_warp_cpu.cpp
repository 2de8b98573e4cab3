#include "spline_cpu.h"

namespace guise {
namespace {

// Images that share nodes are warped a few at a time: as many as the cache holds.
constexpr int64_t kCacheBytes = 768 * 1024;

template <class S, class T = compute_t<S>>
void warp(const Image<S>& image, const SplineArgs<T>& a, S* out) {
  const int64_t size = groups_of(a.c) * Plane<T>(a.h, a.w, a.padding).size();
  const int64_t fit = std::max<int64_t>(1, kCacheBytes / (size * int64_t(sizeof(T))));
  const auto body = [&](int64_t first, int64_t count, const T* planes, int64_t lo, int64_t hi) {
    SplineChunk<T> chunk(a);
    alignas(64) Rows<T> values;
    for (int64_t y = lo; y < hi; ++y)
      for (int64_t x = 0; x < a.w; x += kChunk) {
        chunk.move(first / a.share, y, x);
        for (int64_t i = 0; i < count; ++i) {
          chunk.place(first + i);
          for (int64_t c = 0; c < a.c; c += kLanes) {
            read(chunk.plane, planes + i * size + c / kLanes * chunk.plane.size(), chunk.taps,
                 chunk.n, values);
            put(values, chunk.n, std::min<int64_t>(kLanes, a.c - c), a.h * a.w,
                out + (((first + i) * a.c + c) * a.h + y) * a.w + x);
          }
        }
      }
  };
  for_each_packed(image, a.padding, a.h, a.w, a.share == a.n ? fit : 1, body);
}

Tensor tps_warp_cpu(const Tensor& image, const Tensor& nodes_, const Tensor& frame_,
                    const Tensor& coefficients_, int64_t padding) {
  check_spline(image, nodes_, frame_, coefficients_);
  const Tensor nodes = torch::stable::contiguous(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = torch::stable::contiguous(coefficients_);
  Tensor out =
      torch::stable::new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)});
  if (out.numel() == 0) return out;
  GUISE_DISPATCH(image.scalar_type(), "tps_warp", {
    const auto a = spline_args<compute_t<scalar_t>>(image, nodes, frame, coefficients, padding);
    warp(image_of<scalar_t>(image), a, out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) { m.impl("tps_warp", TORCH_BOX(&guise::tps_warp_cpu)); }
