// The only file that includes torch: its stable ABI, which one build shares with every torch
// >= 2.10.
#pragma once
#ifndef __CUDACC__
// With it, Half.h includes all vector intrinsics for conversions that no file here uses. They would
// take a third of the compile time.
#pragma push_macro("__F16C__")
#undef __F16C__
#endif
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#ifndef __CUDACC__
#pragma pop_macro("__F16C__")
#endif

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

namespace guise {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type in which a kernel that reads and writes T computes: float for 16-bit types, else T.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename Compute<T>::type;

inline std::string shape_str(const Tensor& t) {
  std::string s = "[";
  for (int64_t d = 0; d < t.dim(); ++d) s += (d ? ", " : "") + std::to_string(t.size(d));
  return s + "]";
}

inline std::string device_str(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  return t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "another device";
}

// A kernel reads addresses of its own device only. torch checks no devices before it is called.
inline void check_device(const Tensor& t, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(t.device() == like.device(), name, " must be on ", device_str(like), ", got ",
                  device_str(t));
}
inline void check_device(const std::optional<Tensor>& t, const Tensor& like, const char* name) {
  if (t) check_device(*t, like, name);
}

// True if the image is contiguous in memory with the channels innermost.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4) return false;
  const int64_t n = t.size(0), c = t.size(1), h = t.size(2), w = t.size(3);
  return t.numel() == 0 ||
         ((c == 1 || t.stride(1) == 1) && (w == 1 || t.stride(3) == c) &&
          (h == 1 || t.stride(2) == w * c) && (n == 1 || t.stride(0) == h * w * c));
}

// With this, 32-bit indices suffice within a map. Indices across maps have 64 bits.
inline void check_map_size(int64_t h, int64_t w) {
  constexpr int64_t kSide = int64_t(1) << 30;
  STD_TORCH_CHECK(h >= 0 && w >= 0 && h < kSide && w < kSide && h * w < 2 * kSide,
                  "a map must have fewer than 2^31 pixels, got ", h, " x ", w);
}

// compute_t for a dtype at run time.
inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor as_type(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}

// The CPU kernels are compiled for float and double only. 16-bit tensors are converted to float
// before and back after: torch's conversions are vectorised, and half as many kernels are compiled.
inline Tensor computed(const Tensor& t) {
  const auto type = t.scalar_type();
  const bool small = type == ScalarType::Half || type == ScalarType::BFloat16;
  return small ? torch::stable::to(t, ScalarType::Float) : t;
}

template <class F>
void dispatch(ScalarType dtype, const char* name, const F& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
#ifdef __CUDACC__
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
#endif
    default:
      STD_TORCH_CHECK(false, name, ": dtype must be a floating type of 16, 32 or 64 bits");
  }
}

#ifdef __CUDACC__
// Stream::id() is not a cudaStream_t, and the native handle is exposed only from torch 2.13 on.
inline cudaStream_t stream_of(const Tensor& t) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

}  // namespace guise

// GUISE_DISPATCH(dtype, "op", { ... scalar_t ... }) over the floating types that a kernel supports.
// A function with a generic lambda: THO_DISPATCH_V2 would split its body at every comma.
#define GUISE_DISPATCH(dtype, name, ...)              \
  ::guise::dispatch(dtype, name, [&](auto zero) {     \
    using scalar_t [[maybe_unused]] = decltype(zero); \
    __VA_ARGS__                                       \
  })
