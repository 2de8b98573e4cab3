// What CUDA C++ adds to C++, as far as csrc/*/*.cu use it, for a C++ compiler and a CPU.
//
// Every CUDA thread is a fiber (fibers.h) that runs until it ends or waits at a barrier or a
// shuffle. So blocks, warps and divergence are those of a GPU. The order of threads differs, and so
// does the rounding of library functions. emulate.py makes the replacements in the sources that
// macros cannot.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <atomic>
#include <cstdint>
#include <tuple>

#include "fibers.h"

namespace cuda_on_cpu {

// kernel<<<grid, block, shared, stream>>>(args...) becomes launch(kernel, ...)(args...).
template <class... Params>
struct Launch {
  void (*kernel)(Params...);
  unsigned grid, block;
  size_t shared;

  template <class... Args>
  void operator()(const Args&... args) const {
    struct Closure {
      void (*kernel)(Params...);
      std::tuple<Params...> values;  // arguments are converted once, as by a launch
    };
    const Closure closure{kernel, std::tuple<Params...>(args...)};
    size_t bytes = 0;
    ((bytes = (bytes + alignof(Params) - 1) / alignof(Params) * alignof(Params) + sizeof(Params)),
     ...);
    const auto body = [](const void* p) {
      const auto& c = *static_cast<const Closure*>(p);
      std::apply(c.kernel, c.values);
    };
    run(grid, block, shared, bytes, body, &closure);
  }
};
template <class... Params>
Launch<Params...> launch(void (*kernel)(Params...), unsigned grid, unsigned block, size_t shared,
                         void* /*stream*/) {
  return {kernel, grid, block, shared};
}

template <class T>
T shuffle(T value, int source, unsigned mask, Place place) {
  exchange(&value, sizeof value, source, mask, place);
  return value;
}
inline int lane() { return int(thread_index.x % 32); }

template <class T>
T add(T* p, T value) {
  return std::atomic_ref<T>(*p).fetch_add(value, std::memory_order_relaxed);
}

// The address of a vector access. A GPU requires a multiple of its size.
template <class Pack, class T>
Pack* wide(T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(Pack)) misaligned(p, sizeof(Pack));
  return reinterpret_cast<Pack*>(p);
}

struct Guard {
  explicit Guard(int32_t) {}
};

}  // namespace cuda_on_cpu

using cudaStream_t = void*;
struct int2 {
  int x, y;
};

inline AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
namespace torch::stable::accelerator {
using CudaOnCpuGuard = ::cuda_on_cpu::Guard;
}

#define __CUDACC__ 1
#define __CUDA_ARCH__ 900
#define __host__
#define __device__
#define __global__
#undef __forceinline__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx ::cuda_on_cpu::thread_index
#define blockIdx ::cuda_on_cpu::block_index
#define blockDim ::cuda_on_cpu::block_dim
#define gridDim ::cuda_on_cpu::grid_dim
#define CUDA_ON_CPU_HERE (::cuda_on_cpu::Place{__FILE__, __LINE__})
#define __syncthreads() ::cuda_on_cpu::barrier(CUDA_ON_CPU_HERE)
#define __shfl_xor_sync(mask, value, step) \
  ::cuda_on_cpu::shuffle(value, ::cuda_on_cpu::lane() ^ (step), mask, CUDA_ON_CPU_HERE)
#define __shfl_down_sync(mask, value, step) \
  ::cuda_on_cpu::shuffle(value, ::cuda_on_cpu::lane() + int(step), mask, CUDA_ON_CPU_HERE)
#define atomicAdd ::cuda_on_cpu::add
#define DeviceGuard CudaOnCpuGuard
#undef STD_CUDA_KERNEL_LAUNCH_CHECK
#define STD_CUDA_KERNEL_LAUNCH_CHECK() ((void)0)
// The kernels serve CPU tensors, in the place of the CPU's own.
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m)                                              \
  static void cuda_on_cpu_register(torch::stable::detail::StableLibrary& m);               \
  static const torch::stable::detail::StableTorchLibraryInit cuda_on_cpu_registered(       \
      torch::stable::detail::StableLibrary::Kind::IMPL, &cuda_on_cpu_register, #ns, "CPU", \
      __FILE__, __LINE__);                                                                 \
  void cuda_on_cpu_register(torch::stable::detail::StableLibrary& m)
