// How every CUDA kernel here is launched, and how its threads read and write 16 bytes at once.
#pragma once
#include <algorithm>

#include "core/stable.h"

namespace guise {

constexpr int kThreads = 256;  // 6 blocks, 48 warps an SM at 40 registers a thread

// One thread's pixels: neighbours in memory that one 16-byte access moves.
template <class S, int V>
struct alignas(sizeof(S) * V) Pack {
  S v[V];
};

template <class S>
constexpr int kWide = 16 / sizeof(S);

// Where pixel `i` of a plane lies. Planes have fewer than 2^30 pixels (check_plane): division in 32
// bits is several times faster than in 64.
template <class T>
__device__ __forceinline__ void position_of(uint32_t i, int64_t w, T& x, T& y) {
  const uint32_t row = i / uint32_t(w);
  x = T(i - row * uint32_t(w));
  y = T(row);
}

// Whether rows of `pixels` elements at these addresses keep 16-byte accesses aligned.
template <class... P>
bool aligned(int64_t pixels, int64_t wide, const P*... p) {
  return pixels % wide == 0 && (... && (reinterpret_cast<uintptr_t>(p) % 16 == 0));
}

// Blocks for `n` threads with a grid-stride loop: enough to fill any GPU, never an invalid number.
inline unsigned blocks_for(int64_t n) {
  return unsigned(std::min<int64_t>((n + kThreads - 1) / kThreads, int64_t(1) << 20));
}

// In a function of its own, because the commas of <<< >>> would split the dispatch macro.
template <class Kernel, class... Args>
void launch(Kernel kernel, int64_t n, const Tensor& like, const Args&... args) {
  kernel<<<blocks_for(n), kThreads, 0, stream_of(like)>>>(args...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace guise
