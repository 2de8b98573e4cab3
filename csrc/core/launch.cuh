// Launches of CUDA kernels, and accesses of 16 bytes at once.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/hd.h"
#include "core/stable.h"

namespace guise {

// The SMs of sm_80 and sm_90 hold 64 warps, 8 blocks of this size, if a thread has 32 registers or
// fewer; 48 warps at 40, 32 at 64, 16 at 128. benchmarks/sass.py prints it for each kernel.
constexpr int kThreads = 256;

// The pixels of one thread: neighbours in memory, one 16-byte access.
template <class S, int V>
struct alignas(sizeof(S) * V) Pack {
  S v[V];
};

template <class S>
constexpr int kWide = 16 / sizeof(S);

template <int V, class S>
__device__ __forceinline__ Pack<S, V> load(const S* p) {
  return *reinterpret_cast<const Pack<S, V>*>(p);
}
template <int V, class S>
__device__ __forceinline__ void store(S* p, const Pack<S, V>& pack) {
  *reinterpret_cast<Pack<S, V>*>(p) = pack;
}
// p + i. Plain C++ keeps each i in 64 bits in a loop that moves p, and takes up to five
// instructions for an address; this takes two.
template <class S>
__device__ __forceinline__ const S* advance(const S* p, int32_t i) {
#ifdef __NVCC__
  const S* result;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(result) : "r"(i), "n"(sizeof(S)), "l"(p));
  __builtin_assume(__isGlobal(result));
  return result;
#else
  return p + i;
#endif
}

// Keeps a number in its register. A loop may else compute it again each time, to save the register.
__device__ __forceinline__ void keep(float& x) {
#ifdef __NVCC__
  asm("" : "+f"(x));
#endif
}
__device__ __forceinline__ void keep(double&) {}
template <class S>
__device__ __forceinline__ void keep(const S*& p) {
#ifdef __NVCC__
  asm("" : "+l"(p));
#endif
}

template <class S, int V>
__device__ __forceinline__ void keep(Pack<S, V>& pack) {
#ifdef __NVCC__
  if constexpr (sizeof(pack) % sizeof(uint32_t) == 0) {
    uint32_t word[sizeof(pack) / sizeof(uint32_t)];
    memcpy(word, &pack, sizeof(pack));
#pragma unroll
    for (auto& w : word) asm("" : "+r"(w));
    memcpy(&pack, word, sizeof(pack));
  }
#endif
}

// The numbers of a pack in the type of the computation. Two of 16 bits are converted from their
// word by one instruction each; from numbers of their own it would take two.
template <class T, class S, int V>
__device__ __forceinline__ void widen(const Pack<S, V>& pack, T (&value)[V]) {
#ifdef __NVCC__
  if constexpr (sizeof(S) == 2 && V % 2 == 0) {
    uint32_t word[V / 2];
    memcpy(word, &pack, sizeof pack);
#pragma unroll
    for (int k = 0; k < V; k += 2) {
      if constexpr (std::is_same_v<S, torch::headeronly::Half>) {
        __half2 pair;
        memcpy(&pair, &word[k / 2], sizeof pair);
        const float2 both = __half22float2(pair);
        value[k] = both.x, value[k + 1] = both.y;
      } else {
        value[k] = __uint_as_float(word[k / 2] << 16);
        value[k + 1] = __uint_as_float(word[k / 2] & 0xffff0000u);
      }
    }
  } else
#endif
  {
#pragma unroll
    for (int k = 0; k < V; ++k) value[k] = T(pack.v[k]);
  }
}

template <class S, int V, class T>
__device__ __forceinline__ Pack<S, V> narrow(const T (&value)[V]) {
  Pack<S, V> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) pack.v[k] = S(value[k]);
  return pack;
}

// Division by a number that is known at the launch: a product and a shift (Granlund and Montgomery
// 1994, "Division by invariant integers using multiplication"). Both numbers are below 2^31.
class Divider {
 public:
  Divider() = default;
  explicit Divider(int64_t number) {
    while (int64_t(1) << shift_ < number) ++shift_;
    factor_ = uint32_t((((int64_t(1) << shift_) - number) << 32) / number + 1);
  }
  GUISE_HD uint32_t divide(uint32_t n) const {
    return (uint32_t(uint64_t(n) * factor_ >> 32) + n) >> shift_;
  }

 private:
  uint32_t factor_ = 1, shift_ = 0;
};

// Where a thread works: the first of its pixels, neighbours in a row of a plane.
struct Pixels {
  uint32_t plane, offset, x, y;  // offset = y w + x
};

// Planes of h x w pixels in packs of V, which stay within a row. A launch counts them in 32 bits;
// `for_each_part` splits more.
template <int V>
struct Packs {
  static constexpr int width = V;
  uint32_t first, total;  // first plane; packs
  uint32_t each, across;  // packs of a plane and of a row
  Divider by_plane, by_row;

  __device__ Pixels at(uint32_t i) const {
    const uint32_t plane = by_plane.divide(i), rest = i - plane * each;
    const uint32_t row = by_row.divide(rest);
    return {first + plane, rest * V, (rest - row * across) * V, row};
  }
};

constexpr int64_t kPart = int64_t(1) << 31;  // more than the packs of a launch; a plane has fewer

// Calls body(packs) for all planes, in parts of fewer than kPart packs: packs of V pixels if they
// may be `wide`, else of 1.
template <int V, class F>
void for_each_part(int64_t planes, int64_t h, int64_t w, bool wide, const F& body) {
  if (V > 1 && !wide) return for_each_part<1>(planes, h, w, true, body);
  STD_TORCH_CHECK(planes < int64_t(1) << 31, "too many images: ", planes);
  const int64_t across = w / V, each = h * across;
  if (each == 0) return;
  const int64_t most = std::max<int64_t>(1, (kPart - 1) / each);
  for (int64_t first = 0; first < planes; first += most) {
    const int64_t total = std::min(most, planes - first) * each;
    body(Packs<V>{uint32_t(first), uint32_t(total), uint32_t(each), uint32_t(across), Divider(each),
                  Divider(across)});
  }
}

// True if 16-byte accesses to rows of `pixels` elements at these addresses are aligned.
template <class... P>
bool aligned(int64_t pixels, int64_t wide, const P*... p) {
  return pixels % wide == 0 && (... && (reinterpret_cast<uintptr_t>(p) % 16 == 0));
}

// Blocks for `n` threads with a grid-stride loop: enough for any GPU, and always a valid number.
inline unsigned blocks_for(int64_t n) {
  return unsigned(std::min<int64_t>((n + kThreads - 1) / kThreads, int64_t(1) << 20));
}

// A separate function, because the commas of <<< >>> would split the dispatch macro.
template <class Kernel, class... Args>
void launch(Kernel kernel, int64_t n, const Tensor& like, const Args&... args) {
  kernel<<<blocks_for(n), kThreads, 0, stream_of(like)>>>(args...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// For kernels whose blocks share out the work themselves.
template <class Kernel, class... Args>
void launch_blocks(Kernel kernel, int64_t blocks, const Tensor& like, const Args&... args) {
  kernel<<<unsigned(blocks), kThreads, 0, stream_of(like)>>>(args...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Calls body with a number of the type. For kernels of layers: float64 is left to the references.
template <class F>
void dispatch_narrow(ScalarType type, const char* name, const F& body) {
  switch (type) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, name, ": dtype must be a floating type of 16 or 32 bits");
  }
}

}  // namespace guise
