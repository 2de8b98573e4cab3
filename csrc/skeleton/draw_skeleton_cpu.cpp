#include <algorithm>
#include <cstring>

#include "skeleton/skeleton_args.h"

namespace guise {
namespace {

void draw(const SkeletonStyle& s, const std::vector<int64_t>& program, const float* points,
          uint8_t* out, int64_t h, int64_t w) {
  std::memset(out, int(s.background), s.channels * h * w);
  Span spans[kMaxSpans];
  for (size_t i = 0; i < program.size(); i += s.words()) {
    const int64_t *stroke = program.data() + i, *colour = stroke + 5;
    const Shape shape(stroke, points, s);
    const int64_t bottom = std::min(shape.bottom, h - 1);
    for (int64_t y = std::max<int64_t>(shape.top, 0); y <= bottom; ++y) {
      const int64_t count = shape_row(shape, s, y, spans);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t first = std::max<int64_t>(spans[k].first, 0);
        const int64_t last = std::min(spans[k].last, w - 1);
        if (first > last) continue;
        for (int64_t c = 0; c < s.channels; ++c) {
          if (colour[c] < 0) continue;
          std::memset(out + (c * h + y) * w + first, int(colour[c]), last - first + 1);
        }
      }
    }
  }
}

Tensor draw_skeleton_cpu(const Tensor& points_, std::vector<int64_t> program,
                         std::vector<int64_t> style, int64_t h, int64_t w) {
  const SkeletonStyle s = skeleton_style(points_, program, style, h, w);
  const Tensor points = torch::stable::contiguous(points_);
  const int64_t n = points.size(0), joints = points.size(1);
  Tensor canvas = torch::stable::new_empty(points, {n, s.channels, h, w}, ScalarType::Byte);
  const float* const from = points.const_data_ptr<float>();
  uint8_t* const to = canvas.mutable_data_ptr<uint8_t>();
  torch::stable::parallel_for(0, n, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      draw(s, program, from + i * joints * 2, to + i * s.channels * h * w, h, w);
    }
  });
  return canvas;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("draw_skeleton", TORCH_BOX(&guise::draw_skeleton_cpu));
}
