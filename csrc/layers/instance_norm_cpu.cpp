#include "core/stable.h"
#include "layers/product.h"

namespace guise {
namespace {

// The norm of each channel of each image, channels_last, and leaky ReLU. A thread takes the
// channels of one cache line at a time. All their pixels stay in its second-level cache while they
// are read for the mean, the variance and the result.

constexpr int64_t kRun = 128;  // pixels of a partial sum, which keeps rounding errors small

// take(p) reads the first Lanes numbers of a vector at most, and give(p, x) writes them.
template <int Lanes, class N, class Take>
Wide some(const N* p, Take take) {
  if constexpr (Lanes == kWide) return take(p);
  N padded[kWide] = {};
  std::memcpy(padded, p, Lanes * sizeof(N));
  return take(padded);
}
template <int Lanes, class N, class Give>
void some(N* p, Wide x, Give give) {
  if constexpr (Lanes == kWide) return give(p, x);
  N padded[kWide];
  give(padded, x);
  std::memcpy(p, padded, Lanes * sizeof(N));
}

// Channels of one block, Lanes of them in each of V vectors.
template <class S, int V, int Lanes>
struct Block {
  using Values = Wide[V];

  static Wide take(const S* p) {
    return some<Lanes>(p, [](const S* q) { return read(q); });
  }
  static void give(S* p, Wide x) {
    some<Lanes>(p, x, [](S* q, Wide y) { write(q, y); });
  }

