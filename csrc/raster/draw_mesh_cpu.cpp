#include <memory>

#include "raster/raster_args.h"

namespace guise {
namespace {

constexpr int64_t kShades = 7;  // of a point: gain and gloss in red, green and blue, opacity

struct Texture {
  const uint8_t* texels;  // [height, width, 4]
  int64_t height, width;

  // Position of a texel's centre, clamped to the texture, in 1/256 of a texel.
  static int64_t place(float share, int64_t side) {
    const double x = std::floor((double(share) * double(side) - 0.5) * 256.0);
    if (!(x > 0)) return 0;  // NaN lands here, before the cast (test_any_value_is_safe)
    return x < double((side - 1) * 256) ? int64_t(x) : (side - 1) * 256;
  }

  // Bilinear sample in 1/65536 of a level.
  void sample(float u, float v, int32_t* out) const {
    const int64_t x = place(u, width), y = place(v, height);
    const int64_t x0 = x >> 8, y0 = y >> 8;
    const int64_t x1 = std::min(x0 + 1, width - 1), y1 = std::min(y0 + 1, height - 1);
    const int32_t fx = int32_t(x & 255), fy = int32_t(y & 255);
    const uint8_t *a = texels + (y0 * width + x0) * 4, *b = texels + (y0 * width + x1) * 4;
    const uint8_t *c = texels + (y1 * width + x0) * 4, *d = texels + (y1 * width + x1) * 4;
    for (int k = 0; k < 4; ++k) {
      out[k] = (a[k] * (256 - fx) + b[k] * fx) * (256 - fy) + (c[k] * (256 - fx) + d[k] * fx) * fy;
    }
  }
};

// One image of a mesh: the nearest triangle of each sample, then the mean colour of each pixel.
struct Canvas {
  Mesh mesh;
  SampleGrid grid;
  const float* shades;  // [V, 7]
  const float* uv;      // [V, 2]
  Texture texture;

  void sample(int64_t t, float w1, float w2, int32_t* texel) const {
    const int32_t* corner = mesh.triangles + 3 * t;
    const float *a = uv + 2 * int64_t(corner[0]), *b = uv + 2 * int64_t(corner[1]);
    const float* c = uv + 2 * int64_t(corner[2]);
    texture.sample(blend(a[0], b[0], c[0], w1, w2), blend(a[1], b[1], c[1], w1, w2), texel);
  }

  void draw(const Visible& seen, uint8_t* out) const {
    find_visible(mesh, grid, seen, [&](int64_t t, float w1, float w2) {
      const int32_t* corner = mesh.triangles + 3 * t;
      const float a = shades[kShades * int64_t(corner[0]) + 6];
      const float b = shades[kShades * int64_t(corner[1]) + 6];
      const float c = shades[kShades * int64_t(corner[2]) + 6];
      if (a >= 1 && b >= 1 && c >= 1) return true;
      int32_t texel[4];
      sample(t, w1, w2, texel);
      return double(blend(a, b, c, w1, w2)) + texel[3] / 16777216.0 >= 1;
    });
    const int64_t s = grid.samples, area = grid.height * grid.width, columns = grid.columns();
    for (int64_t y = 0; y < grid.height; ++y) {
      for (int64_t x = 0; x < grid.width; ++x) {
        int64_t sum[3] = {0, 0, 0}, covered = 0;
        for (int64_t i = 0; i < s; ++i) {
          for (int64_t j = 0; j < s; ++j) {
            const int64_t at = (y * s + i) * columns + x * s + j;
            if (seen.index[at] < 0) continue;
            ++covered;
            add(seen.index[at], seen.second[at], seen.third[at], sum);
          }
        }
        uint8_t* const pixel = out + y * grid.width + x;
        const int64_t all = 64 * s * s;  // levels are summed in 1/64
        for (int k = 0; k < 3; ++k) pixel[k * area] = uint8_t((sum[k] + all / 2) / all);
        pixel[3 * area] = uint8_t((255 * covered + s * s / 2) / (s * s));
      }
    }
  }

