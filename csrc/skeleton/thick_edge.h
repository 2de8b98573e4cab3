// An edge of OpenCV's thick line: nets/ops/strokes.py's `stepped` and `cut`, bit for bit.
#pragma once
#include "skeleton/edges.h"

namespace guise {

// An edge of OpenCV's thick line between fixed places: its outline joined with its filling's cut.
struct Edge {
  Place p, q;     // in order of the axis along which the outline steps
  bool steep;     // that axis is y
  int64_t step;   // fixed, along the other axis
  int64_t x, y0;  // the cut's place in row y0, fixed; it ends before row y1
  int64_t y1, slope;

  Edge() = default;
  GUISE_HD Edge(Place a, Place b) : p(a), q(b) {
    order_y(a, b);
    y0 = (a.y + kHalf) >> 16, y1 = (b.y + kHalf) >> 16, x = a.x;
    const int64_t high = y1 > y0 ? y1 - y0 : 1;
    slope = (2 * (b.x - a.x) + high) / (2 * high);
    const int64_t dx = b.x > a.x ? b.x - a.x : a.x - b.x;
    steep = dx <= b.y - a.y;
    steep ? order_y(p, q) : order_x(p, q);
    step = steep ? (q.x - p.x) * kOne / ((q.y - p.y) | 1) : (q.y - p.y) * kOne / ((q.x - p.x) | 1);
  }

  GUISE_HD Span row(int64_t y) const {
    Span s = steep ? steep_row(y) : flat_row(y);
    if (y == (q.y + kHalf) >> 16) s.join({(q.x + kHalf) >> 16, (q.x + kHalf) >> 16});
    const int64_t cut = (x + (y - y0) * slope + kHalf) >> 16;
    if (y >= y0 && y < y1) s.join({cut, cut});
    return s;
  }

 private:
  GUISE_HD Span steep_row(int64_t y) const {
    const int64_t k = y - ((p.y + kHalf) >> 16), at = (p.x + kHalf + k * step) >> 16;
    return k >= 0 && k <= (q.y - p.y) >> 16 ? Span{at, at} : Span{};
  }
  // Column k lies in row (p.y + kHalf + k step) >> 16: solved for the columns of a row.
  GUISE_HD Span flat_row(int64_t y) const {
    const int64_t below = y * kOne - p.y - kHalf, steps = (q.x - p.x) >> 16;
    int64_t first = below <= 0 && below > -kOne ? 0 : kNowhere, last = steps;
    if (step > 0) first = -floor_div(-below, step), last = -floor_div(-below - kOne, step) - 1;
    if (step < 0) first = floor_div(-below - kOne, -step) + 1, last = floor_div(-below, -step);
    first = first > 0 ? first : 0, last = last < steps ? last : steps;
    const int64_t at = (p.x + kHalf) >> 16;
    return first <= last ? Span{at + first, at + last} : Span{};
  }
};

}  // namespace guise
