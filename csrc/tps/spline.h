// Thin-plate splines: the position that a pixel reads, for host and device.
//
// In coordinates q = (p - centre) / extent of the control points, pixel p reads the image at
// p + a_0 + a_x q_x + a_y q_y + sum_k w_k U(|q - node_k|^2) with U(s) = s ln s. Scaling keeps the
// terms of the sum small, and so the cancellation between them. With 100 points a float is exact to
// 1e-4 pixels, against 1e-3 in pixel coordinates.
#pragma once
#include <cstring>

#include "core/sampler.h"

namespace guise {

// s ln s for s >= 0, and 0 at 0. The logarithm is Cephes' logf without branches: s = m 2^e with m
// between sqrt(1/2) and sqrt(2). NaN and infinity pass through the product.
GUISE_HD float radial(float s) {
  uint32_t bits;
  std::memcpy(&bits, &s, sizeof bits);
  bits += 0x3f800000u - 0x3f3504f3u;
  const float e = float(int32_t(bits >> 23) - 127);
  bits = (bits & 0x7fffffu) + 0x3f3504f3u;
  float m;
  std::memcpy(&m, &bits, sizeof m);
  const float f = m - 1, z = f * f;
  float y = 7.0376836292e-2f;
  y = y * f - 1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f - 1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f - 1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f - 2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  y = y * f * z - 2.12194440e-4f * e - 0.5f * z;
  return s * (f + y + 0.693359375f * e);
}

GUISE_HD double radial(double s) { return s > 0 ? s * std::log(s) : s; }

template <class T>
struct SplineArgs {
  int64_t n, share, k;  // images; images in a row that share nodes; nodes
  int64_t c, h, w, padding;
  const T* nodes;         // [N / share, K, 2]
  const T* frame;         // [N / share, 3]     centre x, centre y, 1 / extent
  const T* coefficients;  // [N, K + 3, 2]      w, a_0, a_x, a_y

  GUISE_HD T across(int64_t m, T x) const { return (x - frame[3 * m]) * frame[3 * m + 2]; }
  GUISE_HD T down(int64_t m, T y) const { return (y - frame[3 * m + 1]) * frame[3 * m + 2]; }
  // Function j of the K + 3 whose weighted sum is the displacement, at q = (x, y).
  GUISE_HD T basis(int64_t m, int64_t j, T x, T y) const {
    if (j >= k) return j == k ? T(1) : j == k + 1 ? x : y;
    const T dx = x - nodes[2 * (m * k + j)], dy = y - nodes[2 * (m * k + j) + 1];
    return radial(dx * dx + dy * dy);
  }
};

}  // namespace guise
