// The norm of each channel of each image, channels_last, and leaky ReLU.
//
// Forward reads x twice and writes y once, and with slope 0 half of it for the negative part. For 4
// x 64 x 128 x 128 float32 that is 50 MB, 17 us at 3 TB/s, if no second read comes from L2.
// Backward reads grad and y twice and writes once: 84 MB. Each takes three launches: sums of parts
// of the pixels, the sums joined, the result. All sums have a fixed order. Not yet measured on a
// GPU.
#include "core/launch.cuh"
#include "core/reduce.cuh"
#include "layers/norm.h"

namespace guise {
namespace {

// How the work is shared out. Neighbouring threads of a block take neighbouring packs of channels,
// `across` of them, and `rows` rows of threads take pixels in turn. It depends on sizes alone, so
// every GPU rounds alike.
struct NormGrid {
  int64_t n, c, pixels, packs;
  int64_t groups, parts, part;  // of `across` packs; parts of the pixels; pixels in a part
  int32_t across, rows;

  int64_t blocks() const { return n * groups * parts; }
};

constexpr int64_t kBlocks = 1024;  // about as many if the images allow it: 7 for each SM of an H100
constexpr int64_t kPixelsEach = 16;  // of a thread, at least

NormGrid norm_grid(const Tensor& x, int64_t V) {
  NormGrid g = {};
  g.n = x.size(0), g.c = x.size(1), g.pixels = x.size(2) * x.size(3), g.packs = g.c / V;
  g.across = int32_t(std::min<int64_t>(g.packs, kWarp));
  g.rows = kThreads / g.across;
  g.groups = (g.packs + g.across - 1) / g.across;
  const int64_t least = g.rows * kPixelsEach, most = (g.pixels + least - 1) / least;
  const int64_t parts = std::clamp<int64_t>(kBlocks / (g.n * g.groups), 1, most);
  g.part = (g.pixels + parts - 1) / parts;
  g.parts = (g.pixels + g.part - 1) / g.part;
  STD_TORCH_CHECK(g.blocks() < (int64_t(1) << 31), "too many images: ", g.n);
  return g;
}

// What a thread works on: pixels from, from + rows, ... of V channels of image n.
template <int V>
struct NormWork {
  int64_t n, part, channel, from, to;
  bool channels;  // false beyond the last channel, and in threads that no row holds

  __device__ explicit NormWork(const NormGrid& g) {
    const int64_t rest = blockIdx.x / g.parts, row = threadIdx.x / g.across;
    const int64_t pack = rest % g.groups * g.across + threadIdx.x % g.across;
    n = rest / g.groups, part = blockIdx.x % g.parts, channel = pack * V;
    channels = row < g.rows && pack < g.packs;
    from = part * g.part + row;
    to = (part + 1) * g.part < g.pixels ? (part + 1) * g.part : g.pixels;
    if (!channels) to = from;
  }
  __device__ int64_t of_image(const NormGrid& g) const { return n * g.c + channel; }
  __device__ int64_t at(const NormGrid& g, int64_t p) const {
    return (n * g.pixels + p) * g.c + channel;
  }
};

// Merges what the rows of a block have, into parts[n][part][channel].
template <int V, class M>
__device__ void merge_rows(const NormGrid& g, const NormWork<V>& work, const M (&mine)[V],
                           M* parts) {
  __shared__ M shared[V * kThreads];
  const int row = int(threadIdx.x) / g.across;
#pragma unroll
  for (int k = 0; k < V; ++k) shared[k * kThreads + threadIdx.x] = mine[k];
  int half = 1;
  while (half < g.rows) half *= 2;
  for (half /= 2; half > 0; half /= 2) {
    __syncthreads();
    if (row >= half || row + half >= g.rows) continue;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      M& sum = shared[k * kThreads + threadIdx.x];
      sum.merge(shared[k * kThreads + threadIdx.x + half * g.across]);
    }
  }
  if (row != 0 || !work.channels) return;
#pragma unroll
  for (int k = 0; k < V; ++k)
    parts[(work.n * g.parts + work.part) * g.c + work.channel + k] =
        shared[k * kThreads + threadIdx.x];
}

// Calls finish(channel of an image, all its parts merged) in one thread of a warp for each.
template <class M, class Finish>
__device__ void merge_parts(const NormGrid& g, const M* parts, Finish finish) {
  const int64_t step = int64_t(gridDim.x) * kThreads / kWarp;
  const int lane = threadIdx.x % kWarp;
  for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp; i < g.n * g.c;
       i += step) {
    const M* const from = parts + (i / g.c * g.parts) * g.c + i % g.c;
    M all = {};
    for (int64_t p = lane; p < g.parts; p += kWarp) all.merge(from[p * g.c]);
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) all.merge(all.from_lane(lanes));
    if (lane == 0) finish(i, all);
  }
}

