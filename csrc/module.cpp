// The Python module `_C`: importing it registers the kernels; build_info() says how they were
// built. In Python's own C interface, which compiles in a fraction of a second.
#include <Python.h>

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

#define GUISE_TEXT_(x) #x
#define GUISE_TEXT(x) GUISE_TEXT_(x)
#define GUISE_JOIN_(a, b) a##b
#define GUISE_JOIN(a, b) GUISE_JOIN_(a, b)

namespace {

// Found in the file's bytes by nets/ops/_build.py, which must know before it loads the library.
const char* const kStamp = "guise-stamp:" GUISE_STAMP ";";

PyObject* build_info(PyObject*, PyObject*) {
  constexpr unsigned long long kTarget = TORCH_TARGET_VERSION;
  PyObject* const target =
      PyUnicode_FromFormat("%d.%d or later", int(kTarget >> 56), int(kTarget >> 48 & 255));
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s,s:N}", "stamp", kStamp, "compiler", GUISE_COMPILER,
                       "flags", GUISE_CXX_FLAGS, "cuda_archs", GUISE_CUDA_ARCHS, "torch",
                       GUISE_TORCH, "torch_target", target);
}

PyMethodDef methods[] = {{"build_info", build_info, METH_NOARGS,
                          "How this library was built: compiler, flags, archs, torch."},
                         {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      GUISE_TEXT(TORCH_EXTENSION_NAME),
                      nullptr,
                      0,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC GUISE_JOIN(PyInit_, TORCH_EXTENSION_NAME)() { return PyModule_Create(&module); }
