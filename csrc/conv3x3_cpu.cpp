#include "tiles.h"

namespace guise {
namespace {

constexpr int64_t kStage = 512;  // tiles whose sum is one term of the whole: errors grow slower

// How many tiles at once. Where the filters stay in a second-level cache of a MiB, so do the tiles'
// 16 matrices, in half of it; else many, since the filters are read again for each block.
int64_t tiles_at_once(int64_t inputs, int64_t outputs, int64_t tiles) {
  const bool small = 16 * inputs * outputs <= int64_t(1) << 18;
  return even_block(tiles, small ? std::clamp<int64_t>(6400 / (inputs + outputs), 24, 96) : 96);
}

// Filters [O, I, 3, 3], channels_last, as 16 matrices inputs x outputs, packed and joined along the
// inputs. Backwards: of the convolution that takes gradients of the outputs to gradients of the
// inputs, outputs x inputs.
template <class Factor>
std::vector<Factor> filters_of(const float* weight, int64_t outputs, int64_t inputs, bool back) {
  constexpr int64_t kJoin = kJoined<Factor>;
  const int64_t size = outputs * inputs / kJoin;
  const int64_t columns = back ? inputs : outputs, depth = size / columns;
  std::vector<Factor> u(16 * size);
  // Where column n of row k lies, in a matrix that is packed.
  const auto place = [&](int64_t k, int64_t n) {
    const int64_t first = n / kPanel * kPanel;
    return first * depth + k * std::min<int64_t>(kPanel, columns - first) + n - first;
  };
  torch::stable::parallel_for(0, outputs / kJoin, 8, [&](int64_t lo, int64_t hi) {
    for (int64_t o = lo * kJoin; o < hi * kJoin; o += kJoin)
      for (int64_t i = 0; i < inputs; i += kWide) {
        Wide t[kJoin][16];
        for (int64_t j = 0; j < kJoin; ++j) {
          Wide g[9];
          for (int p = 0; p < 9; ++p)
            g[back ? 8 - p : p] = wide(weight + ((o + j) * 9 + p) * inputs + i);
          transform_filter(g, t[j]);
        }
        for (int p = 0; p < 16; ++p) {
          Factor* const at = u.data() + p * size;
          if (back) {
            Wide both[kJoin];
            for (int64_t j = 0; j < kJoin; ++j) both[j] = t[j][p];
            put_joined(at + place(o / kJoin, i), 0, both);
          } else {
            for (int64_t j = 0; j < kJoin; ++j) {
              Factor line[kWide / kJoin];
              put(line, 0, t[j][p]);
              for (int64_t l = 0; l < kWide / kJoin; ++l) at[place(i / kJoin + l, o + j)] = line[l];
            }
          }
        }
      }
  });
  return u;
}

// The matrices' rows to the pixels of tiles lo to hi, plus bias and what is added, if any.
template <class S>
void scatter(const Map& m, Matrices<float>& from, const float* bias, const S* added, int64_t lo,
             int64_t hi, S* pixels) {
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
        write(pixels + at, added ? y[p] + b + read(added + at) : y[p] + b);
      }
    }
  }
}

template <class S>
void convolve(const Map& from, const Map& to, const S* pixels, const float* weight,
              const float* bias, const S* added, bool back, S* result) {
  using Factor = typename FactorOf<S>::type;
  constexpr int64_t kJoin = kJoined<Factor>;
  const auto filters = filters_of<Factor>(weight, back ? from.c : to.c, back ? to.c : from.c, back);
  const int64_t size = from.c * to.c / kJoin;
  const std::vector<S> zeros(from.c);
  const int64_t block = tiles_at_once(from.c / kJoin, to.c, to.tiles());
  const int64_t blocks = (to.tiles() + block - 1) / block;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t lo, int64_t hi) {
    Matrices<Factor> in(block, from.c / kJoin);
    Matrices<float> made(block, to.c);
    for (int64_t b = lo; b < hi; ++b) {
      const int64_t first = b * block, last = std::min(first + block, to.tiles());
      gather(from, pixels, zeros.data(), first, last, in);
      for (int p = 0; p < 16; ++p)
        product<true>(in[p], from.c / kJoin, 1, filters.data() + p * size, made[p], last - first,
                      to.c, from.c / kJoin, false);
      scatter(to, made, bias, added, first, last, result);
    }
  });
}

