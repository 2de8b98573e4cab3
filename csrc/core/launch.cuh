// Launches of CUDA kernels, and accesses of 16 bytes at once.
#pragma once
#include <algorithm>

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

// The position of pixel `i` in its plane. Planes have fewer than 2^30 pixels (check_plane). 32-bit
// division is several times faster than 64-bit.
template <class T>
__device__ __forceinline__ void position_of(uint32_t i, int64_t w, T& x, T& y) {
  const uint32_t row = i / uint32_t(w);
  x = T(i - row * uint32_t(w));
  y = T(row);
}

// Those of V pixels in a row, with one division.
template <int V, class T>
__device__ __forceinline__ void positions_of(uint32_t first, int64_t w, T (&x)[V], T (&y)[V]) {
  uint32_t row = first / uint32_t(w), column = first - row * uint32_t(w);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    x[k] = T(column), y[k] = T(row);
    if (++column == uint32_t(w)) column = 0, ++row;
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
