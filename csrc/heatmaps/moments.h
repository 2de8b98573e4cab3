// Softmax of a map with its mean and covariance on the grid of grid.h: the arithmetic.
//
// With h = softmax(logits) over the pixels p of a map: mean = sum h p, and
// covariance = sum h (p - mean)(p - mean)^T. Centring loses no digits.
#pragma once
#include "core/grid.h"
#include "core/lanes.h"

namespace guise {

// The gradient of h at an offset d = (x, y) from the mean, up to a constant, which the softmax
// cancels: g + grad_mean . d + d^T grad_covariance d. The part of a whole row is computed once.
template <class T>
struct MomentSlopes {
  T mean_x, mean_y, xx, xy, yy;  // grad of mean and covariance; xy is the sum of both corners

  GUISE_HD T row(T y) const { return (mean_y + yy * y) * y; }
  GUISE_HD T slant(T y) const { return mean_x + xy * y; }
  GUISE_HD T at(T g, T row, T slant, T x) const { return g + row + x * (xx * x + slant); }
};

// A running softmax: the maximum of the values so far, and sums of their e^(v - top).
template <class T>
struct RunningMoments {
  T top, sum, x, y;

  // Makes `other` the maximum. top is -inf before the first value: no (-inf) - (-inf) then.
  GUISE_HD void raise(T other) {
    const T scale = top == other ? T(1) : exp_nonpositive(top - other);
    top = other;
    sum *= scale;
    x *= scale;
    y *= scale;
  }
};

}  // namespace guise
