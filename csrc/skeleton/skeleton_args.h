// Checks of draw_skeleton, shared by the CPU and the CUDA file.
#pragma once
#include <vector>

#include "core/stable.h"
#include "skeleton/shape.h"

namespace guise {

// Python has checked all this with clearer messages. Here it keeps every access within bounds.
inline SkeletonStyle skeleton_style(const Tensor& points, const std::vector<int64_t>& program,
                                    const std::vector<int64_t>& style, int64_t h, int64_t w) {
  STD_TORCH_CHECK(points.dim() == 3 && points.size(2) == 2, "points must be [N, J, 2], got ",
                  shape_str(points));
  STD_TORCH_CHECK(points.size(1) < 1 << 15, "points must be fewer than 32768 an image");
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Float, "points must be float32");
  STD_TORCH_CHECK(h > 0 && w > 0 && h <= kFar && w <= kFar, "size must be 1 to 16383 pixels");
  STD_TORCH_CHECK(style.size() == 6, "style must hold 6 numbers");
  const SkeletonStyle s{style[0], style[1], style[2], style[3], style[4], style[5]};
  STD_TORCH_CHECK(s.channels > 0 && s.channels <= 4 && s.thickness > 0 && s.thickness <= kFar &&
                      s.radius >= 0 && s.radius <= kFar && s.corners > 0 && s.corners < 100,
                  "style must hold channels, background, raster, thickness, radius, corners");
  const int64_t size = int64_t(program.size());
  STD_TORCH_CHECK(size <= kMaxWords && size % s.words() == 0, "program must be whole strokes");
  for (int64_t i = 0; i < size; i += s.words()) {
    const int64_t* stroke = program.data() + i;
    const bool fits = stroke[1] >= 1 && stroke[1] <= kMaxCorners && stroke[2] >= 0 &&
                      stroke[1] + stroke[2] <= s.corners && (stroke[0] != kLine || stroke[1] == 2);
    STD_TORCH_CHECK(fits && stroke[0] >= kLine && stroke[0] <= kDot, "program: bad stroke");
    for (int64_t j = 5 + s.channels; j < s.words(); ++j) {
      STD_TORCH_CHECK(stroke[j] >= 0 && stroke[j] < points.size(1), "program: no such joint");
    }
  }
  return s;
}

}  // namespace guise