  // Calls term(pixel, vector, sums) for all pixels, which adds to two sums a channel.
  template <class Term>
  static void sum(int64_t pixels, Values (&total)[2], Term term) {
    for (int64_t from = 0; from < pixels; from += kRun) {
      Values part[2] = {};
      for (int64_t p = from; p < std::min(from + kRun, pixels); ++p)
        for (int v = 0; v < V; ++v) term(p, v, part[0][v], part[1][v]);
      for (int v = 0; v < V; ++v) total[0][v] += part[0][v], total[1][v] += part[1][v];
    }
  }
};

// The negative part that ReLU drops, as a half beside images of floats. Subnormal halves become 0,
// and magnitudes above the largest half become that.
inline WideHalf cut_off(Wide x) {
  const WideBits bits = (WideBits)(-x);
  const WideBits half = ((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112u << 10);
  const Wide size = -x;
  const WideBits kept = size < 6.2e-5f ? WideBits{} : size < 65000.f ? half : WideBits{} + 0x7bff;
  return __builtin_convertvector(kept | (WideBits)(x < 0 ? WideBits{} + 0x8000u : WideBits{}),
                                 WideHalf);
}
inline Wide from_cut_off(WideHalf half) {
  const WideBits bits = __builtin_convertvector(half, WideBits) & 0x7fffu;
  return -(Wide)(bits != 0 ? (bits << 13) + (112u << 23) : WideBits{});
}

// The type of what is kept: 16-bit floats beside images of floats, else the type of the images.
template <class S>
struct Kept {
  using type = Brain;
  static Wide take(const Brain* p) { return read(p); }
  static void give(Brain* p, Wide x) { write(p, x); }
};
template <>
struct Kept<float> {
  using type = uint16_t;
  static Wide take(const uint16_t* p) {
    return from_cut_off(*reinterpret_cast<const WideHalf*>(p));
  }
  static void give(uint16_t* p, Wide x) { *reinterpret_cast<WideHalf*>(p) = cut_off(x); }
};

template <class S>
struct Forward {
  const S* x;
  S* y;
  float* scale;
  typename Kept<S>::type* kept;  // or null
  float slope, eps;

  template <int V, int Lanes>
  void block(int64_t at, int64_t pixels, int64_t pitch, float* scale) const {
    using B = Block<S, V, Lanes>;
    typename B::Values mean, off, factor, sums[2] = {};
    B::sum(pixels, sums, [&](int64_t p, int v, Wide& sum, Wide&) {
      sum += B::take(x + at + p * pitch + v * Lanes);
    });
    for (int v = 0; v < V; ++v) mean[v] = sums[0][v] / float(pixels), sums[0][v] = Wide{};
    B::sum(pixels, sums, [&](int64_t p, int v, Wide& sum, Wide& squares) {
      const Wide d = B::take(x + at + p * pitch + v * Lanes) - mean[v];
      sum += d, squares += d * d;
    });
    for (int v = 0; v < V; ++v) {
      off[v] = sums[0][v] / float(pixels);  // the rounding error of the mean
      const Wide variance = sums[1][v] / float(pixels) - off[v] * off[v] + eps;
      for (int l = 0; l < Lanes; ++l)
        scale[v * Lanes + l] = factor[v][l] = 1 / std::sqrt(variance[l]);
      for (int l = Lanes; l < kWide; ++l) factor[v][l] = 0;
    }
    for (int64_t p = 0; p < pixels; ++p)
      for (int v = 0; v < V; ++v) {
        const int64_t i = at + p * pitch + v * Lanes;
        const Wide normal = (B::take(x + i) - mean[v] - off[v]) * factor[v];
        if (kept) some<Lanes>(kept + i, normal < 0 ? normal : Wide{}, Kept<S>::give);
        B::give(y + i, normal > 0 ? normal : normal * slope);
      }
  }
};

template <class S>
struct Backward {
  const S *grad, *y;
  const float* scale;
  const typename Kept<S>::type* kept;  // or null
  S* result;
  float slope;

  template <int V, int Lanes>
  void block(int64_t at, int64_t pixels, int64_t pitch, const float* scale) const {
    using B = Block<S, V, Lanes>;
    typename B::Values sums[2] = {}, factor = {};
    for (int v = 0; v < V; ++v)
      for (int l = 0; l < Lanes; ++l) factor[v][l] = scale[v * Lanes + l];
    const float back = slope > 0 ? 1 / slope : 0;
    const auto read_at = [&](int64_t i, Wide& g, Wide& normal) {
      const Wide out = B::take(y + i);
      g = B::take(grad + i);
      g = out > 0 ? g : g * slope;
      normal = out > 0 ? out : kept ? some<Lanes>(kept + i, Kept<S>::take) : out * back;
    };
    B::sum(pixels, sums, [&](int64_t p, int v, Wide& sum, Wide& along) {
      Wide g, normal;
      read_at(at + p * pitch + v * Lanes, g, normal);
      sum += g, along += g * normal;
    });
    for (auto& of : sums)
      for (int v = 0; v < V; ++v) of[v] /= float(pixels);
    for (int64_t p = 0; p < pixels; ++p)
      for (int v = 0; v < V; ++v) {
        const int64_t i = at + p * pitch + v * Lanes;
        Wide g, normal;
        read_at(i, g, normal);
        B::give(result + i, (g - sums[0][v] - normal * sums[1][v]) * factor[v]);
      }
  }
};

// All blocks of all images: cache lines of 64 bytes, then vectors, then groups of 4 channels.
template <class S, class Body>
void for_each_block(const Tensor& x, const Body& body) {
  constexpr int kVectors = 64 / int(sizeof(S)) / kWide, kLine = kVectors * kWide;
  const int64_t c = x.size(1), pixels = x.size(2) * x.size(3), blocks = (c + kLine - 1) / kLine;
  const int64_t grain = std::max<int64_t>(1, 32768 / (pixels * kLine + 1));
  torch::stable::parallel_for(0, x.size(0) * blocks, grain, [&](int64_t lo, int64_t hi) {
    for (int64_t i = lo; i < hi; ++i) {
      const int64_t n = i / blocks;
      int64_t from = i % blocks * kLine;
      const auto at = [&] { return n * pixels * c + from; };
      if (c - from >= kLine) {
        body.template block<kVectors, kWide>(at(), pixels, c, body.scale + n * c + from);
        continue;
      }
      for (; c - from >= kWide; from += kWide)
        body.template block<1, kWide>(at(), pixels, c, body.scale + n * c + from);
      for (; from < c; from += 4)
        body.template block<1, 4>(at(), pixels, c, body.scale + n * c + from);
    }
  });
}

void check(const Tensor& t, const Tensor& like, ScalarType type, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == type && t.size(0) == like.size(0) &&
                      t.size(1) == like.size(1) && t.size(2) == like.size(2) &&
                      t.size(3) == like.size(3) && t.size(1) % 4 == 0,
                  name, " must be of the image's shape, type and a multiple of 4 channels, got ",
                  shape_str(t));
  STD_TORCH_CHECK(is_channels_last(t), name, " must be channels_last");
}

void check_scale(const Tensor& scale, const Tensor& x) {
  STD_TORCH_CHECK(scale.scalar_type() == ScalarType::Float && scale.is_contiguous() &&
                      scale.numel() == x.size(0) * x.size(1),
                  "scale must be a contiguous float [N, C, 1, 1], got ", shape_str(scale));
}

// Calls body(S{}) with the type of the images, float or bfloat16.
template <class F>
void for_type(const Tensor& x, const F& body) {
  const bool brain = x.scalar_type() == ScalarType::BFloat16;
  check(x, x, brain ? ScalarType::BFloat16 : ScalarType::Float, "x");
  if (x.numel() == 0) return;
  brain ? body(Brain{}, ScalarType::BFloat16) : body(float{}, ScalarType::Half);
}

void instance_norm_cpu(const Tensor& x, Tensor y, Tensor scale, std::optional<Tensor> kept,
                       double slope, double eps) {
  for_type(x, [&](auto zero, ScalarType beside) {
    using S = decltype(zero);
    using K = typename Kept<S>::type;
    check(y, x, x.scalar_type(), "y");
    check_scale(scale, x);
    if (kept) check(*kept, x, beside, "kept");
    const Forward<S> body{static_cast<const S*>(x.const_data_ptr()),
                          static_cast<S*>(y.mutable_data_ptr()),
                          scale.mutable_data_ptr<float>(),
                          kept ? static_cast<K*>(kept->mutable_data_ptr()) : nullptr,
                          float(slope),
                          float(eps)};
    for_each_block<S>(x, body);
  });
}

Tensor instance_norm_backward_cpu(const Tensor& grad, const Tensor& y, const Tensor& scale,
                                  const std::optional<Tensor>& kept, double slope) {
  Tensor result = torch::stable::empty_like(y);
  for_type(y, [&](auto zero, ScalarType beside) {
    using S = decltype(zero);
    using K = typename Kept<S>::type;
    check(grad, y, y.scalar_type(), "grad");
    check_scale(scale, y);
    if (kept) check(*kept, y, beside, "kept");
    const Backward<S> body{static_cast<const S*>(grad.const_data_ptr()),
                           static_cast<const S*>(y.const_data_ptr()),
                           scale.const_data_ptr<float>(),
                           kept ? static_cast<const K*>(kept->const_data_ptr()) : nullptr,
                           static_cast<S*>(result.mutable_data_ptr()),
                           float(slope)};
    for_each_block<S>(y, body);
  });
  return result;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CPU, m) {
  m.impl("instance_norm", TORCH_BOX(&guise::instance_norm_cpu));
  m.impl("instance_norm_backward", TORCH_BOX(&guise::instance_norm_backward_cpu));
}
