// Writes the image once; points and program are a few kB. 16x3x256x256 is 3 MB, about 1 us at the
// bandwidth of an H100 or H200: the launch takes longer. Not yet measured on a GPU.
#include <algorithm>

#include "skeleton/skeleton_args.h"

namespace guise {
namespace {

constexpr int kThreads = 128, kMaxStrokes = 256;

struct Program {  // a kernel argument: no copy to the device, and CUDA graphs can hold it
  int16_t word[kMaxWords];
};

// A block draws one row of one image at a time. First each thread computes the spans of one stroke.
// Then each pixel takes the colour of the last stroke that covers it.
__global__ void __launch_bounds__(kThreads)
    draw_kernel(const __grid_constant__ Program program, SkeletonStyle style, int strokes,
                const float* points, int64_t joints, int64_t rows, int64_t h, int64_t w,
                uint8_t* out) {
  __shared__ int2 spans[kMaxStrokes][kMaxSpans];
  __shared__ int counts[kMaxStrokes];
  const int words = int(style.words());
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t image = r / h, y = r % h;
    for (int i = threadIdx.x; i < strokes; i += kThreads) {
      const Shape shape(program.word + i * words, points + image * joints * 2, style);
      int count = 0;
      if (y >= shape.top && y <= shape.bottom) {
        Span row_spans[kMaxSpans];
        count = int(shape_row(shape, style, y, row_spans));
        for (int k = 0; k < count; ++k) {
          spans[i][k] = {int(row_spans[k].first), int(row_spans[k].last)};
        }
      }
      counts[i] = count;
    }
    __syncthreads();
    for (int64_t x = threadIdx.x; x < w; x += kThreads) {
      int colour[4] = {int(style.background), int(style.background), int(style.background),
                       int(style.background)};
      for (int i = 0; i < strokes; ++i) {
        bool covered = false;
        for (int k = 0; k < counts[i]; ++k) {
          covered |= x >= spans[i][k].x && x <= spans[i][k].y;
        }
        if (!covered) continue;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int value = c < style.channels ? program.word[i * words + 5 + c] : -1;
          colour[c] = value < 0 ? colour[c] : value;
        }
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (c < style.channels) out[((image * style.channels + c) * h + y) * w + x] = colour[c];
      }
    }
    __syncthreads();
  }
}

Tensor draw_skeleton_cuda(const Tensor& points_, std::vector<int64_t> words,
                          std::vector<int64_t> numbers, int64_t h, int64_t w) {
  const SkeletonStyle style = skeleton_style(points_, words, numbers, h, w);
  const torch::stable::accelerator::DeviceGuard guard(points_.get_device_index());
  const Tensor points = torch::stable::contiguous(points_);
  const int64_t n = points.size(0), rows = n * h;
  const int strokes = int(int64_t(words.size()) / style.words());
  STD_TORCH_CHECK(strokes <= kMaxStrokes, "program must hold at most 256 strokes");
  Tensor canvas = torch::stable::new_empty(points, {n, style.channels, h, w}, ScalarType::Byte);
  if (rows == 0) return canvas;
  Program program{};
  std::copy(words.begin(), words.end(), program.word);
  const unsigned grid = unsigned(std::min<int64_t>(rows, 1 << 16));
  draw_kernel<<<grid, kThreads, 0, stream_of(points)>>>(
      program, style, strokes, points.const_data_ptr<float>(), points.size(1), rows, h, w,
      canvas.mutable_data_ptr<uint8_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return canvas;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CUDA, m) {
  m.impl("draw_skeleton", TORCH_BOX(&guise::draw_skeleton_cuda));
}
