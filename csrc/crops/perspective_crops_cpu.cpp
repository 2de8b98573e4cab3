#include "core/pack.h"
#include "crops/crops_args.h"

namespace guise {
namespace {

// The positions that pixels x to x + n of row y read.
template <class T>
void positions(const Homography<T>& view, int64_t y, int64_t x, int n, T* u, T* v) {
#pragma omp simd
  for (int i = 0; i < n; ++i) view.at(T(x + i), T(y), u[i], v[i]);
}

template <class T>
void crop(const Image<T>& image, const CropsArgs<T, T>& a, T fill, T* to) {
  const Plane<T> plane(a.height, a.width, kBorder);
  const auto body = [&](int64_t n, int64_t, const T* pixels, int64_t lo, int64_t hi) {
    alignas(64) T u[kChunk], v[kChunk];
    alignas(64) Rows<T> rows;
    Footprints<T> taps;
    for (int64_t row = lo; row < hi; ++row) {
      const int64_t crop = n * a.p + row / a.h, y = row % a.h;
      T* out = to + (crop * a.c * a.h + y) * a.w;
      if (a.views[crop].missing()) {
        for (int64_t c = 0; c < a.c; ++c) std::fill_n(out + c * a.h * a.w, a.w, fill);
        continue;
      }
      for (int64_t x = 0; x < a.w; x += kChunk) {
        const int count = int(std::min<int64_t>(kChunk, a.w - x));
        positions(a.views[crop], y, x, count, u, v);
        taps.set(plane, u, v, count);
        for (int64_t c = 0; c < a.c; c += kLanes) {
          read(plane, pixels + c / kLanes * plane.size(), taps, count, rows);
          put(rows, count, std::min<int64_t>(kLanes, a.c - c), a.h * a.w, out + c * a.h * a.w + x);
        }
      }
    }
  };
  for_each_packed(image, kBorder, a.p * a.h, a.w, 1, body);
}

Tensor perspective_crops_cpu(const Tensor& image_, const Tensor& views_, int64_t h, int64_t w,
                             double fill) {
  check_crops(image_, views_, h, w);
  const Tensor image = computed(image_), views = torch::stable::contiguous(views_);
  const Tensor crops =
      torch::stable::new_empty(image, {image.size(0), views.size(1), image.size(1), h, w});
  if (crops.numel() > 0) {
    GUISE_DISPATCH(image.scalar_type(), "perspective_crops", {
      const auto a = crops_args<scalar_t>(views, image.size(1), image.size(2), image.size(3), h, w);
      crop(image_of<scalar_t>(image), a, scalar_t(fill), crops.mutable_data_ptr<scalar_t>());
    });
  }
  return as_type(crops, image_.scalar_type());
}

// One thread sums the gradient of an image, in order: the same sum every time.
template <class T>
void backward(const CropsArgs<T, T>& a, const T* grad, T* grad_image) {
  const Plane<T> plane(a.height, a.width, kBorder);
  torch::stable::parallel_for(0, a.n, 1, [&](int64_t lo, int64_t hi) {
    alignas(64) T u[kChunk], v[kChunk];
    alignas(64) Tile<T> tile;
    alignas(64) Rows<T> rows = {};
    Footprints<T> taps;
    std::vector<T> sum;
    for (int64_t image = lo; image < hi; ++image) {
      sum.assign(groups_of(a.c) * plane.size(), T(0));
      for (int64_t row = image * a.p * a.h; row < (image + 1) * a.p * a.h; ++row) {
        const int64_t crop = row / a.h, y = row % a.h;
        if (a.views[crop].missing()) continue;
        for (int64_t x = 0; x < a.w; x += kChunk) {
          const int n = int(std::min<int64_t>(kChunk, a.w - x));
          positions(a.views[crop], y, x, n, u, v);
          taps.set(plane, u, v, n);
          for (int64_t c = 0; c < a.c; c += kLanes) {
            get(grad + ((crop * a.c + c) * a.h + y) * a.w + x, n,
                std::min<int64_t>(kLanes, a.c - c), a.h * a.w, rows);
            to_tile<T>(rows, tile);
            add(plane, sum.data() + c / kLanes * plane.size(), taps, n, tile);
          }
        }
      }
      unpack(plane, sum.data(), a.c, grad_image + image * a.c * a.height * a.width);
    }
  });
}

Tensor perspective_crops_backward_cpu(const Tensor& grad_, const Tensor& views_, int64_t height,
                                      int64_t width) {
  check_crops_backward(grad_, views_, height, width);
  const Tensor grad = torch::stable::contiguous(computed(grad_));
  const Tensor views = torch::stable::contiguous(views_);
  const Tensor by_image =
      torch::stable::new_empty(grad, {grad.size(0), grad.size(2), height, width});
  if (by_image.numel() > 0) {
    GUISE_DISPATCH(grad.scalar_type(), "perspective_crops_backward", {
      const auto a =
          crops_args<scalar_t>(views, grad.size(2), height, width, grad.size(3), grad.size(4));
      backward(a, grad.const_data_ptr<scalar_t>(), by_image.mutable_data_ptr<scalar_t>());
    });
  }
  return as_type(by_image, grad_.scalar_type());
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("perspective_crops", TORCH_BOX(&guise::perspective_crops_cpu));
  m.impl("perspective_crops_backward", TORCH_BOX(&guise::perspective_crops_backward_cpu));
}
