// Gaussian-shaped maps around landmarks: the arithmetic, for host and device.
//
// Pixel i of n lies at -1 + 2 i / n, from -1 inclusive to 1 exclusive (the pixel's left or top edge
// in a [-1, 1] frame). With d = p - mean, q = d^T covariance^-1 d is the squared Mahalanobis
// distance; a map is 1 / (1 + q) (rational) or exp(-q / 2) (exponential).
#pragma once
#include "core/grid.h"
#include "core/lanes.h"

namespace guise {

enum GaussianKind : int64_t { kRational = 0, kExponential = 1 };

// a b - c d without cancellation (Kahan): the determinant of a thin Gaussian needs it.
template <class T>
GUISE_HD T difference_of_products(T a, T b, T c, T d) {
  const T cd = c * d;
  return std::fma(a, b, -cd) + std::fma(-c, d, cd);
}

// q as a sum of squares, which rounding cannot make negative: q = px u^2 + py dy^2 with
// u = dx - skew dy, from the factors of covariance = L D L^T. The mean is subtracted first: near it
// no digits are lost, however narrow the map is.
template <class T>
struct Gaussian {
  T mx, my, skew, px, py;
};

template <class T>
GUISE_HD Gaussian<T> gaussian_of(T mx, T my, T xx, T xy, T yx, T yy) {
  const T cross = T(0.5) * (xy + yx);
  return {mx, my, cross / yy, yy / difference_of_products(xx, yy, cross, cross), 1 / yy};
}

// The value at a pixel of a row; `rest` is py dy^2 of the row.
template <GaussianKind kind, class T>
GUISE_HD T gaussian_value(T u, T px, T rest) {
  const T q = px * u * u + rest;
  return kind == kRational ? 1 / (1 + q) : exp_nonpositive(T(-0.5) * q);
}

// d value / d q, from the same arguments.
template <GaussianKind kind, class T>
GUISE_HD T gaussian_slope(T u, T px, T rest) {
  const T value = gaussian_value<kind>(u, px, rest);
  return kind == kRational ? -value * value : T(-0.5) * value;
}

// The sums that the gradients of one map need; s = grad * slope of a pixel.
template <class T>
struct GaussianSums {
  T u, y, uu, uy, yy;  // sums of s u, s dy, s u^2, s u dy, s dy^2
};

// Gradients by mean (x, y) and by covariance (xx, xy = yx, yy). With e = px u and
// f = py dy - skew e, (e, f) is covariance^-1 d; dq/dmean = -2 (e, f), dq/dcovariance = -(e, f)
// (e, f)^T.
template <class T>
GUISE_HD void gaussian_gradients(const Gaussian<T>& g, const GaussianSums<T>& s, T* mean, T* cov) {
  const T e = g.px * s.u, f = g.py * s.y - g.skew * e;
  const T ee = g.px * g.px * s.uu, ey = g.px * g.py * s.uy, yy = g.py * g.py * s.yy;
  const T ef = ey - g.skew * ee;
  mean[0] = -2 * e;
  mean[1] = -2 * f;
  cov[0] = -ee;
  cov[1] = cov[2] = -ef;
  cov[3] = -(yy - g.skew * (ey + ef));
}

}  // namespace guise
