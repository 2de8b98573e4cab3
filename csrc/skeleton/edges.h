// Which pixels of a row thin lines and edges cover: nets/ops/strokes.py in scalars, bit for bit.
//
// Whole pixels p, q are int64 (x, y); "fixed" ones count 1 / 65536 of a pixel, as OpenCV does.
#pragma once
#include "core/hd.h"

namespace guise {

constexpr int64_t kOne = 1 << 16, kHalf = 1 << 15, kNowhere = 1 << 30;

struct Place {
  int64_t x, y;
};

// The first and the last pixel covered; empty where first > last.
struct Span {
  int64_t first = kNowhere, last = -kNowhere;
  GUISE_HD void join(Span s) {
    first = s.first < first ? s.first : first;
    last = s.last > last ? s.last : last;
  }
};

GUISE_HD int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }  // b > 0

GUISE_HD void order_x(Place& p, Place& q) {
  const Place a = p;
  if (q.x < p.x) p = q, q = a;
}
GUISE_HD void order_y(Place& p, Place& q) {
  const Place a = p;
  if (q.y < p.y) p = q, q = a;
}

GUISE_HD Span disc_row(Place centre, int64_t square, int64_t y) {
  const int64_t rest = square - (y - centre.y) * (y - centre.y);
  if (rest < 0) return {};
  const int64_t half = int64_t(std::sqrt(double(rest)));  // exact below 2^52
  return {centre.x - half, centre.x + half};
}

// OpenCV's thin line between whole pixels; half way it stays on the left end's side.
GUISE_HD Span bresenham_row(Place p, Place q, int64_t y) {
  order_x(p, q);
  const int64_t wide = q.x - p.x, high = q.y < p.y ? p.y - q.y : q.y - p.y;
  const int64_t down = q.y < p.y ? p.y - y : y - p.y;
  if (down < 0 || down > high) return {};
  if (high == 0) return {p.x, q.x};
  if (wide <= high) {
    const int64_t x = p.x - floor_div(high - 2 * down * wide, 2 * high);
    return {x, x};
  }
  const int64_t first = floor_div(wide * (2 * down - 1), 2 * high) + 1;
  const int64_t last = floor_div(wide * (2 * down + 1), 2 * high);
  return {p.x + (first > 0 ? first : 0), p.x + (last < wide ? last : wide)};
}

// Where a filling sees the edge p, q: its cut, rounded up for a first and down for a last pixel.
GUISE_HD Span scan_row(Place p, Place q, int64_t y) {
  order_y(p, q);
  if (y < p.y || y > q.y) return {};
  const int64_t high = q.y - p.y;
  if (high == 0) return p.x < q.x ? Span{p.x, q.x} : Span{q.x, p.x};
  const int64_t top = p.x * high + (y - p.y) * (q.x - p.x);
  return {floor_div(2 * top + high, 2 * high), -floor_div(high - 2 * top, 2 * high)};
}

}  // namespace guise
