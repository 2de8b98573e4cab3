// The coordinate grid of landmarks: pixel i of n lies at -1 + 2 i / n.
#pragma once
#include <vector>

#include "core/hd.h"

namespace guise {

// (2 i - n) / n, rounded once: a multiplication and its correction are faster than a division.
// The checks guarantee fewer than 2^31 pixels a map and fewer than 2^30 a side.
template <class T>
GUISE_HD T grid_at(int32_t i, int32_t n) {
  const T a = T(2 * i - n), whole = T(n), inverse = 1 / whole, guess = a * inverse;
  return std::fma(std::fma(-guess, whole, a), inverse, guess);
}

// All n coordinates, for loops that are vectorised along a row.
template <class T>
std::vector<T> grid_of(int32_t n) {
  std::vector<T> grid(n);
  for (int32_t i = 0; i < n; ++i) grid[i] = grid_at<T>(i, n);
  return grid;
}

}  // namespace guise
