// Products of small matrices of floats, in lanes that the compiler maps to the processor's vectors.
#pragma once
#include <cstdint>

namespace guise {

#ifdef __AVX512F__
constexpr int kWide = 16;
#else
constexpr int kWide = 8;
#endif
// Aligned as a float is: pixels and rows of a matrix begin anywhere.
typedef float Wide __attribute__((vector_size(kWide * 4), aligned(4)));

inline Wide& wide(float* p) { return *reinterpret_cast<Wide*>(p); }
inline const Wide& wide(const float* p) { return *reinterpret_cast<const Wide*>(p); }

// c (+)= a b for `Rows` rows and `Vectors` * kWide columns, held in registers; a(r, k) lies at
// a[r * row + k * column], b and c are row by row.
template <int Rows, int Vectors, bool add>
inline void product_block(const float* a, int64_t row, int64_t column, const float* b, int64_t ldb,
                          float* c, int64_t ldc, int64_t depth) {
  Wide sum[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) sum[r][v] = add ? wide(c + r * ldc + v * kWide) : Wide{};
  for (int64_t k = 0; k < depth; ++k) {
    Wide line[Vectors];
    for (int v = 0; v < Vectors; ++v) line[v] = wide(b + k * ldb + v * kWide);
    for (int r = 0; r < Rows; ++r) {
      const float x = a[r * row + k * column];
      for (int v = 0; v < Vectors; ++v) sum[r][v] += x * line[v];
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v) wide(c + r * ldc + v * kWide) = sum[r][v];
}

template <int Vectors, bool add>
inline void product_columns(const float* a, int64_t row, int64_t column, const float* b,
                            int64_t ldb, float* c, int64_t ldc, int64_t rows, int64_t depth) {
  constexpr int kRows = Vectors == 1 ? 8 : kWide == 16 ? (Vectors == 4 ? 6 : 8) : 6;
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    product_block<kRows, Vectors, add>(a + r * row, row, column, b, ldb, c + r * ldc, ldc, depth);
  for (; r + 2 <= rows; r += 2)
    product_block<2, Vectors, add>(a + r * row, row, column, b, ldb, c + r * ldc, ldc, depth);
  for (; r < rows; ++r)
    product_block<1, Vectors, add>(a + r * row, row, column, b, ldb, c + r * ldc, ldc, depth);
}

// The whole product; `columns` is a multiple of kWide.
template <bool add>
void product(const float* a, int64_t row, int64_t column, const float* b, float* c, int64_t rows,
             int64_t columns, int64_t depth) {
  constexpr int kMost = kWide == 16 ? 4 : 2;
  int64_t n = 0;
  for (; n + kMost * kWide <= columns; n += kMost * kWide)
    product_columns<kMost, add>(a, row, column, b + n, columns, c + n, columns, rows, depth);
  for (; n + 2 * kWide <= columns; n += 2 * kWide)
    product_columns<2, add>(a, row, column, b + n, columns, c + n, columns, rows, depth);
  for (; n < columns; n += kWide)
    product_columns<1, add>(a, row, column, b + n, columns, c + n, columns, rows, depth);
}

}  // namespace guise
