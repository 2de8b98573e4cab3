// 3x3 convolutions with 2.25 times fewer products: Winograd's F(2x2, 3x3).
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1. A
// tile of 2x2 outputs needs 4x4 inputs d and a 3x3 filter g: A^T [(G g G^T) (B^T d B)] A. Products
// of the 16 positions are independent: 16 matrix products, tiles x inputs by inputs x outputs.
#pragma once

namespace guise {

// B^T d B, 4x4 to 4x4, both row by row.
template <class V>
inline void transform_input(const V (&d)[16], V (&out)[16]) {
  V t[16];
  for (int x = 0; x < 4; ++x) {
    t[x] = d[x] - d[8 + x];
    t[4 + x] = d[4 + x] + d[8 + x];
    t[8 + x] = d[8 + x] - d[4 + x];
    t[12 + x] = d[4 + x] - d[12 + x];
  }
  for (int y = 0; y < 16; y += 4) {
    out[y] = t[y] - t[y + 2];
    out[y + 1] = t[y + 1] + t[y + 2];
    out[y + 2] = t[y + 2] - t[y + 1];
    out[y + 3] = t[y + 1] - t[y + 3];
  }
}

// A^T m A, 4x4 to 2x2.
template <class V>
inline void transform_output(const V (&m)[16], V (&out)[4]) {
  V t[8];
  for (int x = 0; x < 4; ++x) {
    t[x] = m[x] + m[4 + x] + m[8 + x];
    t[4 + x] = m[4 + x] - m[8 + x] - m[12 + x];
  }
  for (int y = 0; y < 2; ++y) {
    out[2 * y] = t[4 * y] + t[4 * y + 1] + t[4 * y + 2];
    out[2 * y + 1] = t[4 * y + 1] - t[4 * y + 2] - t[4 * y + 3];
  }
}

// A g A^T, 2x2 to 4x4: the transpose of transform_output, for gradients.
template <class V>
inline void transform_gradient(const V (&g)[4], V (&out)[16]) {
  V t[8];
  for (int x = 0; x < 2; ++x) {
    t[x] = g[x];
    t[2 + x] = g[x] + g[2 + x];
    t[4 + x] = g[x] - g[2 + x];
    t[6 + x] = -g[2 + x];
  }
  for (int y = 0; y < 4; ++y) {
    out[4 * y] = t[2 * y];
    out[4 * y + 1] = t[2 * y] + t[2 * y + 1];
    out[4 * y + 2] = t[2 * y] - t[2 * y + 1];
    out[4 * y + 3] = -t[2 * y + 1];
  }
}

// G g G^T, 3x3 to 4x4.
template <class V>
inline void transform_filter(const V (&g)[9], V (&out)[16]) {
  V t[12];
  for (int x = 0; x < 3; ++x) {
    const V ends = (g[x] + g[6 + x]) * 0.5f, middle = g[3 + x] * 0.5f;
    t[x] = g[x];
    t[3 + x] = ends + middle;
    t[6 + x] = ends - middle;
    t[9 + x] = g[6 + x];
  }
  for (int y = 0; y < 4; ++y) {
    const V ends = (t[3 * y] + t[3 * y + 2]) * 0.5f, middle = t[3 * y + 1] * 0.5f;
    out[4 * y] = t[3 * y];
    out[4 * y + 1] = ends + middle;
    out[4 * y + 2] = ends - middle;
    out[4 * y + 3] = t[3 * y + 2];
  }
}

// G^T u G, 4x4 to 3x3: the transpose of transform_filter.
template <class V>
inline void transform_filter_back(const V (&u)[16], V (&out)[9]) {
  V t[12];
  for (int x = 0; x < 4; ++x) {
    const V sum = (u[4 + x] + u[8 + x]) * 0.5f;
    t[x] = u[x] + sum;
    t[4 + x] = (u[4 + x] - u[8 + x]) * 0.5f;
    t[8 + x] = sum + u[12 + x];
  }
  for (int y = 0; y < 3; ++y) {
    const V sum = (t[4 * y + 1] + t[4 * y + 2]) * 0.5f;
    out[3 * y] = t[4 * y] + sum;
    out[3 * y + 1] = (t[4 * y + 1] - t[4 * y + 2]) * 0.5f;
    out[3 * y + 2] = sum + t[4 * y + 3];
  }
}

}  // namespace guise