template <class S>
const S* pointer(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

// body(S{}) for the type of pictures, float or bfloat16.
template <class F>
void for_type(ScalarType type, const F& body) {
  type == ScalarType::Float ? body(float{}) : body(Brain{});
}

Tensor convolve(const Tensor& x, const Tensor& weight, const float* bias, const Tensor* added,
                bool back) {
  const ScalarType type =
      x.scalar_type() == ScalarType::BFloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  const Map from = map_of(x, type, back ? "grad" : "x");
  const Map filter = map_of(weight, ScalarType::Float, "weight");
  STD_TORCH_CHECK(filter.h == 3 && filter.w == 3 && filter.n > 0 && filter.n % 16 == 0 &&
                      (back ? filter.n : filter.c) == from.c,
                  "weight must be [O, I, 3, 3] that fits, got ", shape_str(weight));
  Map to = from;
  to.c = back ? filter.c : filter.n;
  if (added) {
    const Map m = map_of(*added, type, "added");
    STD_TORCH_CHECK(m.n == to.n && m.c == to.c && m.h == to.h && m.w == to.w,
                    "added must be of the result's shape, got ", shape_str(*added));
  }
  Tensor out = channels_last(to.n, to.c, to.h, to.w, type);
  if (to.tiles() == 0) return out;
  for_type(type, [&](auto s) {
    using S = decltype(s);
    convolve(from, to, pointer<S>(x), pointer<float>(weight), bias,
             added ? pointer<S>(*added) : nullptr, back, static_cast<S*>(out.mutable_data_ptr()));
  });
  return out;
}

Tensor conv3x3_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   const std::optional<Tensor>& added_) {
  std::optional<Tensor> added;
  if (added_) added = channels_last(*added_);
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0) &&
                            bias->scalar_type() == ScalarType::Float && bias->is_contiguous()),
                  "bias must be a contiguous float [O]");
  return convolve(channels_last(x), channels_last(weight), bias ? pointer<float>(*bias) : nullptr,
                  added ? &*added : nullptr, false);
}

Tensor conv3x3_input_backward_cpu(const Tensor& grad, const Tensor& weight) {
  return convolve(channels_last(grad), channels_last(weight), nullptr, nullptr, true);
}

// The sum over the blocks lo to hi of gradient^T input, 16 matrices outputs x inputs.
template <class S>
std::vector<float> sum_of(const Map& to, const Map& from, const S* grads, const S* inputs,
                          int64_t block, int64_t lo, int64_t hi) {
  using Factor = typename FactorOf<S>::type;
  constexpr int64_t kJoin = kJoined<Factor>;
  const int64_t size = 16 * from.c * to.c, stage = std::max<int64_t>(1, kStage / block);
  const std::vector<S> zeros(std::max(from.c, to.c));
  Matrices<Factor> in((block + 1) / kJoin, from.c), back((block + 1) / kJoin, to.c);
  std::vector<float> sum, part(size);
  for (int64_t b = lo; b < hi; ++b) {
    const int64_t first = b * block, last = std::min(first + block, to.tiles());
    gather_joined<4>(from, inputs, zeros.data(), 1, first, last, in,
                     [](const Wide(&d)[16], Wide(&t)[16]) { transform_input(d, t); });
    gather_joined<2>(to, grads, zeros.data(), 0, first, last, back,
                     [](const Wide(&g)[4], Wide(&t)[16]) { transform_gradient(g, t); });
    for (int p = 0; p < 16; ++p)
      product<false>(back[p], 1, to.c, in[p], part.data() + p * from.c * to.c, to.c, from.c,
                     (last - first + kJoin - 1) / kJoin, (b - lo) % stage != 0);
    if (hi - lo > stage && ((b - lo) % stage == stage - 1 || b == hi - 1)) {
      if (sum.empty()) sum.resize(size);
      for (int64_t i = 0; i < size; ++i) sum[i] += part[i];
    }
  }
  return sum.empty() ? part : sum;
}

Tensor conv3x3_weight_backward_cpu(const Tensor& grad_, const Tensor& x_) {
  const Tensor grad = channels_last(grad_), x = channels_last(x_);
  const ScalarType type =
      x.scalar_type() == ScalarType::BFloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  const Map to = map_of(grad, type, "grad"), from = map_of(x, type, "x");
  STD_TORCH_CHECK(to.n == from.n && to.h == from.h && to.w == from.w,
                  "grad must be of x's size, got ", shape_str(grad), " for ", shape_str(x));
  Tensor out = channels_last(to.c, from.c, 3, 3, ScalarType::Float);
  // A block reads and writes all sums, so the larger they are, the larger are the blocks.
  const int64_t most = std::clamp<int64_t>(from.c * to.c / 1024, 96, 192);
  const int64_t block = even_block(to.tiles(), most), blocks = (to.tiles() + block - 1) / block;
  // Every thread sums its own share of the tiles.
  const int64_t shares = std::clamp<int64_t>(torch::stable::get_num_threads(), 1, blocks + 1);
  std::vector<std::vector<float>> sums(shares);
  for_type(type, [&](auto s) {
    using S = decltype(s);
    torch::stable::parallel_for(0, shares, 1, [&](int64_t lo, int64_t hi) {
      for (int64_t i = lo; i < hi; ++i)
        sums[i] = sum_of(to, from, pointer<S>(grad), pointer<S>(x), block, i * blocks / shares,
                         (i + 1) * blocks / shares);
    });
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
