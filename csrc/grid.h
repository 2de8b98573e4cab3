// The coordinate grid of landmarks: pixel i of n lies at -1 + 2 i / n.
#pragma once
#include "hd.h"

namespace guise {

// (2 i - n) / n, rounded once, by a multiplication and its correction where a division would cost.
// A map has fewer than 2^31 pixels and each side fewer than 2^30, which the checks see to.
template <class T>
GUISE_HD T grid_at(int32_t i, int32_t n) {
  const T a = T(2 * i - n), whole = T(n), inverse = 1 / whole, guess = a * inverse;
  return std::fma(std::fma(-guess, whole, a), inverse, guess);
}

}  // namespace guise
