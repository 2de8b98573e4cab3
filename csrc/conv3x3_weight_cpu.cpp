#include "tiles.h"

namespace guise {
namespace {

constexpr int64_t kStage = 512;  // tiles whose sum is one term of the whole: errors grow slower

// The sum over the blocks lo to hi of gradient^T input, 16 matrices outputs x inputs.
std::vector<float> sum_of(const Map& to, const Map& from, const float* grads, const float* inputs,
                          int64_t block, int64_t lo, int64_t hi) {
  const int64_t size = 16 * from.c * to.c, stage = std::max<int64_t>(1, kStage / block);
  const std::vector<float> zeros(std::max(from.c, to.c));
  Matrices in(block, from.c), back(block, to.c);
  std::vector<float> sum(size), part(size);
  for (int64_t b = lo; b < hi; ++b) {
    const int64_t first = b * block, last = std::min(first + block, to.tiles());
    gather_inputs(from, inputs, zeros.data(), first, last, in);
    gather<2>(to, grads, zeros.data(), 0, first, last, back,
              [](const Wide(&g)[4], Wide(&t)[16]) { transform_gradient(g, t); });
    const bool begins = (b - lo) % stage == 0;
    for (int p = 0; p < 16; ++p) {
      float* const at = part.data() + p * from.c * to.c;
      begins ? product<false>(back[p], 1, to.c, in[p], at, to.c, from.c, last - first)
             : product<true>(back[p], 1, to.c, in[p], at, to.c, from.c, last - first);
    }
    if ((b - lo) % stage == stage - 1 || b == hi - 1)
      for (int64_t i = 0; i < size; ++i) sum[i] += part[i];
  }
  return sum;
}

Tensor conv3x3_weight_backward_cpu(const Tensor& grad, const Tensor& x) {
  const Map to = map_of(grad, "grad"), from = map_of(x, "x");
  STD_TORCH_CHECK(to.n == from.n && to.h == from.h && to.w == from.w,
                  "grad must be of x's size, got ", shape_str(grad), " for ", shape_str(x));
  Tensor out = channels_last(x, to.c, from.c, 3, 3);
  const int64_t block = tiles_at_once(from.c, to.c), blocks = (to.tiles() + block - 1) / block;
  // Every thread sums its own share of the tiles.
  const int64_t shares = std::clamp<int64_t>(torch::stable::get_num_threads(), 1, blocks + 1);
  std::vector<std::vector<float>> sums(shares);
  torch::stable::parallel_for(0, shares, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t s = lo; s < hi; ++s)
      sums[s] = sum_of(to, from, grad.const_data_ptr<float>(), x.const_data_ptr<float>(), block,
                       s * blocks / shares, (s + 1) * blocks / shares);
  });
  float* const result = out.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, to.c, 16, [&](int64_t lo, int64_t hi) {
    for (int64_t o = lo; o < hi; ++o)
      for (int64_t i = 0; i < from.c; i += kWide) {
        Wide u[16] = {}, g[9];
        for (const auto& sum : sums)
          for (int p = 0; p < 16; ++p) u[p] += wide(sum.data() + (p * to.c + o) * from.c + i);
        transform_filter_back(u, g);
        for (int p = 0; p < 9; ++p) wide(result + (o * 9 + p) * from.c + i) = g[p];
      }
  });
  return out;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("conv3x3_weight_backward", TORCH_BOX(&guise::conv3x3_weight_backward_cpu));
}
