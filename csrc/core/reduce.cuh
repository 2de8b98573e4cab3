// Sums over a thread block in a fixed order: the same result every time.
#pragma once
#include <cstdint>

namespace guise {

constexpr int kWarp = 32;

// Combines `value` of every thread of a block, whole warps only; all threads get the result.
template <class T, class F>
__device__ __forceinline__ T block_reduce(T value, T neutral, F combine) {
  __shared__ T partial[kWarp];
  __syncthreads();  // all threads have read the result of the last call
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = lane < int(blockDim.x) / kWarp ? partial[lane] : neutral;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

template <class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce(value, T(0), [](T a, T b) { return a + b; });
}

}  // namespace guise
