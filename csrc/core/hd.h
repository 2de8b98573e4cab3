// Marks functions for host and device. Headers that include this include no torch.
#pragma once
#include <cmath>
#include <cstdint>
#ifdef __CUDACC__
#define GUISE_HD __host__ __device__ __forceinline__
#else
#define GUISE_HD inline
#endif
