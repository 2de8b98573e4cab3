// The strokes of a skeleton as words, and the rules by which points are present.
//
// A program has one row of words for each stroke: kind, points drawn, further points needed, rule,
// partial, a colour for each channel (-1: unchanged), and for each point the two joints in whose
// middle it lies. nets/ops/skeleton.py writes and explains it.
#pragma once
#include "core/hd.h"

namespace guise {

constexpr int64_t kMaxWords = 1800, kMaxCorners = 6, kMaxSpans = kMaxCorners + kMaxCorners / 2;
constexpr float kFar = 16383;
enum StrokeKind : int64_t { kLine = 0, kFill = 1, kDot = 2 };
enum PointRule : int64_t { kPositive = 0, kTruncated = 1, kMarked = 2, kFinite = 3 };
enum Raster : int64_t { kOpenCV = 0, kPillow = 1 };

struct SkeletonStyle {
  int64_t channels, background, raster, thickness, radius, corners;
  GUISE_HD int64_t words() const { return 5 + channels + 2 * corners; }
};

GUISE_HD bool is_present(float x, float y, int64_t rule) {
  if (!(std::fabs(x) <= kFar && std::fabs(y) <= kFar)) return false;  // also if NaN
  if (rule == kFinite) return true;
  if (rule == kTruncated) return x > -1 && y > -1;
  return x >= 0 && y >= 0 && (rule != kMarked || x != 0 || y != 0);
}

}  // namespace guise
