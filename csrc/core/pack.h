// Conversion of an image of any layout to packed planes (packed.h), and back.
#pragma once
#include <memory>

#include "core/image.h"
#include "core/packed.h"

namespace guise {

inline int64_t groups_of(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

inline int64_t grain_of(int64_t pixels_each) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(pixels_each, 1));
}

// Copies the first `channels` rows to planes at a distance of `apart`, and back.
template <class T>
void put(const Rows<T>& rows, int n, int64_t channels, int64_t apart, T* out) {
  for (int64_t c = 0; c < channels; ++c) std::copy_n(rows[c], n, out + c * apart);
}

template <class T>
void get(const T* in, int n, int64_t channels, int64_t apart, Rows<T>& rows) {
  for (int64_t c = 0; c < kLanes; ++c)
    c < channels ? std::copy_n(in + c * apart, n, rows[c]) : std::fill_n(rows[c], n, T(0));
}

// One row of a group of channels, packed, with its frame.
template <class T>
void pack_channels(const T* const* channel, int64_t step, int64_t w, int64_t padding, T* out) {
  const T *p = channel[0], *q = channel[1], *r = channel[2], *s = channel[3];
  T* row = out + kFrame * kLanes;
  if (step == 1) {
    for (int64_t x = 0; x < w; ++x) {
      row[kLanes * x] = p[x], row[kLanes * x + 1] = q[x];
      row[kLanes * x + 2] = r[x], row[kLanes * x + 3] = s[x];
    }
  } else {
    for (int64_t x = 0; x < w; ++x)
      for (int c = 0; c < kLanes; ++c) row[kLanes * x + c] = channel[c][x * step];
  }
  for (int64_t i = 0; i < kFrame * kLanes; ++i) {
    out[i] = padding == kZeros ? T(0) : row[i % kLanes];
    row[kLanes * w + i] = padding == kZeros ? T(0) : row[kLanes * (w - 1) + i % kLanes];
  }
}

// Row `i` of image `n` of the packed form [N, groups, H + 2 kFrame, W + 2 kFrame, kLanes].
template <class T>
void pack_row(const Image<T>& a, int64_t padding, int64_t n, int64_t i, const T* zeros, T* out) {
  const int64_t high = a.h + 2 * kFrame, wide = (a.w + 2 * kFrame) * kLanes;
  const int64_t y = i % high - kFrame, inside = std::clamp<int64_t>(y, 0, a.h - 1);
  if (padding == kZeros && y != inside) {
    std::fill_n(out, wide, T(0));
    return;
  }
  const T* channel[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) {
    const int64_t c = i / high * kLanes + l;
    channel[l] = c < a.c ? a.data + n * a.sn + c * a.sc + inside * a.sy : zeros;
  }
  pack_channels(channel, a.sx, a.w, padding, out);
}

template <class T>
void pack_image(const Image<T>& a, int64_t padding, int64_t n, T* planes) {
  const std::vector<T> zeros((a.w - 1) * a.sx + 1, T(0));  // for lanes beyond the last channel
  for (int64_t i = 0; i < groups_of(a.c) * (a.h + 2 * kFrame); ++i)
    pack_row(a, padding, n, i, zeros.data(), planes + i * (a.w + 2 * kFrame) * kLanes);
}

// Packs up to `block` images at a time and calls body(first, count, their packed planes, from, to)
// for rows of the output, `rows` an image, each `width` wide. With enough images, each thread takes
// whole images, and no thread reads what another has packed. Else threads share the rows of all.
template <class T, class Body>
void for_each_packed(const Image<T>& a, int64_t padding, int64_t rows, int64_t width, int64_t block,
                     Body body) {
  const int64_t high = groups_of(a.c) * (a.h + 2 * kFrame), wide = (a.w + 2 * kFrame) * kLanes;
  const int64_t threads = torch::stable::get_num_threads();
  const auto count = [&](int64_t n, int64_t end) { return std::min(block, end - n); };
  if (a.n % threads == 0 || a.n > 4 * threads) {
    torch::stable::parallel_for(0, a.n, 1, [&](int64_t lo, int64_t hi) {
      std::unique_ptr<T[]> planes(new T[count(lo, hi) * high * wide]);
      for (int64_t n = lo; n < hi; n += block) {
        const int64_t images = count(n, hi);
        for (int64_t i = 0; i < images; ++i)
          pack_image(a, padding, n + i, planes.get() + i * high * wide);
        body(n, images, planes.get(), 0, rows);
      }
    });
    return;
  }
  const std::vector<T> zeros((a.w - 1) * a.sx + 1, T(0));  // for lanes beyond the last channel
  std::unique_ptr<T[]> planes(new T[count(0, a.n) * high * wide]);
  for (int64_t n = 0; n < a.n; n += block) {
    const int64_t images = count(n, a.n);
    torch::stable::parallel_for(0, images * high, grain_of(a.w), [&](int64_t lo, int64_t hi) {
      for (int64_t i = lo; i < hi; ++i)
        pack_row(a, padding, n + i / high, i % high, zeros.data(), planes.get() + i * wide);
    });
    torch::stable::parallel_for(0, rows, grain_of(width), [&](int64_t lo, int64_t hi) {
      body(n, images, planes.get(), lo, hi);
    });
  }
}

// All groups of one image, without their frames -> a contiguous [C, H, W].
template <class T>
void unpack(const Plane<T>& p, const T* packed, int64_t channels, T* out) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t y = 0; y < p.h; ++y) {
      const T* row = packed + c / kLanes * p.size() + c % kLanes;
      row += ((y + kFrame) * p.stride() + kFrame) * kLanes;
      T* to = out + (c * p.h + y) * p.w;
      for (int64_t x = 0; x < p.w; ++x) to[x] = row[x * kLanes];
    }
}

}  // namespace guise