  // Adds the colour of a sample, in 1/64 of a level.
  void add(int64_t t, float w1, float w2, int64_t* sum) const {
    const int32_t* corner = mesh.triangles + 3 * t;
    const float *a = shades + kShades * int64_t(corner[0]),
                *b = shades + kShades * int64_t(corner[1]);
    const float* c = shades + kShades * int64_t(corner[2]);
    int32_t texel[4];
    sample(t, w1, w2, texel);
    float shade[6];
    for (int k = 0; k < 6; ++k) shade[k] = blend(a[k], b[k], c[k], w1, w2);
    for (int k = 0; k < 3; ++k) {
      // Two float factors: the product is exact.
      const double level = double(shade[k + 3]) + double(shade[k]) * (texel[k] / 65536.0);
      const double fine = std::floor(level * 64 + 0.5);
      sum[k] += fine > 0 ? (fine < 255 * 64 ? int64_t(fine) : 255 * 64) : 0;  // NaN: 0
    }
  }
};

Tensor draw_mesh_cpu(const Tensor& points_, const Tensor& triangles_, const Tensor& shades_,
                     const Tensor& uv_, const Tensor& texture_, int64_t h, int64_t w,
                     int64_t samples) {
  const SampleGrid grid = checked_grid(h, w, samples);
  check_mesh(points_, triangles_);
  const int64_t n = points_.size(0), v = points_.size(1);
  STD_TORCH_CHECK(shades_.dim() == 3 && shades_.size(0) == n && shades_.size(1) == v &&
                      shades_.size(2) == kShades && shades_.scalar_type() == ScalarType::Float,
                  "shades must be [N, V, 7] float32, got ", shape_str(shades_));
  STD_TORCH_CHECK(uv_.dim() == 2 && uv_.size(0) == v && uv_.size(1) == 2 &&
                      uv_.scalar_type() == ScalarType::Float,
                  "uv must be [V, 2] float32, got ", shape_str(uv_));
  STD_TORCH_CHECK(texture_.dim() == 4 && texture_.size(0) == n && texture_.size(3) == 4 &&
                      texture_.scalar_type() == ScalarType::Byte,
                  "texture must be [N, h, w, 4] uint8, got ", shape_str(texture_));
  const int64_t th = texture_.size(1), tw = texture_.size(2);
  STD_TORCH_CHECK(th >= 1 && tw >= 1 && th <= 4096 && tw <= 4096, "texture must have 1 to 4096 ",
                  "texels a side");
  const Tensor points = torch::stable::contiguous(points_);
  const Tensor triangles = torch::stable::contiguous(triangles_);
  const Tensor shades = torch::stable::contiguous(shades_), uv = torch::stable::contiguous(uv_);
  const Tensor texture = torch::stable::contiguous(texture_);
  check_triangles(triangles, v);
  Tensor image = torch::stable::new_empty(points, {n, 4, h, w}, ScalarType::Byte);
  const float* const from = points.const_data_ptr<float>();
  const float* const shade = shades.const_data_ptr<float>();
  const float* const at = uv.const_data_ptr<float>();
  const int32_t* const corners = triangles.const_data_ptr<int32_t>();
  const uint8_t* const texels = texture.const_data_ptr<uint8_t>();
  uint8_t* const to = image.mutable_data_ptr<uint8_t>();
  const int64_t count = triangles.size(0), all = grid.count();
  torch::stable::parallel_for(0, n, 1, [&](int64_t lo, int64_t hi) {
    const std::unique_ptr<int32_t[]> index(new int32_t[all]);
    const std::unique_ptr<float[]> floats(new float[3 * all]);
    for (int64_t i = lo; i < hi; ++i) {
      const Canvas canvas{{from + i * v * 3, corners, count, v},
                          grid,
                          shade + i * v * kShades,
                          at,
                          {texels + i * th * tw * 4, th, tw}};
      canvas.draw({index.get(), floats.get(), floats.get() + all, floats.get() + 2 * all},
                  to + i * 4 * h * w);
    }
  });
  return image;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) { m.impl("draw_mesh", TORCH_BOX(&guise::draw_mesh_cpu)); }
