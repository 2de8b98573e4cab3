// Pictures whose channels lie innermost, cut into tiles of 2x2 pixels, for winograd.h.
#pragma once
#include <algorithm>
#include <vector>

#include "product.h"
#include "stable.h"
#include "winograd.h"

namespace guise {

struct Map {  // [N, H, W, C]
  int64_t n, c, h, w;

  int64_t rows() const { return (h + 1) / 2; }
  int64_t columns() const { return (w + 1) / 2; }
  int64_t tiles() const { return n * rows() * columns(); }
};

inline Map map_of(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == ScalarType::Float, name,
                  " must be a float [N, C, H, W], got ", shape_str(t));
  const Map m{t.size(0), t.size(1), t.size(2), t.size(3)};
  STD_TORCH_CHECK(m.c > 0 && m.c % kWide == 0, name, " must have a multiple of ", kWide,
                  " channels, got ", m.c);
  const bool packed = m.tiles() == 0 || (t.stride(1) == 1 && (m.w == 1 || t.stride(3) == m.c) &&
                                         (m.h == 1 || t.stride(2) == m.w * m.c) &&
                                         (m.n == 1 || t.stride(0) == m.h * m.w * m.c));
  STD_TORCH_CHECK(packed, name, " must be channels_last");
  return m;
}

// A new tensor of this shape: a view of [N, H, W, C].
inline Tensor channels_last(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  const Tensor flat = torch::stable::new_empty(like, {n, h, w, c});
  return torch::stable::transpose(torch::stable::transpose(flat, 2, 3), 1, 2);
}

// How many tiles at once, so that their 16 matrices stay in a second-level cache of half a MiB.
inline int64_t tiles_at_once(int64_t inputs, int64_t outputs) {
  return std::clamp<int64_t>(6400 / (inputs + outputs) / 6 * 6, 24, 96);
}

class Matrices {  // 16, of `rows` x `columns`
 public:
  Matrices(int64_t rows, int64_t columns)
      : apart_(rows * columns + 16), data_(16 * apart_) {}  // 16: not all on the same cache sets
  float* operator[](int place) { return data_.data() + place * apart_; }

 private:
  int64_t apart_;
  std::vector<float> data_;
};

// Tiles lo to hi, Side x Side pixels from `from` before their corner, through `transform` to the
// rows of the matrices. What lies outside of the map is read from `zeros`.
template <int Side, class Transform>
void gather(const Map& m, const float* pixels, const float* zeros, int64_t from, int64_t lo,
            int64_t hi, Matrices& out, Transform transform) {
  for (int64_t i = lo; i < hi; ++i) {
    const int64_t x0 = 2 * (i % m.columns()) - from, row = i / m.columns();
    const int64_t y0 = 2 * (row % m.rows()) - from, n = row / m.rows();
    const float* at[Side * Side];
    for (int y = 0; y < Side; ++y)
      for (int x = 0; x < Side; ++x) {
        const bool inside = y0 + y >= 0 && y0 + y < m.h && x0 + x >= 0 && x0 + x < m.w;
        at[y * Side + x] = inside ? pixels + ((n * m.h + y0 + y) * m.w + x0 + x) * m.c : zeros;
      }
    for (int64_t c = 0; c < m.c; c += kWide) {
      Wide d[Side * Side], t[16];
      for (int p = 0; p < Side * Side; ++p) d[p] = wide(at[p] + c);
      transform(d, t);
      for (int p = 0; p < 16; ++p) wide(out[p] + (i - lo) * m.c + c) = t[p];
    }
  }
}

inline void gather_inputs(const Map& m, const float* pixels, const float* zeros, int64_t lo,
                          int64_t hi, Matrices& out) {
  gather<4>(m, pixels, zeros, 1, lo, hi, out,
            [](const Wide(&d)[16], Wide(&t)[16]) { transform_input(d, t); });
}

}  // namespace guise
