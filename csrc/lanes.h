// Functions that the compiler turns into vector lanes: no branch, no table, no library call.
// Sums of products are left to it to fuse: std::fma is a call where the processor has none.
#pragma once
#include <cstring>

#include "hd.h"

namespace guise {

// e^x for x <= 0, within 1.2 ulp in float; below the smallest normal number 0; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r is a polynomial (Remez); 2^n is put in the exponent.
GUISE_HD float exp_nonpositive(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts; the first has so few bits that n times it is exact without an FMA too.
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.37805939e-3f;
  p = p * r + 8.37312452e-3f;
  p = p * r + 4.16695364e-2f;
  p = p * r + 1.66664720e-1f;
  p = p * r + 4.99999851e-1f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + (127u << 23);
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.3365f ? 0.f : p * power;  // "not below": NaN takes the other branch
#endif
}

GUISE_HD double exp_nonpositive(double x) { return std::exp(x); }

}  // namespace guise
