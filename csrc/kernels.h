// The CPU kernels, as a table of plain functions: one table for each instruction set that this machine can run.
// No torch here: the kernels know pointers and lengths only.
#pragma once

#include <cstdint>
#include <vector>

#include "philox.h"

namespace gensys {

constexpr int kMaxTerms = 8;  // tensors in one pass of `combine`; the noise may come on top
constexpr int kAdalnRows = 4;  // rows that `adaln` computes together

// A bfloat16 number: the upper half of a float.
struct bfloat {
  uint16_t bits;
};

// What `combine` does with the sum: nothing, or clip it to [low, high] (NaN stays NaN).
struct Clip {
  bool on;
  float low, high;
};

constexpr int kVqBlock = 48;  // rows that `vq_nearest` takes at a time, at most: a multiple for every instruction set
constexpr int kVqSpare = 15;  // dimensions that its scratch memory must have room for beyond those of the codes

// The codes that `vq_nearest` chooses from, (count, dim), and what it adds to their products with a row: -|code|^2 / 2.
struct Codebook {
  const float* codes;
  const float* offsets;
  int64_t count, dim;
};

// Rows of numbers that follow each other, `stride` numbers from the start of one row to the start of the next.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  T* operator[](int64_t row) const { return data + row * stride; }
};

// An affine coupling of rows of n numbers, with l = bound tanh(s / bound):
//   y = x e^l + t,  logdet = the row's sum of l;      inverse   y = (x - t) e^-l,  logdet = -that sum
// y may be x, s or t. streamed: the rows of y start at multiples of 64 bytes and are not wanted in the caches.
template <typename T>
struct Coupling {
  Rows<T> y;
  float* logdet;
  Rows<const T> x, s, t;
  int64_t n;
  float bound;
  bool inverse, streamed;
};

// The gradients of x, s and t (of t in the inverse direction only: in the other one it is dy itself).
// kept: what went in, x; in the inverse direction what came out, y. streamed: as above, for dx, ds and dt.
template <typename T>
struct CouplingBackward {
  Rows<T> dx, ds, dt;
  Rows<const T> dy;
  const float* dlogdet;
  Rows<const T> kept, s;
  int64_t n;
  float bound;
  bool inverse, streamed;
};

// What `adaln` does to x, y, h, out: (rows, width), row-major, rows / tokens samples. Null is what is not asked for.
//   h = x + gate y        (without y: h = x)
//   out = (h - mean h) rstd (1 + scale) + shift,  rstd = 1 / sqrt(mean (h - mean h)^2 + eps)
struct Adaln {
  const void *x, *y;                  // x, h: of the residual type; y, out: of the compute type
  const float *gate, *shift, *scale;  // (samples, width)
  void *h, *out;                      // h may be x
  float* stats;                       // (rows, 2): mean, rstd
  int64_t tokens, width;
  float eps;
  bool stream;  // h and out are larger than the caches: write past them
};

// What `adaln_backward` does with the gradients of h and out (null: zero).
//   dx = dh + rstd (g - mean g - n mean(g n)),  n = (h - mean) rstd,  g = dout (1 + scale);      dy = gate dx
// and the sums over some tokens of one sample, of `width` numbers each:
//   dshift = sum dout,  dscale = sum dout n,  dgate = sum dx y
struct AdalnBackward {
  const void *dh, *dout, *h, *y;  // dh, h, dx: of the residual type; dout, y, dy: of the compute type
  const float *gate, *scale, *stats;
  void *dx, *dy;
  int64_t tokens, width;
  bool stream;
};

struct AdalnSums {
  float *dshift, *dscale, *dgate;
};

// The rows of a matrix, each without gaps: `stride` numbers from the start of one to the start of the next.
struct Matrix {
  void* data;
  int64_t stride;
};

// One head of attention: out = softmax(scale query key^T) value. All matrices are of one type and have `depth` columns.
struct Attention {
  Matrix query, key, value, out;
  float* stats;  // (2, queries), or null: what the backward pass asks of the forward pass
  int64_t queries, keys, depth;  // all at least 1
  float scale;
};

struct AttentionBackward : Attention {
  Matrix dout, dquery, dkey, dvalue;
};

struct Kernels {
  const char* isa;

  // For benchmarks: `loops` passes of a loop that does the fastest arithmetic there is, in float32 or with products of
  // bfloat16; the number of floating-point operations, 0 if there is no such instruction.
  double (*multiply_adds)(int64_t loops);
  double (*dot_products)(int64_t loops);

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

  // offsets[k] = -|code k|^2 / 2, for a Codebook.
  void (*vq_offsets)(float* offsets, const float* codes, int64_t count, int64_t dim);

  // The number of the nearest code, and the squared distance if `distance` is not null, for n rows of x, (n, dim).
  // scratch: kVqBlock * (dim + kVqSpare) floats, aligned to 64 bytes.
  void (*vq_nearest)(int64_t* index, float* distance, const float* x, int64_t n, const Codebook& book, float* scratch);
  void (*vq_nearest_bf16)(int64_t* index, float* distance, const bfloat* x, int64_t n, const Codebook& book,
                          float* scratch);

  // Rows begin <= r < end of a coupling.
  void (*couple)(const Coupling<float>& c, int64_t begin, int64_t end);
  void (*couple_bf16)(const Coupling<bfloat>& c, int64_t begin, int64_t end);
  void (*couple_backward)(const CouplingBackward<float>& c, int64_t begin, int64_t end);
  void (*couple_backward_bf16)(const CouplingBackward<bfloat>& c, int64_t begin, int64_t end);

  // Rows begin <= r < end; for the backward they are of one sample, and `sums` is what they add up to. `room` is for
  // kAdalnRows rows. By the (residual, compute) types: (float, float), (float, bfloat),
  // (bfloat, bfloat), the number of bfloats.
  void (*adaln[3])(const Adaln& a, int64_t begin, int64_t end, float* room);
  void (*adaln_backward[3])(const AdalnBackward& a, int64_t begin, int64_t end, const AdalnSums& sums);

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
