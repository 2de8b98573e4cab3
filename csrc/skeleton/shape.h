// A stroke as a shape in whole pixels, and the pixels of a row that it covers.
#pragma once
#include "skeleton/skeleton.h"
#include "skeleton/thick_edge.h"

namespace guise {

// half * d / sqrt(length), rounded to nearest; ties away from zero if `up`, else towards it.
GUISE_HD int64_t pillow_shift(int64_t half, int64_t d, int64_t length, bool up) {
  const int64_t square = 4 * half * half * d * d;
  const int64_t twice = int64_t(std::sqrt(double(square / length)));
  const bool tie = twice * twice * length == square && twice % 2 == 1;
  return ((twice + 1) / 2 - (tie && !up)) * (d < 0 ? -1 : 1);
}

struct Shape {
  int64_t kind, n = 0, top = 0, bottom = -1;  // rows top to bottom; none if it is not drawn
  Place at[kMaxCorners] = {};
  Edge edge[4];   // of a thick line in OpenCV's raster
  Place quad[4];  // its corners in Pillow's raster, whole pixels

  template <class Word>
  GUISE_HD Shape(const Word* stroke, const float* points, const SkeletonStyle& s)
      : kind(stroke[0]) {
    const int64_t drawn = stroke[1], all = drawn + stroke[2];
    const bool partial = stroke[4];
    const Word* pair = stroke + 5 + s.channels;
    for (int64_t i = 0; i < all; ++i, pair += 2) {
      const float *a = points + 2 * pair[0], *b = points + 2 * pair[1];
      const float x = (a[0] + b[0]) * 0.5f, y = (a[1] + b[1]) * 0.5f;
      if (is_present(x, y, stroke[3])) {
        if (i < drawn) at[n++] = {int64_t(x), int64_t(y)};
      } else if (!partial || i >= drawn) {
        return;
      }
    }
    if (n < (partial ? 3 : 1)) return;
    const int64_t reach = kind == kDot ? s.radius + 1 : kind == kLine ? s.thickness + 1 : 0;
    top = at[0].y, bottom = at[0].y;
    for (int64_t i = 1; i < n; ++i) {
      top = at[i].y < top ? at[i].y : top, bottom = at[i].y > bottom ? at[i].y : bottom;
    }
    top -= reach, bottom += reach;
    if (kind == kLine) widen(s);
  }

  GUISE_HD void widen(const SkeletonStyle& s) {
    const Place a = at[0], b = at[1];
    if (s.raster == kOpenCV) {
      const int64_t dx = a.x - b.x, dy = b.y - a.y, square = dx * dx + dy * dy;
      const double half = double((s.thickness + s.thickness % 2) * kHalf);
      const double scale = half / std::sqrt(double(square > 1 ? square : 1));
      const int64_t x = int64_t(std::rint(dy * scale)), y = int64_t(std::rint(dx * scale));
      const Place c[4] = {{a.x * kOne + x, a.y * kOne + y},
                          {a.x * kOne - x, a.y * kOne - y},
                          {b.x * kOne - x, b.y * kOne - y},
                          {b.x * kOne + x, b.y * kOne + y}};
      for (int i = 0; i < 4; ++i) edge[i] = Edge(c[(i + 3) % 4], c[i]);
      return;
    }
    const int64_t dx = b.x - a.x, dy = b.y - a.y, square = dx * dx + dy * dy;
    const int64_t length = square > 1 ? square : 1;
    const int64_t small = (s.thickness - 1) / 2, large = s.thickness / 2;
    const int64_t x0 = pillow_shift(small, dy, length, false);
    const int64_t x1 = pillow_shift(large, dy, length, false);
    const int64_t y0 = pillow_shift(small, dx, length, true);
    const int64_t y1 = pillow_shift(large, dx, length, true);
    quad[0] = {a.x - x0, a.y + y1}, quad[1] = {b.x - x0, b.y + y1};
    quad[2] = {b.x + x1, b.y - y0}, quad[3] = {a.x + x1, a.y - y0};
  }
};

// Writes the spans of row y, at most kMaxSpans; returns their number.
GUISE_HD int64_t shape_row(const Shape& shape, const SkeletonStyle& s, int64_t y, Span* out) {
  const Place* at = shape.at;
  if (shape.kind == kDot) {
    out[0] = disc_row(at[0], s.radius * (s.radius + (s.raster == kPillow)), y);
    return 1;
  }
  if (shape.kind == kLine) {
    if (s.thickness == 1) return out[0] = bresenham_row(at[0], at[1], y), 1;
    out[0] = Span{};
    for (int64_t i = 0; i < 4; ++i) {
      out[0].join(s.raster == kOpenCV ? shape.edge[i].row(y)
                                      : scan_row(shape.quad[(i + 3) % 4], shape.quad[i], y));
    }
    if (s.raster == kPillow) return 1;
    const int64_t cap = (s.thickness + 1) / 2;
    out[1] = disc_row(at[0], cap * cap, y), out[2] = disc_row(at[1], cap * cap, y);
    return 3;
  }
  int64_t cuts[kMaxCorners], count = 0;  // in half pixels, sorted
  for (int64_t i = 0; i < shape.n; ++i) {
    const Place p = at[i ? i - 1 : shape.n - 1], q = at[i];
    out[i] = s.raster == kOpenCV ? bresenham_row(p, q, y) : scan_row(p, q, y);
    if (y < (p.y < q.y ? p.y : q.y) || y >= (p.y < q.y ? q.y : p.y)) continue;
    const Span cut = scan_row(p, q, y);
    int64_t j = count++;
    for (; j > 0 && cuts[j - 1] > cut.first + cut.last; --j) cuts[j] = cuts[j - 1];
    cuts[j] = cut.first + cut.last;
  }
  for (int64_t i = 0; i + 1 < count; i += 2) {
    out[shape.n + i / 2] = {(cuts[i] + 1) >> 1, cuts[i + 1] >> 1};
  }
  return shape.n + count / 2;
}

}  // namespace guise
