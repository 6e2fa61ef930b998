// What the operators share: how tensors are checked, and which instruction set is in use.
//
// The Python side (gensys/kernels) checks arguments and explains what is wrong with them; the checks here only keep a
// direct call of the operators from touching memory that is not theirs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>

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

}  // namespace gensys
