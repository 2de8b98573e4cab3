// Perspective crops: the position that a crop's pixel reads, and the pointers, for host and device.
#pragma once
#include "core/sampler.h"

namespace guise {

// Maps a crop's pixel (x, y, 1) to the image's pixel.
template <class T>
struct Homography {
  T h[9];

  GUISE_HD bool missing() const {
    for (int i = 0; i < 9; ++i)
      if (h[i] != h[i]) return true;
    return false;
  }
  GUISE_HD void at(T x, T y, T& u, T& v) const {
    const T scale = 1 / (h[6] * x + h[7] * y + h[8]);
    u = (h[0] * x + h[1] * y + h[2]) * scale;
    v = (h[3] * x + h[4] * y + h[5]) * scale;
  }
};

template <class S, class T>
struct CropsArgs {
  const Homography<T>* views;  // [N, P]
  int64_t n, p, c;             // images, crops of an image, channels
  int64_t height, width;       // of an image
  int64_t h, w;                // of a crop
};

}  // namespace guise
