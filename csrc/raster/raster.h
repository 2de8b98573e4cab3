// Arithmetic of the triangle rasteriser: which sample sees which triangle, and with what weights.
//
// Coverage is integer arithmetic on positions in 1/256 of a sample. All sums of products are of
// float factors in double: each product is exact, so a compiler that fuses multiply and add gives
// the same bits. The reference in nets/ops/raster.py therefore agrees to the bit.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "core/hd.h"

namespace guise {

constexpr float kMeshFar = 16383;  // px; a triangle with a coordinate beyond this is not drawn
constexpr int64_t kUnits = 256;    // of a sample's side

// The samples of an image: `samples` x `samples` a pixel.
struct SampleGrid {
  int64_t height, width, samples;
  int64_t rows() const { return height * samples; }
  int64_t columns() const { return width * samples; }
  int64_t count() const { return rows() * columns(); }
};

struct Mesh {
  const float* points;       // [V, 3] x, y in pixels, z larger is nearer
  const int32_t* triangles;  // [T, 3] checked to be in [0, V)
  int64_t count;             // T
  int64_t vertices;          // V
};

// The nearest triangle of each sample.
struct Visible {
  int32_t* index;  // [rows, columns]; -1: none
  float* second;   // [rows, columns] weight of the triangle's second point
  float* third;    // likewise; the first point's is 1 - second - third
  float* depth;    // z
};

GUISE_HD int64_t to_units(float pixels, int64_t samples) {
  return int64_t(std::floor((double(pixels) + 0.5) * double(samples * kUnits) + 0.5));
}

// False also for NaN.
GUISE_HD bool is_near(const float* p) {
  return std::fabs(p[0]) <= kMeshFar && std::fabs(p[1]) <= kMeshFar && std::fabs(p[2]) <= kMeshFar;
}

GUISE_HD float blend(float first, float second, float third, float w1, float w2) {
  const float d1 = second - first, d2 = third - first;
  return float((double(first) + double(w1) * double(d1)) + double(w2) * double(d2));
}

GUISE_HD int64_t floor_units(int64_t a) { return a >> 8; }  // of kUnits

// One edge of a triangle; a sample is inside where all three are >= 0.
struct Edge {
  int64_t value, dx, dy;  // at the first sample, per sample to the right, per sample down
  int64_t bias;           // samples on the edge count for the upper and the left edges alone

  Edge(int64_t ax, int64_t ay, int64_t bx, int64_t by, int64_t x, int64_t y) {
    dx = -(by - ay) * kUnits;
    dy = (bx - ax) * kUnits;
    value = (bx - ax) * (y - ay) - (by - ay) * (x - ax);
    bias = (by < ay || (by == ay && bx > ax)) ? 0 : -1;
  }
};

// Draws a mesh front to back by depth; of equal depths, the first triangle. Only triangles whose
// points run clockwise in the image are drawn. `keep(t, w1, w2)` may refuse a sample.
template <class Keep>
void find_visible(const Mesh& mesh, const SampleGrid& grid, const Visible& out, const Keep& keep) {
  const int64_t rows = grid.rows(), columns = grid.columns(), s = grid.samples;
  std::fill_n(out.index, grid.count(), -1);
  std::fill_n(out.depth, grid.count(), -std::numeric_limits<float>::infinity());
  struct Place {
    int32_t x, y, near;
  };
  std::vector<Place> places(mesh.vertices);  // at most 2^14 * 8 * 256 = 2^25 in size
  for (int64_t i = 0; i < mesh.vertices; ++i) {
    const float* p = mesh.points + 3 * i;
    const bool near = is_near(p);
    places[i] = {near ? int32_t(to_units(p[0], s)) : 0, near ? int32_t(to_units(p[1], s)) : 0,
                 near};
  }
  for (int64_t t = 0; t < mesh.count; ++t) {
    const Place& pa = places[mesh.triangles[3 * t]];
    const Place& pb = places[mesh.triangles[3 * t + 1]];
    const Place& pc = places[mesh.triangles[3 * t + 2]];
    if (!(pa.near & pb.near & pc.near)) continue;
    const int64_t ax = pa.x, ay = pa.y, bx = pb.x, by = pb.y, cx = pc.x, cy = pc.y;
    const int64_t area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
    if (area <= 0) continue;
    const float* a = mesh.points + 3 * int64_t(mesh.triangles[3 * t]);
    const float* b = mesh.points + 3 * int64_t(mesh.triangles[3 * t + 1]);
    const float* c = mesh.points + 3 * int64_t(mesh.triangles[3 * t + 2]);
    constexpr int64_t kHalf = kUnits / 2;  // the first sample's centre
    const int64_t left =
        std::max<int64_t>(0, floor_units(std::min(ax, std::min(bx, cx)) - kHalf + kUnits - 1));
    const int64_t top =
        std::max<int64_t>(0, floor_units(std::min(ay, std::min(by, cy)) - kHalf + kUnits - 1));
    const int64_t right =
        std::min<int64_t>(columns - 1, floor_units(std::max(ax, std::max(bx, cx)) - kHalf));
    const int64_t bottom =
        std::min<int64_t>(rows - 1, floor_units(std::max(ay, std::max(by, cy)) - kHalf));
    if (left > right || top > bottom) continue;
    const int64_t x = left * kUnits + kHalf, y = top * kUnits + kHalf;
    Edge e0(bx, by, cx, cy, x, y), e1(cx, cy, ax, ay, x, y), e2(ax, ay, bx, by, x, y);
    const float inverse = 1.0f / float(area);
    const float z1 = b[2] - a[2], z2 = c[2] - a[2];
    for (int64_t row = top; row <= bottom; ++row) {
      int64_t v0 = e0.value, v1 = e1.value, v2 = e2.value;
      int64_t at = row * columns + left;
      for (int64_t column = left; column <= right; ++column, ++at) {
        if (((v0 + e0.bias) | (v1 + e1.bias) | (v2 + e2.bias)) >= 0) {
          const float w1 = float(v1) * inverse, w2 = float(v2) * inverse;
          const float z = float((double(a[2]) + double(w1) * double(z1)) + double(w2) * double(z2));
          if (z > out.depth[at] && keep(t, w1, w2)) {
            out.depth[at] = z;
            out.index[at] = int32_t(t);
            out.second[at] = w1;
            out.third[at] = w2;
          }
        }
        v0 += e0.dx, v1 += e1.dx, v2 += e2.dx;
      }
      e0.value += e0.dy, e1.value += e1.dy, e2.value += e2.dy;
    }
  }
}

}  // namespace guise
