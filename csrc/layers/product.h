// Products of small matrices, in lanes that the compiler maps to vector registers.
//
// Factors are floats, or pairs of bfloat16 if the processor has instructions for them. A pair holds
// two neighbours along the sum. Sums are floats.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace guise {

#ifdef __AVX512F__
constexpr int kWide = 16;
#else
constexpr int kWide = 8;
#endif
// Aligned like a float: pixels and rows of a matrix begin anywhere.
typedef float Wide __attribute__((vector_size(kWide * 4), aligned(4)));
typedef uint32_t WideBits __attribute__((vector_size(kWide * 4), aligned(4)));
typedef uint16_t WideWords __attribute__((vector_size(kWide * 4), aligned(4)));
typedef uint16_t WideHalf __attribute__((vector_size(kWide * 2), aligned(2)));

struct Brain {  // a bfloat16: the upper half of a float
  uint16_t bits;
};

inline Wide& wide(float* p) { return *reinterpret_cast<Wide*>(p); }
inline const Wide& wide(const float* p) { return *reinterpret_cast<const Wide*>(p); }

inline Wide read(const float* p) { return wide(p); }
inline Wide read(const Brain* p) {
  return (Wide)(__builtin_convertvector(*reinterpret_cast<const WideHalf*>(p), WideBits) << 16);
}

// Rounds to nearest, ties to even. NaN stays NaN.
inline WideHalf rounded(Wide x) {
#ifdef __AVX512BF16__
  return (WideHalf)_mm512_cvtneps_pbh((__m512)x);
#else
  const WideBits bits = (WideBits)x;
  const WideBits nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return __builtin_convertvector(x == x ? nearest : (bits >> 16 | 0x40), WideHalf);
#endif
}

inline void write(float* p, Wide x) { wide(p) = x; }
inline void write(Brain* p, Wide x) { *reinterpret_cast<WideHalf*>(p) = rounded(x); }

struct Pair {
  uint32_t bits;  // the first number in the lower half
};

template <class Factor>
constexpr int kJoined = 1;  // numbers in a factor
template <>
constexpr int kJoined<Pair> = 2;

// For a type of numbers: the type of factors, and the type of sums of their products.
template <class Number>
struct FactorOf {
  using type = float;
};
template <class Factor>
struct SumOf {
  using type = Wide;
};
#ifdef __AVX512BF16__
template <>
struct FactorOf<Brain> {
  using type = Pair;
};
template <>
struct SumOf<Pair> {
  using type = __m512;
};

inline __m512bh load(const Pair* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline __m512 plus_product(__m512 sum, Pair x, __m512bh line) {
  return _mm512_dpbf16_ps(sum, line, (__m512bh)_mm512_set1_epi32(x.bits));
}
#endif

inline Wide load(const float* p) { return wide(p); }
inline Wide plus_product(Wide sum, float x, Wide line) { return sum + x * line; }

// c (+)= a b for `Rows` rows and `Vectors` * kWide columns, held in registers; a(r, k) lies at
// a[r * row + k * column], b and c are row by row.
template <int Rows, int Vectors, class Factor>
inline void product_block(const Factor* a, int64_t row, int64_t column, const Factor* b,
                          int64_t ldb, float* c, int64_t ldc, int64_t depth, bool add) {
  using Sum = typename SumOf<Factor>::type;
  Sum sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[r][v] = add ? (Sum)wide(c + r * ldc + v * kWide) : Sum{};
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load(b)) line[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) line[v] = load(b + k * ldb + v * kWide);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Factor x = a[r * row + k * column];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[r][v] = plus_product(sum[r][v], x, line[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) wide(c + r * ldc + v * kWide) = (Wide)sum[r][v];
}

constexpr int kMost = kWide == 16 ? 4 : 2;  // vectors of a row of c that registers hold
constexpr int kPanel = kMost * kWide;       // columns of b at once
constexpr int64_t kDeep = 96;               // rows of b at once: with a panel, 24 KiB

template <int Vectors, class Factor>
void product_panel(const Factor* a, int64_t row, int64_t column, const Factor* b, int64_t ldb,
                   float* c, int64_t ldc, int64_t rows, int64_t depth, bool add) {
  constexpr int kRows = kWide == 8 ? (Vectors == 1 ? 8 : 6) : Vectors == 4 ? 6 : 8;
  for (int64_t k = 0; k < depth; k += kDeep, add = true) {
    const int64_t deep = std::min(kDeep, depth - k);
    const Factor *from = a + k * column, *line = b + k * ldb;
    int64_t r = 0;
    for (; r + kRows <= rows; r += kRows)
      product_block<kRows, Vectors>(from + r * row, row, column, line, ldb, c + r * ldc, ldc, deep,
                                    add);
    for (; r + 2 <= rows; r += 2)
      product_block<2, Vectors>(from + r * row, row, column, line, ldb, c + r * ldc, ldc, deep,
                                add);
    for (; r < rows; ++r)
      product_block<1, Vectors>(from + r * row, row, column, line, ldb, c + r * ldc, ldc, deep,
                                add);
  }
}

// The offset of number n of row k in a packed matrix. It is stored panel by panel of kPanel
// columns, each row by row; the last panel holds the columns that remain. A panel fills whole cache
// sets.
inline int64_t packed_at(int64_t k, int64_t n, int64_t depth, int64_t columns) {
  const int64_t first = n / kPanel * kPanel;
  return first * depth + k * std::min<int64_t>(kPanel, columns - first) + n - first;
}

// The whole product; `columns` is a multiple of kWide, b is packed.
template <class Factor>
void product(const Factor* a, int64_t row, int64_t column, const Factor* b, float* c, int64_t rows,
             int64_t columns, int64_t depth, bool add) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - n);
    const auto run = [&](auto call) {
      call(a, row, column, b + n * depth, width, c + n, columns, rows, depth, add);
    };
    switch (width / kWide) {
      case 1:
        run(product_panel<1, Factor>);
        break;
      case 2:
        run(product_panel<2, Factor>);
        break;
      case 3:
        run(product_panel<3, Factor>);
        break;
      default:
        run(product_panel<kMost, Factor>);
    }
  }
}

}  // namespace guise
