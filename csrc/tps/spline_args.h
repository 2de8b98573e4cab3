// Checks and pointers of the thin-plate spline, shared by the CPU and the CUDA file.
#pragma once
#include <algorithm>
#include <tuple>

#include "core/image.h"
#include "tps/spline.h"

namespace guise {

constexpr int64_t kMaxNodes = 2048;  // whose gradients fit the shared memory of a block

inline void check_spline(const Tensor& image, const Tensor& nodes, const Tensor& frame,
                         const Tensor& coefficients) {
  check_image(image, "image");
  const int64_t n = image.size(0);
  STD_TORCH_CHECK(nodes.dim() == 3 && nodes.size(1) <= kMaxNodes && nodes.size(2) == 2,
                  "nodes must be [M, K, 2] with K <= 2048, got ", shape_str(nodes));
  const int64_t m = nodes.size(0), k = nodes.size(1);
  STD_TORCH_CHECK(m > 0 ? n % m == 0 : n == 0, "nodes must serve a whole number of images each");
  STD_TORCH_CHECK(frame.dim() == 2 && frame.size(0) == m && frame.size(1) == 3,
                  "frame must be [M, 3], got ", shape_str(frame));
  STD_TORCH_CHECK(coefficients.dim() == 3 && coefficients.size(0) == n &&
                      coefficients.size(1) == k + 3 && coefficients.size(2) == 2,
                  "coefficients must be [N, K + 3, 2], got ", shape_str(coefficients));
  const auto type = compute_type(image.scalar_type());
  STD_TORCH_CHECK(nodes.scalar_type() == type && frame.scalar_type() == type &&
                      coefficients.scalar_type() == type,
                  "the spline must have the type that the image is computed in");
  check_device(nodes, image, "nodes"), check_device(frame, image, "frame");
  check_device(coefficients, image, "coefficients");
}

inline void check_spline_grad(const Tensor& grad, const Tensor& image, const Tensor& nodes,
                              const Tensor& frame, const Tensor& coefficients) {
  check_spline(image, nodes, frame, coefficients);
  check_image(grad, "grad");
  STD_TORCH_CHECK(grad.scalar_type() == image.scalar_type() && grad.size(0) == image.size(0) &&
                      grad.size(1) == image.size(1) && grad.size(2) == image.size(2) &&
                      grad.size(3) == image.size(3),
                  "grad must be like the image, got ", shape_str(grad));
  check_device(grad, image, "grad");
}

// The tensors of the spline must be contiguous.
template <class T>
SplineArgs<T> spline_args(const Tensor& image, const Tensor& nodes, const Tensor& frame,
                          const Tensor& coefficients, int64_t padding) {
  return {image.size(0),
          image.size(0) / std::max<int64_t>(nodes.size(0), 1),
          nodes.size(1),
          image.size(1),
          image.size(2),
          image.size(3),
          padding,
          nodes.const_data_ptr<T>(),
          frame.const_data_ptr<T>(),
          coefficients.const_data_ptr<T>()};
}

}  // namespace guise
