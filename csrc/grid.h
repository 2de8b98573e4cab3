// The coordinate grid of landmarks: pixel i of n lies at -1 + 2 i / n.
#pragma once
#include "hd.h"

namespace guise {

// (2 i - n) / n, rounded once, by a multiplication and its correction where a division would cost.
template <class T>
GUISE_HD T grid_at(int64_t i, int64_t n) {
  const T a = T(2 * i - n), whole = T(n), inverse = 1 / whole, guess = a * inverse;
  return std::fma(std::fma(-guess, whole, a), inverse, guess);
}

}  // namespace guise
