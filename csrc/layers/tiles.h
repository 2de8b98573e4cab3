// Images with innermost channels, cut into tiles of 2x2 pixels, for winograd.h.
#pragma once
#include <vector>

#include "core/stable.h"
#include "layers/product.h"
#include "layers/winograd.h"

namespace guise {

struct Map {  // [N, H, W, C]
  int64_t n, c, h, w;

  int64_t rows() const { return (h + 1) / 2; }
  int64_t columns() const { return (w + 1) / 2; }
  int64_t tiles() const { return n * rows() * columns(); }
};

inline Map map_of(const Tensor& t, ScalarType type, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == type, name, " must be a ",
                  type == ScalarType::Float ? "float" : "bfloat16", " [N, C, H, W], got ",
                  shape_str(t));
  const Map m{t.size(0), t.size(1), t.size(2), t.size(3)};
  STD_TORCH_CHECK(m.c > 0 && m.c % 16 == 0, name, " must have a multiple of 16 channels, got ",
                  m.c);
  STD_TORCH_CHECK(is_channels_last(t), name, " must be channels_last");
  return m;
}

// The strides may differ from those that a tracer promised.
inline Tensor channels_last(const Tensor& t) {
  return torch::stable::contiguous(t, torch::headeronly::MemoryFormat::ChannelsLast);
}

// A new tensor on the CPU. Not a view with permuted axes, which autograd would not allow to be
// changed in place.
inline Tensor channels_last(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const auto none = std::nullopt;
  const auto format = torch::headeronly::MemoryFormat::ChannelsLast;
  return torch::stable::empty({n, c, h, w}, type, none, none, none, format);
}

// Tiles in a block: about `most`, a multiple of 6, and equal shares for all threads.
inline int64_t even_block(int64_t tiles, int64_t most) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t rounds = (tiles + threads * most - 1) / (threads * most);
  const int64_t each = (tiles + threads * rounds - 1) / (threads * rounds);
  return (each + 5) / 6 * 6;
}

template <class T>
class Matrices {  // 16, of `rows` x `columns`
 public:
  Matrices(int64_t rows, int64_t columns)
      : apart_(rows * columns + 16),
        data_(16 * apart_) {}  // 16 apart: not all in the same cache sets
  T* operator[](int place) { return data_.data() + place * apart_; }

 private:
  int64_t apart_;
  std::vector<T> data_;
};

// Addresses of the Side x Side pixels of tile i, from `from` before its corner; `zeros` if outside.
template <int Side, class S>
void tile_at(const Map& m, const S* pixels, const S* zeros, int64_t from, int64_t i,
             const S* (&at)[Side * Side]) {
  const int64_t x0 = 2 * (i % m.columns()) - from, row = i / m.columns();
  const int64_t y0 = 2 * (row % m.rows()) - from, n = row / m.rows();
  for (int y = 0; y < Side; ++y)
    for (int x = 0; x < Side; ++x) {
      const bool inside = y0 + y >= 0 && y0 + y < m.h && x0 + x >= 0 && x0 + x < m.w;
      at[y * Side + x] = inside ? pixels + ((n * m.h + y0 + y) * m.w + x0 + x) * m.c : zeros;
    }
}

// Channels c to c + kWide of a row of factors, which are joined along the channels.
inline void put(float* row, int64_t c, Wide x) { wide(row + c) = x; }
inline void put(Pair* row, int64_t c, Wide x) { write(reinterpret_cast<Brain*>(row) + c, x); }

// Channels c to c + kWide of joined rows, which are adjacent.
inline void put_joined(float* row, int64_t c, const Wide (&x)[1]) { wide(row + c) = x[0]; }
#ifdef __AVX512BF16__
inline void put_joined(Pair* row, int64_t c, const Wide (&x)[2]) {
  const auto halves = (WideWords)_mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]);
  const WideWords beside = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  *reinterpret_cast<WideWords*>(row + c) = __builtin_shuffle(halves, beside);
}
#endif

// Transforms tiles lo to hi into rows of the matrices, joined along the channels.
template <class S, class Factor>
void gather(const Map& m, const S* pixels, const S* zeros, int64_t lo, int64_t hi,
            Matrices<Factor>& out) {
  for (int64_t i = lo; i < hi; ++i) {
    const S* at[16];
    tile_at<4>(m, pixels, zeros, 1, i, at);
    const int64_t row = (i - lo) * (m.c / kJoined<Factor>);
    for (int64_t c = 0; c < m.c; c += kWide) {
      Wide d[16], t[16];
      for (int p = 0; p < 16; ++p) d[p] = read(at[p] + c);
      transform_input(d, t);
      for (int p = 0; p < 16; ++p) put(out[p] + row, c, t[p]);
    }
  }
}

// The same for the first `channels` from `pixels` on, joined along the tiles, with zeros after the
// last tile. transform(pixels of a tile, their 16 positions, channel). Packed, or row by row.
template <int Side, bool packed, class S, class Factor, class Transform>
void gather_joined(const Map& m, int64_t channels, const S* pixels, const S* zeros, int64_t from,
                   int64_t lo, int64_t hi, Matrices<Factor>& out, Transform transform) {
  constexpr int kTiles = kJoined<Factor>;
  const int64_t depth = (hi - lo + kTiles - 1) / kTiles;
  for (int64_t i = lo; i < hi; i += kTiles) {
    const int64_t row = (i - lo) / kTiles;
    const S* at[kTiles][Side * Side];
    for (int j = 0; j < kTiles; ++j) {
      if (i + j < hi) {
        tile_at<Side>(m, pixels, zeros, from, i + j, at[j]);
      } else {
        std::fill_n(at[j], Side * Side, zeros);
      }
    }
    for (int64_t c = 0; c < channels; c += kWide) {
      Wide t[kTiles][16];
      for (int j = 0; j < kTiles; ++j) {
        Wide d[Side * Side];
        for (int p = 0; p < Side * Side; ++p) d[p] = read(at[j][p] + c);
        transform(d, t[j], c);
      }
      const int64_t place = packed ? packed_at(row, c, depth, channels) : row * channels + c;
      for (int p = 0; p < 16; ++p) {
        Wide both[kTiles];
        for (int j = 0; j < kTiles; ++j) both[j] = t[j][p];
        put_joined(out[p], place, both);
      }
    }
  }
}

}  // namespace guise
