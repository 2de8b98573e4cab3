#include "raster/raster_args.h"

namespace guise {
namespace {

std::tuple<Tensor, Tensor, Tensor> rasterise_cpu(const Tensor& points_, const Tensor& triangles_,
                                                 int64_t h, int64_t w, int64_t samples) {
  const SampleGrid grid = checked_grid(h, w, samples);
  check_mesh(points_, triangles_);
  const Tensor points = torch::stable::contiguous(points_);
  const Tensor triangles = torch::stable::contiguous(triangles_);
  const int64_t n = points.size(0), v = points.size(1), rows = grid.rows(), cols = grid.columns();
  check_triangles(triangles, v);
  Tensor index = torch::stable::new_empty(points, {n, rows, cols}, ScalarType::Int);
  Tensor weights = torch::stable::new_zeros(points, {n, 2, rows, cols});
  Tensor depth = torch::stable::new_empty(points, {n, rows, cols});
  const float* const from = points.const_data_ptr<float>();
  const int32_t* const corners = triangles.const_data_ptr<int32_t>();
  int32_t* const to_index = index.mutable_data_ptr<int32_t>();
  float* const to_weights = weights.mutable_data_ptr<float>();
  float* const to_depth = depth.mutable_data_ptr<float>();
  const int64_t count = triangles.size(0), area = grid.count();
  torch::stable::parallel_for(0, n, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      float* const second = to_weights + 2 * i * area;
      find_visible({from + i * v * 3, corners, count, v}, grid,
                   {to_index + i * area, second, second + area, to_depth + i * area},
                   [](int64_t, float, float) { return true; });
    }
  });
  return {index, weights, depth};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) { m.impl("rasterise", TORCH_BOX(&guise::rasterise_cpu)); }
