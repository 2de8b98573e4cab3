// The coordinate grid of landmarks: pixel i of n lies at -1 + 2 i / n.
#pragma once
#include <vector>

#include "core/hd.h"

namespace guise {

// (2 i - n) / n, rounded once, by a multiplication and its correction where a division would cost.
// A map has fewer than 2^31 pixels and each side fewer than 2^30, which the checks see to.
template <class T>
GUISE_HD T grid_at(int32_t i, int32_t n) {
  const T a = T(2 * i - n), whole = T(n), inverse = 1 / whole, guess = a * inverse;
  return std::fma(std::fma(-guess, whole, a), inverse, guess);
}

// All n of them, for loops whose lanes run along a row.
template <class T>
std::vector<T> grid_of(int32_t n) {
  std::vector<T> grid(n);
  for (int32_t i = 0; i < n; ++i) grid[i] = grid_at<T>(i, n);
  return grid;
}

}  // namespace guise
