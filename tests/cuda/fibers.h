// The threads of a CUDA launch as fibers of one host thread. See cuda_on_cpu.h.
#pragma once
#include <cstddef>

namespace cuda_on_cpu {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};
extern Dim3 thread_index, block_index, block_dim, grid_dim;

struct Place {  // a line of a .cu file
  const char* file;
  int line;
};

// Calls body(closure) once in each thread of each block. Throws std::runtime_error if a GPU would
// refuse the launch, and if the threads of a block or the lanes of a warp do not meet.
void run(unsigned grid, unsigned block, size_t shared_bytes, size_t argument_bytes,
         void (*body)(const void*), const void* closure);

// What a thread calls: waits for its block; waits for its warp and gets the value of lane `source`.
void barrier(Place place);
void exchange(void* value, size_t size, int source, unsigned mask, Place place);

// Shared memory of the block, aligned to 16 bytes; `name` tells static variables apart.
unsigned char* dynamic_shared();
void* static_shared(const void* name, size_t size);

// Ends the process: a vector access at an address that is not a multiple of its size.
[[noreturn]] void misaligned(const void* p, size_t size);

}  // namespace cuda_on_cpu
