// Instance norm: the statistics of one channel.
#pragma once
#include "core/hd.h"

namespace guise {

// Count, mean, and sum of squared distances from the mean, of the numbers so far (Welford). Merged
// as by Chan, Golub and LeVeque 1979, eq. 2.1. An outlier costs no digits of the others.
struct NormMoments {
  float count, mean, squares;

  // `inverse` is 1 / (count + 1): the same for all channels of a pixel.
  GUISE_HD void add(float x, float inverse) {
    const float d = x - mean;
    count += 1;
    mean += d * inverse;
    squares += d * (x - mean);
  }
  GUISE_HD void merge(const NormMoments& other) {
    if (other.count == 0) return;
    const float d = other.mean - mean, share = other.count / (count + other.count);
    squares += other.squares + d * d * count * share;
    mean += d * share;
    count += other.count;
  }
#ifdef __CUDACC__
  __device__ NormMoments from_lane(int below) const {
    return {__shfl_down_sync(0xffffffffu, count, below), __shfl_down_sync(0xffffffffu, mean, below),
            __shfl_down_sync(0xffffffffu, squares, below)};
  }
#endif
};

// The sums that the gradient of one channel needs: of g, and of g times the normalised x.
struct NormSums {
  float g, along;

  GUISE_HD void merge(const NormSums& other) { g += other.g, along += other.along; }
#ifdef __CUDACC__
  __device__ NormSums from_lane(int below) const {
    return {__shfl_down_sync(0xffffffffu, g, below), __shfl_down_sync(0xffffffffu, along, below)};
  }
#endif
};

// From the result behind a leaky ReLU: the gradient before it, and the normalised x. `back` is
// 1 / slope, or 0 behind a ReLU, which drops the negative part: that is `kept`.
GUISE_HD void norm_undo(float y, float kept, float slope, float back, float& g, float& normal) {
  g = y > 0 ? g : g * slope;
  normal = y > 0 ? y : back > 0 ? y * back : kept;
}

}  // namespace guise
