#include <atomic>
#include <memory>

#include "layers/tiles.h"

namespace guise {
namespace {

constexpr int64_t kStage = 512;  // tiles of a partial sum, which keeps rounding errors small

// Tiles in a block. If the filters fit a second-level cache of 1 MiB, the tiles' 16 matrices take
// half of it. Else blocks are large, because each reads all filters again.
int64_t tiles_at_once(int64_t inputs, int64_t outputs, int64_t tiles) {
  const bool small = 16 * inputs * outputs <= int64_t(1) << 18;
  return even_block(tiles, small ? std::clamp<int64_t>(6400 / (inputs + outputs), 24, 96) : 96);
}

// Filters [O, I, 3, 3], channels_last, as 16 matrices inputs x outputs, packed and joined along the
// inputs. Backwards: outputs x inputs, of the convolution from gradients of the outputs to those of
// the inputs.
template <class Factor>
std::vector<Factor> filters_of(const float* weight, int64_t outputs, int64_t inputs, bool back) {
  constexpr int64_t kJoin = kJoined<Factor>;
  const int64_t size = outputs * inputs / kJoin;
  const int64_t columns = back ? inputs : outputs, depth = size / columns;
  std::vector<Factor> u(16 * size);
  const auto place = [&](int64_t k, int64_t n) { return packed_at(k, n, depth, columns); };
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

// Transforms the rows of the matrices to the pixels of tiles lo to hi, plus bias and `added`.
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
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), blocks);
  std::atomic<int64_t> next = 0;  // a slow thread leaves blocks to the others
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    Matrices<Factor> in(block, from.c / kJoin);
    Matrices<float> products(block, to.c);
    for (int64_t b; (b = next++) < blocks;) {
      const int64_t first = b * block, last = std::min(first + block, to.tiles());
      gather(from, pixels, zeros.data(), first, last, in);
      for (int p = 0; p < 16; ++p)
        product(in[p], from.c / kJoin, 1, filters.data() + p * size, products[p], last - first,
                to.c, from.c / kJoin, false);
      scatter(to, products, bias, added, first, last, result);
    }
  });
}

template <class S>
const S* pointer(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

// Calls body(S{}) with the type of the images, float or bfloat16.
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

// The inputs of a layer's weight gradient.
template <class S>
struct Weighed {
  Map to, from;
  const S *grads, *inputs;
  int64_t block;  // tiles in a block
};

// Gradient^T input, 16 matrices of `width` outputs x inputs, summed over blocks of tiles, and the
// sums of the gradients, which are the gradient of the bias.
template <class S>
class TileSums {
 public:
  TileSums(const Weighed<S>& w, int64_t width)
      : w_(w),
        width_(width),
        zeros_(std::max(w.from.c, w.to.c)),
        in_((w.block + 1) / kJoin, w.from.c),
        back_((w.block + 1) / kJoin, width),
        part_(16 * width * w.from.c) {}

  // For the outputs from o on, over the blocks lo to hi.
  const float* operator()(int64_t o, int64_t lo, int64_t hi) {
    const int64_t inputs = w_.from.c, place = width_ * inputs;
    const int64_t stage = std::max<int64_t>(1, kStage / w_.block);
    sum_.assign(hi - lo > stage ? part_.size() : 0, 0.f);
    bias_.assign(width_, 0.f);
    if (lo >= hi) std::fill(part_.begin(), part_.end(), 0.f);
    for (int64_t b = lo; b < hi; ++b) {
      const int64_t first = b * w_.block, last = std::min(first + w_.block, w_.to.tiles());
      gather_joined<4, true>(
          w_.from, inputs, w_.inputs, zeros_.data(), 1, first, last, in_,
          [](const Wide(&d)[16], Wide(&t)[16], int64_t) { transform_input(d, t); });
      block_bias_.assign(width_, 0.f);
      gather_joined<2, false>(w_.to, width_, w_.grads + o, zeros_.data(), 0, first, last, back_,
                              [&](const Wide(&g)[4], Wide(&t)[16], int64_t c) {
                                transform_gradient(g, t);
                                wide(block_bias_.data() + c) += g[0] + g[1] + g[2] + g[3];
                              });
      for (int64_t i = 0; i < width_; ++i) bias_[i] += block_bias_[i];
      for (int p = 0; p < 16; ++p)
        product(back_[p], 1, width_, in_[p], part_.data() + p * place, width_, inputs,
                (last - first + kJoin - 1) / kJoin, (b - lo) % stage != 0);
      if (!sum_.empty() && ((b - lo) % stage == stage - 1 || b == hi - 1))
        for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += part_[i];
    }
    return sum_.empty() ? part_.data() : sum_.data();
  }

  const std::vector<float>& bias() const { return bias_; }

 private:
  using Factor = typename FactorOf<S>::type;
  static constexpr int64_t kJoin = kJoined<Factor>;
  const Weighed<S>& w_;
  const int64_t width_;
  const std::vector<S> zeros_;
  Matrices<Factor> in_, back_;
  std::vector<float> part_, sum_, bias_, block_bias_;
};

// Rows lo to hi of a matrix of `width` outputs, the sum of all `sums`, to filters [width, 3, 3, I].
void to_filters(const std::vector<const float*>& sums, int64_t width, int64_t inputs, int64_t lo,
                int64_t hi, float* filters) {
  for (int64_t o = lo; o < hi; ++o)
    for (int64_t i = 0; i < inputs; i += kWide) {
      Wide u[16] = {}, g[9];
      for (const float* sum : sums)
        for (int p = 0; p < 16; ++p) u[p] += wide(sum + (p * width + o) * inputs + i);
      transform_filter_back(u, g);
      for (int p = 0; p < 9; ++p) wide(filters + (o * 9 + p) * inputs + i) = g[p];
    }
}

// Every thread has its own slices of outputs. The inputs are transformed again for each slice.
template <class S>
void weigh_by_outputs(const Weighed<S>& w, int64_t slices, float* result, float* bias) {
  const int64_t inputs = w.from.c, blocks = (w.to.tiles() + w.block - 1) / w.block;
  const auto start = [&](int64_t slice) { return w.to.c / kWide * slice / slices * kWide; };
  torch::stable::parallel_for(0, slices, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      const int64_t o = start(i), width = start(i + 1) - o;
      TileSums<S> sums(w, width);
      to_filters({sums(o, 0, blocks)}, width, inputs, 0, width, result + o * 9 * inputs);
      std::copy_n(sums.bias().data(), width, bias + o);
    }
  });
}

