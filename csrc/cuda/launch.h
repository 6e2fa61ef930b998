// What the launchers share.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace gensys::cuda {

template <typename P>
int launch(void (*kernel)(P), dim3 grid, dim3 block, P parameters, void* stream) {
  void* arguments[] = {&parameters};
  const cudaError_t error = cudaLaunchKernel(kernel, grid, block, arguments, 0, cudaStream_t(stream));
  if (error != cudaSuccess) cudaGetLastError();  // told by the result: do not leave it for an unrelated call to find
  return int(error);
}

// A number of blocks as the first dimension of a grid; 0, which every launch refuses, if there cannot be so many.
inline unsigned blocks(int64_t n) { return n <= 0x7FFFFFFF ? unsigned(n) : 0; }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether 128-bit accesses may begin at p.
inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace gensys::cuda
