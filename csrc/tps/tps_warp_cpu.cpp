#include "tps/spline_cpu.h"

namespace guise {
namespace {

// Images that share nodes are warped together: the functions of the nodes are evaluated once for
// all of them. Their number is limited by a thread's share of the last-level cache.
constexpr int64_t kCacheBytes = 8 * 1024 * 1024;

template <class T>
void warp(const Image<T>& image, const SplineArgs<T>& a, T* out) {
  const int64_t size = groups_of(a.c) * Plane<T>(a.h, a.w, a.padding).size();
  const int64_t fit = std::max<int64_t>(1, kCacheBytes / (size * int64_t(sizeof(T))));
  const auto body = [&](int64_t first, int64_t count, const T* planes, int64_t lo, int64_t hi) {
    SplineChunk<T> chunk(a);
    Footprints<T> taps[2];
    alignas(64) Rows<T> values;
    for (int64_t y = lo; y < hi; ++y)
      for (int64_t x = 0; x < a.w; x += kChunk) {
        chunk.move(first / a.share, y, x);
        chunk.place(first, taps[0]);
        for (int64_t i = 0; i < count; ++i) {
          if (i + 1 < count) {  // prefetches the next image's pixels while this one's are read
            chunk.place(first + i + 1, taps[(i + 1) % 2]);
            fetch(chunk.plane, planes + (i + 1) * size, taps[(i + 1) % 2], chunk.n);
          }
          for (int64_t c = 0; c < a.c; c += kLanes) {
            read(chunk.plane, planes + i * size + c / kLanes * chunk.plane.size(), taps[i % 2],
                 chunk.n, values);
            put(values, chunk.n, std::min<int64_t>(kLanes, a.c - c), a.h * a.w,
                out + (((first + i) * a.c + c) * a.h + y) * a.w + x);
          }
        }
      }
  };
  for_each_packed(image, a.padding, a.h, a.w, a.share == a.n ? fit : 1, body);
}

Tensor tps_warp_cpu(const Tensor& image_, const Tensor& nodes_, const Tensor& frame_,
                    const Tensor& coefficients_, int64_t padding) {
  check_spline(image_, nodes_, frame_, coefficients_);
  const Tensor image = computed(image_), nodes = torch::stable::contiguous(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = torch::stable::contiguous(coefficients_);
  const Tensor out =
      torch::stable::new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)});
  if (out.numel() > 0) {
    GUISE_DISPATCH(image.scalar_type(), "tps_warp", {
      const auto a = spline_args<scalar_t>(image, nodes, frame, coefficients, padding);
      warp(image_of<scalar_t>(image), a, out.mutable_data_ptr<scalar_t>());
    });
  }
  return as_type(out, image_.scalar_type());
}

// One thread sums the gradients of an image, in order: the same sums every time.
template <class T>
void backward(const Image<T>& image, const SplineArgs<T>& a, const T* grad, T* grad_image,
              T* grad_coefficients) {
  torch::stable::parallel_for(0, a.n, 1, [&](int64_t lo, int64_t hi) {
    SplineChunk<T> chunk(a);
    Footprints<T> taps;
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
          chunk.place(n, taps);
          alignas(64) T dx[kChunk] = {}, dy[kChunk] = {};
          for (int64_t c = 0; c < a.c; c += kLanes) {
            get(grad + ((n * a.c + c) * a.h + y) * a.w + x, chunk.n,
                std::min<int64_t>(kLanes, a.c - c), a.h * a.w, rows);
            to_tile<T>(rows, tile);
            add(chunk.plane, sum.get() + c / kLanes * plane, taps, chunk.n, tile);
            slope(chunk.plane, pixels.get() + c / kLanes * plane, taps, chunk.n, tile, dx, dy);
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

std::tuple<Tensor, Tensor> tps_warp_backward_cpu(const Tensor& grad_, const Tensor& image_,
                                                 const Tensor& nodes_, const Tensor& frame_,
                                                 const Tensor& coefficients_, int64_t padding) {
  check_spline_grad(grad_, image_, nodes_, frame_, coefficients_);
  const Tensor grad = torch::stable::contiguous(computed(grad_)), image = computed(image_);
  const Tensor nodes = torch::stable::contiguous(nodes_);
  const Tensor frame = torch::stable::contiguous(frame_);
  const Tensor coefficients = torch::stable::contiguous(coefficients_);
  const Tensor by_image =
      torch::stable::new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)});
  const Tensor by_coefficients = torch::stable::empty_like(coefficients);
  GUISE_DISPATCH(image.scalar_type(), "tps_warp_backward", {
    backward(image_of<scalar_t>(image),
             spline_args<scalar_t>(image, nodes, frame, coefficients, padding),
             grad.const_data_ptr<scalar_t>(), by_image.mutable_data_ptr<scalar_t>(),
             by_coefficients.mutable_data_ptr<scalar_t>());
  });
  return {as_type(by_image, image_.scalar_type()), by_coefficients};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("tps_warp", TORCH_BOX(&guise::tps_warp_cpu));
  m.impl("tps_warp_backward", TORCH_BOX(&guise::tps_warp_backward_cpu));
}
