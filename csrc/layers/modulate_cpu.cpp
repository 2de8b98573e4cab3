#include "core/stable.h"
#include "layers/product.h"

namespace guise {
namespace {

// leaky_relu(x (1 + scale) + shift) of channels_last images, one pass forward and one backward.
// Scale and shift are the first and the second half of the channels of one convolution's result.

constexpr int64_t kGrain = 32768;  // numbers of x for each further thread

void check(const Tensor& t, const Tensor& x, int64_t channels, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == x.scalar_type() && t.size(0) == x.size(0) &&
                      t.size(1) == channels && t.size(2) == x.size(2) && t.size(3) == x.size(3),
                  name, " must be of x's type and size with ", channels, " channels, got ",
                  shape_str(t));
  STD_TORCH_CHECK(is_channels_last(t), name, " must be channels_last");
}

// Calls body(S{}) with the type of the images, float or bfloat16.
template <class F>
void for_type(const Tensor& x, const F& body) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(1) % kWide == 0 &&
                      (type == ScalarType::Float || type == ScalarType::BFloat16),
                  "x must be a float or bfloat16 image of a multiple of ", kWide, " channels, got ",
                  shape_str(x));
  type == ScalarType::Float ? body(float{}) : body(Brain{});
}

// Calls body(i, j) for every vector i of x. j is the vector of the scale in `both`; that of the
// shift is c further.
template <class Body>
void for_each_vector(const Tensor& x, const Body& body) {
  const int64_t c = x.size(1), pixels = x.numel() / c;
  torch::stable::parallel_for(0, pixels, kGrain / c + 1, [&](int64_t lo, int64_t hi) {
    for (int64_t p = lo; p < hi; ++p)
      for (int64_t i = 0; i < c; i += kWide) body(p * c + i, 2 * p * c + i);
  });
}

template <class S>
const S* numbers(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}
template <class S>
S* numbers(Tensor& t) {
  return static_cast<S*>(t.mutable_data_ptr());
}

void modulate_cpu(const Tensor& x, const Tensor& both, Tensor y, Tensor scale, double slope_) {
  for_type(x, [&](auto zero) {
    using S = decltype(zero);
    const int64_t c = x.size(1);
    check(x, x, c, "x"), check(both, x, 2 * c, "both"), check(y, x, c, "y");
    check(scale, x, c, "scale");
    const S* const from = numbers<S>(x);
    const S* const by = numbers<S>(both);
    S* const to = numbers<S>(y);
    S* const kept = numbers<S>(scale);
    const float slope = float(slope_);
    for_each_vector(x, [&](int64_t i, int64_t j) {
      const Wide value = read(from + i), factor = read(by + j);
      const Wide sum = value + value * factor + read(by + j + c);
      write(kept + i, factor);
      write(to + i, sum > 0 ? sum : sum * slope);
    });
  });
}

void modulate_backward_cpu(const Tensor& grad, const Tensor& y, const Tensor& x,
                           const Tensor& scale, double slope_, Tensor by_x, Tensor both) {
  for_type(x, [&](auto zero) {
    using S = decltype(zero);
    const int64_t c = x.size(1);
    check(x, x, c, "x"), check(grad, x, c, "grad"), check(y, x, c, "y");
    check(scale, x, c, "scale"), check(by_x, x, c, "by_x"), check(both, x, 2 * c, "both");
    const S* const gs = numbers<S>(grad);
    const S* const ys = numbers<S>(y);
    const S* const xs = numbers<S>(x);
    const S* const factors = numbers<S>(scale);
    S* const to = numbers<S>(by_x);
    S* const by = numbers<S>(both);
    const float slope = float(slope_);
    for_each_vector(x, [&](int64_t i, int64_t j) {
      Wide g = read(gs + i);
      g = read(ys + i) > 0 ? g : g * slope;
      write(by + j, g * read(xs + i));
      write(by + j + c, g);
      write(to + i, g + g * read(factors + i));
    });
  });
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("modulate", TORCH_BOX(&guise::modulate_cpu));
  m.impl("modulate_backward", TORCH_BOX(&guise::modulate_backward_cpu));
}
