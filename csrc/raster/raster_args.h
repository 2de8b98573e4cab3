// Checks of the rasteriser's arguments, shared by its two operators.
#pragma once
#include "core/stable.h"
#include "raster/raster.h"

namespace guise {

// Python has checked all this with clearer messages. Here it keeps every access within bounds.
inline SampleGrid checked_grid(int64_t h, int64_t w, int64_t samples) {
  STD_TORCH_CHECK(h >= 1 && w >= 1 && h <= 4096 && w <= 4096, "size must be 1 to 4096 pixels");
  STD_TORCH_CHECK(samples >= 1 && samples <= 8, "samples must be 1 to 8");
  return {h, w, samples};
}

inline void check_mesh(const Tensor& points, const Tensor& triangles) {
  STD_TORCH_CHECK(points.dim() == 3 && points.size(2) == 3, "points must be [N, V, 3], got ",
                  shape_str(points));
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Float, "points must be float32");
  STD_TORCH_CHECK(triangles.dim() == 2 && triangles.size(1) == 3, "triangles must be [T, 3], got ",
                  shape_str(triangles));
  STD_TORCH_CHECK(triangles.scalar_type() == ScalarType::Int, "triangles must be int32");
  STD_TORCH_CHECK(triangles.size(0) < int64_t(1) << 31, "triangles must be fewer than 2^31");
}

// Both contiguous.
inline void check_triangles(const Tensor& triangles, int64_t points) {
  const int32_t* const t = triangles.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < triangles.numel(); ++i) {
    STD_TORCH_CHECK(t[i] >= 0 && t[i] < points, "triangles must be numbers of points");
  }
}

}  // namespace guise
