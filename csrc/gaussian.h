// Gaussian-shaped maps around landmarks: the arithmetic, for host and device.
//
// Pixel i of n lies at -1 + 2 i / n, from -1 inclusive to 1 exclusive (the pixel's left or top edge
// in a [-1, 1] frame). With d = p - mean, q = d^T covariance^-1 d is the squared Mahalanobis
// distance; a map is 1 / (1 + q) (rational) or exp(-q / 2) (exponential).
#pragma once
#include "hd.h"

namespace guise {

enum GaussianKind : int64_t { kRational = 0, kExponential = 1 };

template <class S, class T>
struct GaussianArgs {
  const S* mean;        // [maps, 2]     (x, y)
  const S* covariance;  // [maps, 2, 2]  its symmetric part counts
  const S* grad;        // [maps, h, w]  of the loss by the maps; backward only
  S* heat;              // [maps, h, w]  out; forward only
  T* sums;              // [maps, 5]     out; backward only: the sums of Moments below
  int64_t maps, h, w;
};

// (2 i - n) / n rounds once; -1 + 2 i / n would round twice.
template <class T>
GUISE_HD T grid_at(int64_t i, int64_t n) {
  return T(2 * i - n) / T(n);
}

// a b - c d without cancellation (Kahan): needed for the determinant of a thin Gaussian.
template <class T>
GUISE_HD T difference_of_products(T a, T b, T c, T d) {
  const T cd = c * d;
  return std::fma(a, b, -cd) + std::fma(-c, d, cd);
}

// q as a sum of squares: q = px (dx - skew dy)^2 + py dy^2, which no rounding makes negative.
template <class T>
struct Gaussian {
  T mx, my, skew, px, py;

  GUISE_HD T row(T y) const { return y - my; }              // dy
  GUISE_HD T offset(T dy) const { return mx + skew * dy; }  // u = x - offset
  GUISE_HD T square(T u, T dy) const { return px * u * u + py * dy * dy; }
};

template <class T>
GUISE_HD Gaussian<T> gaussian_of(T mx, T my, T xx, T xy, T yx, T yy) {
  const T cross = T(0.5) * (xy + yx);
  return {mx, my, cross / yy, yy / difference_of_products(xx, yy, cross, cross), 1 / yy};
}

}  // namespace guise