// Every thread sums its own share of the tiles. Then the sums are added.
template <class S>
void weigh_by_tiles(const Weighed<S>& w, float* result, float* bias) {
  const int64_t blocks = (w.to.tiles() + w.block - 1) / w.block;
  const int64_t shares = std::clamp<int64_t>(torch::stable::get_num_threads(), 1, blocks + 1);
  std::vector<std::unique_ptr<TileSums<S>>> sums(shares);
  std::vector<const float*> partial(shares);
  torch::stable::parallel_for(0, shares, 1, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      sums[i] = std::make_unique<TileSums<S>>(w, w.to.c);
      partial[i] = (*sums[i])(0, i * blocks / shares, (i + 1) * blocks / shares);
    }
  });
  torch::stable::parallel_for(0, w.to.c, 16, [&](int64_t lo, int64_t hi) {
    to_filters(partial, w.to.c, w.from.c, lo, hi, result);
  });
  std::fill_n(bias, w.to.c, 0.f);
  for (const auto& share : sums)
    for (int64_t i = 0; i < w.to.c; ++i) bias[i] += share->bias()[i];
}

// Slices of the outputs, of about 128. 0 if they would be so narrow that transforming the inputs
// for each costs more than adding the sums of all threads.
int64_t slices_of(const Map& to, const Map& from) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t slices = threads * std::max<int64_t>(1, (to.c + 64 * threads) / (128 * threads));
  const bool few_tiles = to.tiles() * (to.c + from.c) < 4 * to.c * from.c;
  return to.c / slices >= (few_tiles ? 32 : 96) ? slices : 0;
}

std::tuple<Tensor, Tensor> conv3x3_weight_backward_cpu(const Tensor& grad_, const Tensor& x_) {
  const Tensor grad = channels_last(grad_), x = channels_last(x_);
  const ScalarType type =
      x.scalar_type() == ScalarType::BFloat16 ? ScalarType::BFloat16 : ScalarType::Float;
  const Map to = map_of(grad, type, "grad"), from = map_of(x, type, "x");
  STD_TORCH_CHECK(to.n == from.n && to.h == from.h && to.w == from.w,
                  "grad must be of x's size, got ", shape_str(grad), " for ", shape_str(x));
  Tensor out = channels_last(to.c, from.c, 3, 3, ScalarType::Float);
  Tensor bias = torch::stable::new_empty(out, {to.c});
  float* const result = out.mutable_data_ptr<float>();
  float* const bias_result = bias.mutable_data_ptr<float>();
  const int64_t slices = slices_of(to, from);
  // A block reads and writes all sums: larger sums need larger blocks.
  const int64_t most = std::clamp<int64_t>(from.c * to.c / 1024, 96, 192);
  const int64_t block =
      slices ? std::min<int64_t>(192, (to.tiles() + 5) / 6 * 6) : even_block(to.tiles(), most);
  for_type(type, [&](auto s) {
    using S = decltype(s);
    const Weighed<S> w{to, from, pointer<S>(grad), pointer<S>(x), block};
    slices ? weigh_by_outputs(w, slices, result, bias_result)
           : weigh_by_tiles(w, result, bias_result);
  });
  return {out, bias};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&guise::conv3x3_cpu));
  m.impl("conv3x3_input_backward", TORCH_BOX(&guise::conv3x3_input_backward_cpu));
  m.impl("conv3x3_weight_backward", TORCH_BOX(&guise::conv3x3_weight_backward_cpu));
}