template <int V, class S>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(NormGrid g, const S* x, NormMoments* parts) {
  const NormWork<V> work(g);
  NormMoments mine[V] = {};
  Pack<S, V> pivot = {};
  if (work.from < work.to) pivot = load<V>(x + work.at(g, 0));
  for (int64_t p = work.from; p < work.to; p += g.rows) {
    const auto in = load<V>(x + work.at(g, p));
    const float inverse = 1 / (mine[0].count + 1);
#pragma unroll
    for (int k = 0; k < V; ++k) mine[k].add(float(in.v[k]) - float(pivot.v[k]), inverse);
  }
  merge_rows<V>(g, work, mine, parts);
}

// Subtracting the first pixel before all else keeps the digits of a channel far from 0.
struct NormCentre {
  float pivot, mean;
};

template <class S>
__global__ void __launch_bounds__(kThreads)
    statistics_kernel(NormGrid g, const S* x, const NormMoments* parts, float eps,
                      NormCentre* centre, float* scale) {
  merge_parts(g, parts, [&](int64_t i, const NormMoments& m) {
    centre[i] = {float(x[i / g.c * g.pixels * g.c + i % g.c]), m.mean};
    scale[i] = 1 / sqrtf(m.squares / m.count + eps);
  });
}

template <int V, class S, class K>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(NormGrid g, const S* x, const NormCentre* centre, const float* scale, float slope,
                S* y, K* kept) {
  const NormWork<V> work(g);
  NormCentre c[V] = {};
  float factor[V] = {};
  if (work.channels) {
#pragma unroll
    for (int k = 0; k < V; ++k)
      c[k] = centre[work.of_image(g) + k], factor[k] = scale[work.of_image(g) + k];
  }
  for (int64_t p = work.from; p < work.to; p += g.rows) {
    const auto in = load<V>(x + work.at(g, p));
    Pack<S, V> out;
    Pack<K, V> negative;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float normal = (float(in.v[k]) - c[k].pivot - c[k].mean) * factor[k];
      negative.v[k] = K(normal < 0 ? normal : 0.f);
      out.v[k] = S(normal > 0 ? normal : normal * slope);
    }
    if (kept) store(kept + work.at(g, p), negative);
    store(y + work.at(g, p), out);
  }
}

// Reads the gradient and the normalised x of a pack at `i`.
template <class S, class K>
struct NormGradients {
  const S *grad, *y;
  const K* kept;  // or null
  float slope;

  template <int V>
  __device__ void read(int64_t i, float (&g)[V], float (&normal)[V]) const {
    const auto by = load<V>(grad + i), out = load<V>(y + i);
    Pack<K, V> negative = {};
    if (kept) negative = load<V>(kept + i);
    const float back = slope > 0 ? 1 / slope : 0;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      g[k] = float(by.v[k]);
      norm_undo(float(out.v[k]), float(negative.v[k]), slope, back, g[k], normal[k]);
    }
  }
};

template <int V, class S, class K>
__global__ void __launch_bounds__(kThreads)
    sums_kernel(NormGrid g, NormGradients<S, K> from, NormSums* parts) {
  const NormWork<V> work(g);
  NormSums mine[V] = {};
  for (int64_t p = work.from; p < work.to; p += g.rows) {
    float by[V], normal[V];
    from.read(work.at(g, p), by, normal);
#pragma unroll
    for (int k = 0; k < V; ++k) mine[k].merge({by[k], by[k] * normal[k]});
  }
  merge_rows<V>(g, work, mine, parts);
}

__global__ void __launch_bounds__(kThreads)
    means_kernel(NormGrid g, const NormSums* parts, NormSums* means) {
  merge_parts(g, parts, [&](int64_t i, const NormSums& sums) {
    means[i] = {sums.g / float(g.pixels), sums.along / float(g.pixels)};
  });
}

template <int V, class S, class K>
__global__ void __launch_bounds__(kThreads)
    norm_backward_kernel(NormGrid g, NormGradients<S, K> from, const NormSums* means,
                         const float* scale, S* result) {
  const NormWork<V> work(g);
  NormSums mean[V] = {};
  float factor[V] = {};
  if (work.channels) {
#pragma unroll
    for (int k = 0; k < V; ++k)
      mean[k] = means[work.of_image(g) + k], factor[k] = scale[work.of_image(g) + k];
  }
  for (int64_t p = work.from; p < work.to; p += g.rows) {
    float by[V], normal[V];
    from.read(work.at(g, p), by, normal);
    Pack<S, V> out;
#pragma unroll
    for (int k = 0; k < V; ++k)
      out.v[k] = S((by[k] - mean[k].g - normal[k] * mean[k].along) * factor[k]);
    store(result + work.at(g, p), out);
  }
}

// Room for one M for each channel of each image, in each part of the pixels.
template <class M>
M* room(Tensor& memory, const NormGrid& g, int64_t parts, const Tensor& scale) {
  const int64_t numbers = int64_t(sizeof(M) / sizeof(float));
  memory = torch::stable::new_empty(scale, {g.n, parts, g.c, numbers});
  return reinterpret_cast<M*>(memory.template mutable_data_ptr<float>());
}

