#include "tiles.h"

namespace guise {
namespace {

constexpr int64_t kStage = 512;  // tiles whose sum is one term of the whole: errors grow slower

// Filters [O, I, 3, 3], channels_last, as 16 matrices inputs x outputs. Backwards: of the
// convolution that takes gradients of the outputs to gradients of the inputs.
std::vector<float> filters_of(const float* weight, int64_t outputs, int64_t inputs, bool back) {
  std::vector<float> u(16 * outputs * inputs);
  const int64_t size = outputs * inputs;
  torch::stable::parallel_for(0, outputs, 16, [&](int64_t lo, int64_t hi) {
    for (int64_t o = lo; o < hi; ++o)
      for (int64_t i = 0; i < inputs; i += kWide) {
        Wide g[9], t[16];
        for (int p = 0; p < 9; ++p) g[back ? 8 - p : p] = wide(weight + (o * 9 + p) * inputs + i);
        transform_filter(g, t);
        for (int p = 0; p < 16; ++p) {
          if (back) {
            wide(u.data() + p * size + o * inputs + i) = t[p];
          } else {
            for (int l = 0; l < kWide; ++l) u[p * size + (i + l) * outputs + o] = t[p][l];
          }
        }
      }
  });
  return u;
}

// The matrices' rows to the pixels of tiles lo to hi, plus bias and what is added, if any.
void scatter(const Map& m, Matrices& from, const float* bias, const float* added, int64_t lo,
             int64_t hi, float* pixels) {
  for (int64_t i = lo; i < hi; ++i) {
    const int64_t x0 = 2 * (i % m.columns()), row = i / m.columns();
    const int64_t y0 = 2 * (row % m.rows()), n = row / m.rows();
    const int64_t first = ((n * m.h + y0) * m.w + x0) * m.c;
    const bool inside[4] = {true, x0 + 1 < m.w, y0 + 1 < m.h, x0 + 1 < m.w && y0 + 1 < m.h};
    for (int64_t c = 0; c < m.c; c += kWide) {
      Wide t[16], y[4];
      for (int p = 0; p < 16; ++p) t[p] = wide(from[p] + (i - lo) * m.c + c);
      transform_output(t, y);
      const Wide b = bias ? wide(bias + c) : Wide{};
      for (int p = 0; p < 4; ++p) {
        if (!inside[p]) continue;
        const int64_t at = first + (p / 2 * m.w + p % 2) * m.c + c;
        wide(pixels + at) = added ? y[p] + b + wide(added + at) : y[p] + b;
      }
    }
  }
}

Tensor convolve(const Tensor& x, const Tensor& weight, const float* bias, const Tensor* added,
                bool back) {
  const Map from = map_of(x, back ? "grad" : "x"), filter = map_of(weight, "weight");
  STD_TORCH_CHECK(filter.h == 3 && filter.w == 3 && filter.n > 0 && filter.n % kWide == 0 &&
                      (back ? filter.n : filter.c) == from.c,
                  "weight must be [O, I, 3, 3] that fits, got ", shape_str(weight));
  Map to = from;
  to.c = back ? filter.c : filter.n;
  if (added) {
    const Map m = map_of(*added, "added");
    STD_TORCH_CHECK(m.n == to.n && m.c == to.c && m.h == to.h && m.w == to.w,
                    "added must be of the result's shape, got ", shape_str(*added));
  }
  Tensor out = channels_last(x, to.n, to.c, to.h, to.w);
  if (to.tiles() == 0) return out;
  const auto filters = filters_of(weight.const_data_ptr<float>(), filter.n, filter.c, back);
  const std::vector<float> zeros(from.c);
  const float *const pixels = x.const_data_ptr<float>(), *const plus =
                                                             added ? added->const_data_ptr<float>()
                                                                   : nullptr;
  float* const result = out.mutable_data_ptr<float>();
  const int64_t block = tiles_at_once(from.c, to.c), blocks = (to.tiles() + block - 1) / block;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t lo, int64_t hi) {
    Matrices in(block, from.c), made(block, to.c);
    for (int64_t b = lo; b < hi; ++b) {
      const int64_t first = b * block, last = std::min(first + block, to.tiles());
      gather_inputs(from, pixels, zeros.data(), first, last, in);
      for (int p = 0; p < 16; ++p)
        product<false>(in[p], from.c, 1, filters.data() + p * from.c * to.c, made[p], last - first,
                       to.c, from.c);
      scatter(to, made, bias, plus, first, last, result);
    }
  });
  return out;
}

Tensor conv3x3_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   const std::optional<Tensor>& added) {
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0) &&
                            bias->scalar_type() == ScalarType::Float && bias->is_contiguous()),
                  "bias must be a contiguous float [O]");
  return convolve(x, weight, bias ? bias->const_data_ptr<float>() : nullptr,
                  added ? &*added : nullptr, false);
}

Tensor conv3x3_input_backward_cpu(const Tensor& grad, const Tensor& weight) {
  return convolve(grad, weight, nullptr, nullptr, true);
}

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
  m.impl("conv3x3", TORCH_BOX(&guise::conv3x3_cpu));
  m.impl("conv3x3_input_backward", TORCH_BOX(&guise::conv3x3_input_backward_cpu));
  m.impl("conv3x3_weight_backward", TORCH_BOX(&guise::conv3x3_weight_backward_cpu));
}
