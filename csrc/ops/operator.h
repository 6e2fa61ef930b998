// What the operators share: how tensors are checked, and which instruction set is in use.
//
// The Python side (gensys/kernels) checks arguments and explains what is wrong with them; the checks here only keep a
// direct call of the operators from touching memory that is not theirs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdint>

#include "../kernels.h"

namespace gensys {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 32768;  // elements that are worth waking a thread; torch's own number

extern std::atomic<const Kernels*> active;

inline const Kernels& use() { return *active.load(std::memory_order_relaxed); }

inline const char* text(ScalarType dtype) {
  return dtype == ScalarType::Long ? "int64" : dtype == ScalarType::BFloat16 ? "bfloat16" : "float32";
}

inline void check(const Tensor& tensor, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == dtype, "'", name,
                  "' must be a contiguous CPU tensor of ", text(dtype));
}

// Asks for pages of 2 MB for the memory of a large result that is about to be written. The C library gives large blocks
// back to the system when they are freed, so that a new one is made of fresh pages every time: of 4 KB each, their page
// faults took 5 times as long as a kernel (48 MB, a virtual machine with an AMD Zen 5), and doubled the time of another
// (12 MB, with a Zen 4). Below 8 MB too little of a block is whole large pages. Only a hint: it does nothing to pages
// that are there already, and nothing where the system forbids large ones.
inline void prefer_huge_pages(const Tensor& result) {
#ifdef __linux__
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t bytes = uintptr_t(result.numel() * result.element_size());
  const uintptr_t first = (begin + kHuge - 1) / kHuge * kHuge, last = (begin + bytes) / kHuge * kHuge;
  if (bytes >= 4 * kHuge && result.is_contiguous())
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace gensys