template <int V, class S, class K>
void norm(const Tensor& x, Tensor& y, Tensor& scale, K* kept, float slope, float eps) {
  const NormGrid g = norm_grid(x, V);
  Tensor first, second;
  NormMoments* const parts = room<NormMoments>(first, g, g.parts, scale);
  NormCentre* const centre = room<NormCentre>(second, g, 1, scale);
  const S* const from = x.const_data_ptr<S>();
  float* const factor = scale.mutable_data_ptr<float>();
  launch_blocks(moments_kernel<V, S>, g.blocks(), x, g, from, parts);
  launch(statistics_kernel<S>, g.n * g.c * kWarp, x, g, from, parts, eps, centre, factor);
  launch_blocks(norm_kernel<V, S, K>, g.blocks(), x, g, from, centre, factor, slope,
                y.mutable_data_ptr<S>(), kept);
}

template <int V, class S, class K>
void norm_backward(const NormGradients<S, K>& from, const Tensor& y, const Tensor& scale,
                   Tensor& result) {
  const NormGrid g = norm_grid(y, V);
  Tensor first, second;
  NormSums* const parts = room<NormSums>(first, g, g.parts, scale);
  NormSums* const means = room<NormSums>(second, g, 1, scale);
  launch_blocks(sums_kernel<V, S, K>, g.blocks(), y, g, from, parts);
  launch(means_kernel, g.n * g.c * kWarp, y, g, parts, means);
  launch_blocks(norm_backward_kernel<V, S, K>, g.blocks(), y, g, from, means,
                scale.const_data_ptr<float>(), result.mutable_data_ptr<S>());
}

void check(const Tensor& t, const Tensor& like, ScalarType type, const char* name) {
  check_device(t, like, name);
  STD_TORCH_CHECK(t.dim() == 4 && t.scalar_type() == type && t.size(0) == like.size(0) &&
                      t.size(1) == like.size(1) && t.size(2) == like.size(2) &&
                      t.size(3) == like.size(3),
                  name, " must be of the image's shape and type, got ", shape_str(t));
  STD_TORCH_CHECK(is_channels_last(t), name, " must be channels_last");
}

void check_scale(const Tensor& scale, const Tensor& x) {
  check_device(scale, x, "scale");
  STD_TORCH_CHECK(scale.scalar_type() == ScalarType::Float && scale.is_contiguous() &&
                      scale.numel() == x.size(0) * x.size(1),
                  "scale must be a contiguous float [N, C, 1, 1], got ", shape_str(scale));
}

// What is kept of the negative part: 16 bits, the type of the images if they have 16.
template <class S>
struct Kept {
  using type = S;
};
template <>
struct Kept<float> {
  using type = torch::headeronly::Half;
};

// Calls body(S{}, K{}) with the type of the images and of what is kept beside them.
template <class F>
void for_type(const Tensor& x, const std::optional<Tensor>& kept, const F& body) {
  const ScalarType type = x.scalar_type();
  check(x, x, type, "x");
  if (kept) check(*kept, x, type == ScalarType::Float ? ScalarType::Half : type, "kept");
  if (x.numel() == 0) return;
  dispatch_narrow(type, "instance_norm",
                  [&](auto zero) { body(zero, typename Kept<decltype(zero)>::type{}); });
}

void instance_norm_cuda(const Tensor& x, Tensor y, Tensor scale, std::optional<Tensor> kept_,
                        double slope, double eps) {
  check(y, x, x.scalar_type(), "y");
  check_scale(scale, x);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  for_type(x, kept_, [&](auto zero, auto none) {
    using S = decltype(zero);
    using K = decltype(none);
    constexpr int V = kWide<S>;
    K* const kept = kept_ ? kept_->template mutable_data_ptr<K>() : nullptr;
    const bool wide = aligned(x.size(1), V, x.const_data_ptr<S>(), y.const_data_ptr<S>(), kept);
    (wide ? norm<V, S, K> : norm<1, S, K>)(x, y, scale, kept, float(slope), float(eps));
  });
}

Tensor instance_norm_backward_cuda(const Tensor& grad, const Tensor& y, const Tensor& scale,
                                   const std::optional<Tensor>& kept_, double slope) {
  check(grad, y, y.scalar_type(), "grad");
  check_scale(scale, y);
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  Tensor result = torch::stable::empty_like(y);
  for_type(y, kept_, [&](auto zero, auto none) {
    using S = decltype(zero);
    using K = decltype(none);
    constexpr int V = kWide<S>;
    const NormGradients<S, K> from{grad.const_data_ptr<S>(), y.const_data_ptr<S>(),
                                   kept_ ? kept_->template const_data_ptr<K>() : nullptr,
                                   float(slope)};
    const bool wide =
        aligned(y.size(1), V, from.grad, from.y, from.kept, result.const_data_ptr<S>());
    (wide ? norm_backward<V, S, K> : norm_backward<1, S, K>)(from, y, scale, result);
  });
  return result;
}

}  // namespace
}  // namespace guise

STABLE_TORCH_LIBRARY_IMPL(guise, CUDA, m) {
  m.impl("instance_norm", TORCH_BOX(&guise::instance_norm_cuda));
  m.impl("instance_norm_backward", TORCH_BOX(&guise::instance_norm_backward_cuda));
}
