// The Python module `_C`. Importing it registers the kernels. build_info() tells how they were
// built.
#include <pybind11/pybind11.h>

#if __has_include("guise_build.h")
#include "guise_build.h"  // written by nets/ops/_build.py before each build
#else
#define GUISE_STAMP "unknown"
#define GUISE_CXX_FLAGS ""
#define GUISE_CUDA_ARCHS ""
#define GUISE_TORCH ""
#endif

#if defined(__clang__)
#define GUISE_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define GUISE_COMPILER "gcc " __VERSION__
#else
#define GUISE_COMPILER "unknown"
#endif

#ifndef TORCH_TARGET_VERSION
#error "TORCH_TARGET_VERSION must name the oldest torch served: see nets/ops/_build.py"
#endif

namespace {

// nets/ops/_build.py searches the bytes of the file for them, before it loads the library.
const char* const kStamp = "guise-stamp:" GUISE_STAMP ";";
[[gnu::used]] const char kArchs[] = "guise-archs:" GUISE_CUDA_ARCHS "|";

pybind11::dict build_info() {
  pybind11::dict info;
  info["stamp"] = pybind11::str(kStamp);
  info["compiler"] = GUISE_COMPILER;
  info["flags"] = GUISE_CXX_FLAGS;
  info["cuda_archs"] = GUISE_CUDA_ARCHS;
  info["torch"] = GUISE_TORCH;
  const auto target = static_cast<unsigned long long>(TORCH_TARGET_VERSION);
  info["torch_target"] =
      std::to_string(target >> 56) + "." + std::to_string(target >> 48 & 255) + " or later";
  return info;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("build_info", &build_info, "How this library was built: compiler, flags, archs, torch.");
}
