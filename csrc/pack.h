// From an image of any layout and type to packed planes (packed.h), and back.
#pragma once
#include "image.h"
#include "packed.h"

namespace guise {

inline int64_t groups_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

inline int64_t grain_of(int64_t pixels_each) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(pixels_each, 1));
}

// One row of a group of channels, packed, with its frame.
template <class S, class T>
void pack_row(const S* const* channel, int64_t step, int64_t w, int64_t padding, T* out) {
  const S *p = channel[0], *q = channel[1], *r = channel[2], *s = channel[3];
  T* row = out + kFrame * kLanes;
  if (step == 1) {
    for (int64_t x = 0; x < w; ++x) {
      row[kLanes * x] = T(p[x]), row[kLanes * x + 1] = T(q[x]);
      row[kLanes * x + 2] = T(r[x]), row[kLanes * x + 3] = T(s[x]);
    }
  } else {
    for (int64_t x = 0; x < w; ++x)
      for (int c = 0; c < kLanes; ++c) row[kLanes * x + c] = T(channel[c][x * step]);
  }
  for (int64_t i = 0; i < kFrame * kLanes; ++i) {
    out[i] = padding == kZeros ? T(0) : row[i % kLanes];
    row[kLanes * w + i] = padding == kZeros ? T(0) : row[kLanes * (w - 1) + i % kLanes];
  }
}

// [N, C, H, W] with any strides -> [N, groups, H + 2 kFrame, W + 2 kFrame, kLanes].
template <class S, class T = compute_t<S>>
Tensor pack(const Tensor& image, int64_t padding) {
  const Image<S> a = image_of<S>(image);
  const int64_t groups = groups_of(a.c), high = a.h + 2 * kFrame;
  const int64_t wide = (a.w + 2 * kFrame) * kLanes;
  Tensor out =
      torch::stable::new_empty(image, {a.n, groups, high, wide}, compute_type(image.scalar_type()));
  T* to = out.mutable_data_ptr<T>();
  const std::vector<S> none(size_t((a.w - 1) * a.sx + 1), S(0));  // lanes beyond the last channel
  torch::stable::parallel_for(0, a.n * groups * high, grain_of(a.w), [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      const int64_t y = i % high - kFrame, g = i / high % groups, n = i / high / groups;
      const int64_t inside = std::clamp<int64_t>(y, 0, a.h - 1);
      if (padding == kZeros && y != inside) {
        std::fill_n(to + i * wide, wide, T(0));
        continue;
      }
      const S* channel[kLanes];
      for (int64_t l = 0; l < kLanes; ++l) {
        const int64_t c = g * kLanes + l;
        channel[l] = c < a.c ? a.data + n * a.sn + c * a.sc + inside * a.sy : none.data();
      }
      pack_row(channel, a.sx, a.w, padding, to + i * wide);
    }
  });
  return out;
}

// All groups of one image, without their frames -> a contiguous [C, H, W].
template <class S, class T>
void unpack(const Plane<T>& p, const T* packed, int64_t channels, S* out) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = 0; y < p.h; ++y) {
      const T* row = packed + c / kLanes * p.size() + c % kLanes;
      row += ((y + kFrame) * p.stride() + kFrame) * kLanes;
      S* to = out + (c * p.h + y) * p.w;
      for (int64_t x = 0; x < p.w; ++x) to[x] = S(row[x * kLanes]);
    }
}

}  // namespace guise
