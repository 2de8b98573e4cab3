#include <algorithm>
#include <bit>

#include "core/lanes.h"
#include "core/stable.h"

namespace guise {
namespace {

// Two tensors concatenated along the channels, as rows. A row of the result is a row of a and a row
// of b: the channels of an image or, channels_last, of a pixel. The rows of a single tensor may be
// cut anywhere.
struct Sides {
  int64_t rows, a, b;
};

Sides sides_of(const Tensor& a, const Tensor& b, bool last) {
  STD_TORCH_CHECK(a.dim() == 4 && b.dim() == 4 && a.size(0) == b.size(0) &&
                      a.size(2) == b.size(2) && a.size(3) == b.size(3) &&
                      a.scalar_type() == b.scalar_type(),
                  "b must be of a's type and size, got ", shape_str(a), " and ", shape_str(b));
  const int64_t h = a.size(2), pixels = h * a.size(3);
  if (a.size(1) == 0 || b.size(1) == 0)
    return {a.size(0) * h, a.size(1) * a.size(3), b.size(1) * a.size(3)};
  return last ? Sides{a.size(0) * pixels, a.size(1), b.size(1)}
              : Sides{a.size(0), a.size(1) * pixels, b.size(1) * pixels};
}

// Contiguous in the layout asked for: the strides may differ from those that a tracer
// promised.
Tensor laid(const Tensor& t, bool last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(t, last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Tensor empty(const Tensor& like, int64_t c, bool last) {
  const int64_t n = like.size(0), h = like.size(2), w = like.size(3);
  if (!last) return torch::stable::new_empty(like, {n, c, h, w});
  const Tensor flat = torch::stable::new_empty(like, {n, h, w, c});
  return torch::stable::transpose(torch::stable::transpose(flat, 2, 3), 1, 2);
}

template <class T>
T elu(T x) {
  return x > 0 ? x : expm1_nonpositive(x);  // NaN takes the second branch and stays
}

// Conversions that the compiler can vectorise: those of the 16-bit class branch.
template <class S>
struct Lane {
  using Bits = S;
  static compute_t<S> load(S x) { return compute_t<S>(x); }
  static S store(compute_t<S> x) { return S(x); }
};
template <>
struct Lane<torch::headeronly::BFloat16> {
  using Bits = uint16_t;
  static float load(uint16_t x) { return std::bit_cast<float>(uint32_t(x) << 16); }
  static uint16_t store(float x) {  // to nearest, ties to even
    const uint32_t u = std::bit_cast<uint32_t>(x), rounded = u + 0x7fff + (u >> 16 & 1);
    return uint16_t((u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded >> 16);
  }
};

template <class S>
void elu_row(const S* from, int64_t n, S* to) {
  using L = Lane<S>;
  const auto* const in = reinterpret_cast<const typename L::Bits*>(from);
  auto* const out = reinterpret_cast<typename L::Bits*>(to);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = L::store(elu(L::load(in[i])));
}

// The derivative from the value: 1 if it is positive, else e^x = value + 1.
template <class S>
void slope_row(const S* grad, const S* value, int64_t n, S* to) {
  using L = Lane<S>;
  const auto *const gs = reinterpret_cast<const typename L::Bits*>(grad),
                    *const vs = reinterpret_cast<const typename L::Bits*>(value);
  auto* const out = reinterpret_cast<typename L::Bits*>(to);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto v = L::load(vs[i]), g = L::load(gs[i]);
    out[i] = L::store(v > 0 ? g : g * (v + 1));
  }
}

// bfloat16, in which residual blocks train, needs no copy. half is converted to float first.
template <class F>
void dispatch_lanes(ScalarType type, const F& body) {
  if (type == ScalarType::BFloat16) return body(torch::headeronly::BFloat16{});
  dispatch(type, "elu_cat", body);
}

Tensor without_half(const Tensor& t) {
  return t.scalar_type() == ScalarType::Half ? computed(t) : t;
}

int64_t grain_of(const Sides& s) { return 1 + 32768 / (s.a + s.b + 1); }

Tensor elu_cat_cpu(const Tensor& a_, const Tensor& b_, bool last) {
  const Sides s = sides_of(a_, b_, last);
  const Tensor a = laid(without_half(a_), last), b = laid(without_half(b_), last);
  const Tensor out = empty(a, a.size(1) + b.size(1), last);
  dispatch_lanes(a.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    const S *const left = a.const_data_ptr<S>(), *const right = b.const_data_ptr<S>();
    S* const to = out.mutable_data_ptr<S>();
    torch::stable::parallel_for(0, s.rows, grain_of(s), [&](int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; ++r) {
        elu_row(left + r * s.a, s.a, to + r * (s.a + s.b));
        elu_row(right + r * s.b, s.b, to + r * (s.a + s.b) + s.a);
      }
    });
  });
  return as_type(out, a_.scalar_type());
}

std::tuple<Tensor, Tensor> elu_cat_backward_cpu(const Tensor& grad_, const Tensor& value_,
                                                int64_t channels, bool last) {
  sides_of(grad_, value_, last);
  const int64_t all = value_.size(1);
  STD_TORCH_CHECK(grad_.size(1) == all && channels >= 0 && channels <= all,
                  "grad must be of value's shape, got ", shape_str(grad_));
  const Tensor grad = laid(without_half(grad_), last), value = laid(without_half(value_), last);
  const Tensor by_a = empty(value, channels, last), by_b = empty(value, all - channels, last);
  const Sides s = sides_of(by_a, by_b, last);
  dispatch_lanes(value.scalar_type(), [&](auto zero) {
    using S = decltype(zero);
    const S *const from = grad.const_data_ptr<S>(), *const of = value.const_data_ptr<S>();
    S *const left = by_a.mutable_data_ptr<S>(), *const right = by_b.mutable_data_ptr<S>();
    torch::stable::parallel_for(0, s.rows, grain_of(s), [&](int64_t lo, int64_t hi) {
      for (int64_t r = lo; r < hi; ++r) {
        const int64_t at = r * (s.a + s.b);
        slope_row(from + at, of + at, s.a, left + r * s.a);
        slope_row(from + at + s.a, of + at + s.a, s.b, right + r * s.b);
      }
    });
  });
  return {as_type(by_a, value_.scalar_type()), as_type(by_b, value_.scalar_type())};
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("elu_cat", TORCH_BOX(&guise::elu_cat_cpu));
  m.impl("elu_cat_backward", TORCH_BOX(&guise::elu_cat_backward_cpu));
}
