// Functions that the compiler can vectorise: no branch, no table, no library call. The compiler
// may fuse sums of products. std::fma would be a call on processors without the instruction.
#pragma once
#include <cstring>

#include "core/hd.h"

namespace guise {

// For x = n ln 2 + r, |r| <= ln 2 / 2: 2^n, and a Remez polynomial of (e^r - 1 - r) / r^2.
struct Exponential {
  float r, power, tail;
};

GUISE_HD Exponential exponential(float x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  // ln 2 in two parts. The first has so few bits that its product with n is exact without FMA.
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.37805939e-3f;
  p = p * r + 8.37312452e-3f;
  p = p * r + 4.16695364e-2f;
  p = p * r + 1.66664720e-1f;
  p = p * r + 4.99999851e-1f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + (127u << 23);  // writes 2^n into the exponent
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return {r, power, p};
}

// e^x for x <= 0, within 1.2 ulp in float. Subnormal results are 0. NaN stays NaN.
GUISE_HD float exp_nonpositive(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  const Exponential e = exponential(x);
  const float p = (e.tail * e.r + 1.f) * e.r + 1.f;
  return x < -87.3365f ? 0.f : p * e.power;  // "not below": NaN takes the other branch
#endif
}

GUISE_HD double exp_nonpositive(double x) { return std::exp(x); }

// e^x - 1 for x <= 0, accurate near 0: 2^n (e^r - 1) + (2^n - 1). NaN stays NaN.
GUISE_HD float expm1_nonpositive(float x) {
#ifdef __CUDA_ARCH__
  return expm1f(x);
#else
  const Exponential e = exponential(x);
  const float p = e.tail * e.r * e.r + e.r;
  return x < -87.3365f ? -1.f : e.power * p + (e.power - 1.f);
#endif
}

GUISE_HD double expm1_nonpositive(double x) { return std::expm1(x); }

}  // namespace guise
