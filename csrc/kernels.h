// The CPU kernels, as a table of plain functions: one table for each instruction set that this machine can run.
// No torch here: the kernels know pointers and lengths only.
#pragma once

#include <cstdint>
#include <vector>

#include "philox.h"

namespace gensys {

constexpr int kMaxTerms = 8;  // tensors in one pass of `combine`; the noise may come on top

// A bfloat16 number: the upper half of a float.
struct bfloat {
  uint16_t bits;
};

// What `combine` does with the sum: nothing, or clip it to [low, high] (NaN stays NaN).
struct Clip {
  bool on;
  float low, high;
};

// The rows of a matrix, each without gaps: `stride` numbers from the start of one to the start of the next.
struct Rows {
  void* data;
  int64_t stride;
};

// One head of attention: out = softmax(scale query key^T) value. All matrices are of one type and have `depth` columns.
struct Attention {
  Rows query, key, value, out;
  float* stats;  // (2, queries), or null: what the backward pass asks of the forward pass
  int64_t queries, keys, depth;  // all at least 1
  float scale;
};

struct AttentionBackward : Attention {
  Rows dout, dquery, dkey, dvalue;
};

struct Kernels {
  const char* isa;

  // out[i] = sum over j of coefs[j] * terms[j][i], left to right, every product and every sum rounded, then clipped.
  // 0 <= count <= kMaxTerms + 1. `out` may be one of the terms; other overlaps are not allowed.
  void (*combine)(float* out, const float* const* terms, const float* coefs, int count, int64_t n, Clip clip);

  // The first n elements that the counters of `row` give from counter `quad` on.
  void (*uniform)(float* out, const Row& row, uint32_t quad, int n);
  void (*normal)(float* out, const Row& row, uint32_t quad, int n);

  // GELU (tanh form) of n elements, and dx = dy gelu'(x). The result may take the place of x, or of dy.
  void (*gelu)(float* out, const float* x, int64_t n);
  void (*gelu_bf16)(bfloat* out, const bfloat* x, int64_t n);
  void (*gelu_backward)(float* dx, const float* dy, const float* x, int64_t n);
  void (*gelu_backward_bf16)(bfloat* dx, const bfloat* dy, const bfloat* x, int64_t n);

  // By the type: [is it bfloat16]. `work`: memory for as many floats as is returned for null, which computes nothing.
  int64_t (*attention[2])(const Attention& head, float* work);
  int64_t (*attention_backward[2])(const AttentionBackward& head, float* work);
};

// The tables of csrc/cpu/<isa>.cpp; the namespaces hold nothing else that is seen from outside.
namespace baseline {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx512_bf16 {
extern const Kernels table;
}

// Those that this CPU can run, fastest first. Never empty: the last one is "baseline".
const std::vector<const Kernels*>& kernels();

}  // namespace gensys
