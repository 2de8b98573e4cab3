#include "spline_cpu.h"

namespace guise {
namespace {

// One image's gradients are summed by one thread, in order: the same sums every time.
template <class S, class T = compute_t<S>>
void backward(const Image<S>& image, const SplineArgs<T>& a, const S* grad, S* grad_image,
              T* grad_coefficients) {
  torch::stable::parallel_for(0, a.n, 1, [&](int64_t lo, int64_t hi) {
    SplineChunk<T> chunk(a);
    alignas(64) Rows<T> rows = {};
    alignas(64) Tile<T> tile;
    const int64_t plane = chunk.plane.size(), size = groups_of(a.c) * plane;
    std::unique_ptr<T[]> pixels(new T[size]), sum(new T[size]);
    std::vector<double> sums(2 * (a.k + 3));
    for (int64_t n = lo; n < hi; ++n) {
      pack_image(image, a.padding, n, pixels.get());
      std::fill_n(sum.get(), size, T(0));
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t y = 0; y < a.h; ++y)
        for (int64_t x = 0; x < a.w; x += kChunk) {
          chunk.move(n / a.share, y, x);
          chunk.place(n);
          alignas(64) T dx[kChunk] = {}, dy[kChunk] = {};
          for (int64_t c = 0; c < a.c; c += kLanes) {
            get(grad + ((n * a.c + c) * a.h + y) * a.w + x, chunk.n,
                std::min<int64_t>(kLanes, a.c - c), a.h * a.w, rows);
            to_tile<T>(rows, tile);
            add(chunk.plane, sum.get() + c / kLanes * plane, chunk.taps, chunk.n, tile);
            slope(chunk.plane, pixels.get() + c / kLanes * plane, chunk.taps, chunk.n, tile, dx,
                  dy);
          }
          for (int i = 0; i < kChunk; ++i) {
            dx[i] = i < chunk.n ? dx[i] * slope_at(chunk.x[i], chunk.plane.x) : T(0);
            dy[i] = i < chunk.n ? dy[i] * slope_at(chunk.y[i], chunk.plane.y) : T(0);
          }
          for (int64_t j = 0; j < a.k + 3; ++j) {
            const T* b = chunk.basis.data() + j * kChunk;
            T sx = 0, sy = 0;
#pragma omp simd reduction(+ : sx, sy)
            for (int i = 0; i < kChunk; ++i) sx += b[i] * dx[i], sy += b[i] * dy[i];
            sums[2 * j] += sx, sums[2 * j + 1] += sy;
          }
        }
      unpack(chunk.plane, sum.get(), a.c, grad_image + n * a.c * a.h * a.w);
      for (size_t j = 0; j < sums.size(); ++j) grad_coefficients[n * sums.size() + j] = T(sums[j]);
    }
  });
}

std::tuple<Tensor, Tensor> tps_warp_backward_cpu(const Tensor& grad_, const Tensor& image,
                                                 const Tensor& nodes_, const Tensor& frame_,
                                                 const Tensor& coefficients_, int64_t padding) {
  check_spline_grad(grad_, image, nodes_, frame_, coefficients_);
  const Tensor grad = torch::stable::contiguous(grad_), nodes = torch::stable::contiguous(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = torch::stable::contiguous(coefficients_);
  Tensor for_image =
      torch::stable::new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)});
  Tensor for_coefficients = torch::stable::empty_like(coefficients);
  GUISE_DISPATCH(image.scalar_type(), "tps_warp_backward", {
    using T = compute_t<scalar_t>;
    backward(image_of<scalar_t>(image), spline_args<T>(image, nodes, frame, coefficients, padding),
             grad.const_data_ptr<scalar_t>(), for_image.mutable_data_ptr<scalar_t>(),
             for_coefficients.mutable_data_ptr<T>());
  });
  return {for_image, for_coefficients};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("tps_warp_backward", TORCH_BOX(&guise::tps_warp_backward_cpu));
}
