// combine and philox: the arithmetic of a solver's step and its noise, four elements (one counter) a thread and turn.
//
// The noise never leaves the registers. Every product and sum is rounded by itself, so the bits are the CPU's: this needs
// -fmad=false, and division, square root and subnormal numbers as IEEE 754 has them (nvcc's defaults).
#pragma once

#include <cuda_runtime.h>

#include "../kernels.h"

#ifdef __USE_FAST_MATH__
#error "gensys kernels promise exact bits: compile without -use_fast_math"
#endif

namespace gensys::cuda {

// A pass over `rows` rows of n elements. Threads are a grid of (quads, rows) that repeats until it has covered them.
struct Pass {
  float* out;
  const int64_t* ids;  // null: no noise
  int64_t rows, n;
  Row counter;  // of id 0
};

struct Combine {
  Pass pass;
  const float* terms[kMaxTerms];
  float coefs[kMaxTerms], noise_coef, low, high;
};

struct Philox {
  Pass pass;
};

// Four elements from p on, of which the first `valid` exist; 128 bits at once where p allows it.
template <bool vector>
__device__ __forceinline__ Quad<float> load(const float* p, int valid) {
  if (vector && valid == 4) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    return {q.x, q.y, q.z, q.w};
  }
  return {p[0], valid > 1 ? p[1] : 0.0f, valid > 2 ? p[2] : 0.0f, valid > 3 ? p[3] : 0.0f};
}

template <bool vector>
__device__ __forceinline__ void store(float* p, Quad<float> q, int valid) {
  if (vector && valid == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(q.a, q.b, q.c, q.d);
    return;
  }
  p[0] = q.a;
  if (valid > 1) p[1] = q.b;
  if (valid > 2) p[2] = q.c;
  if (valid > 3) p[3] = q.d;
}

// Calls body(offset, valid, row's counter, quad) for every quad of the pass.
template <bool noise, typename Body>
__device__ __forceinline__ void for_quads(const Pass& pass, const Body& body) {
  const int64_t quads = (pass.n + 3) / 4;
  const int64_t first_row = int64_t(blockIdx.y) * blockDim.y + threadIdx.y;
  const int64_t first_quad = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t r = first_row; r < pass.rows; r += int64_t(gridDim.y) * blockDim.y) {
    Row row = pass.counter;
    if (noise) {
      const uint64_t id = uint64_t(pass.ids[r]);
      row.id = uint32_t(id);
      row.tail |= uint32_t(id >> 32) << 8;
    }
    for (int64_t q = first_quad; q < quads; q += int64_t(gridDim.x) * blockDim.x) {
      const int64_t left = pass.n - 4 * q;
      body(r * pass.n + 4 * q, left < 4 ? int(left) : 4, row, uint32_t(q));
    }
  }
}

__device__ __forceinline__ float clipped(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;  // in this order NaN stays NaN
}

template <int count, bool noise, bool vector>
__global__ void combine(const Combine p) {
  for_quads<noise>(p.pass, [&](int64_t at, int valid, const Row& row, uint32_t quad) {
    Quad<float> x[count + 1];  // all of them asked for before the first is needed; + 1: there is no array of none
#pragma unroll
    for (int j = 0; j < count; ++j) x[j] = load<vector>(p.terms[j] + at, valid);
    if (noise) x[count] = normal_quad(row, quad);
    Quad<float> sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < count + noise; ++j) {
      const float c = j < count ? p.coefs[j] : p.noise_coef;
      const Quad<float> term = {c * x[j].a, c * x[j].b, c * x[j].c, c * x[j].d};
      // not 0 + term at first: that would turn -0 into 0
      sum = j == 0 ? term : Quad<float>{sum.a + term.a, sum.b + term.b, sum.c + term.c, sum.d + term.d};
    }
    sum = {clipped(sum.a, p.low, p.high), clipped(sum.b, p.low, p.high), clipped(sum.c, p.low, p.high),
           clipped(sum.d, p.low, p.high)};
    store<vector>(p.pass.out + at, sum, valid);
  });
}

template <bool normal, bool vector>
__global__ void philox_fill(const Philox p) {
  for_quads<true>(p.pass, [&](int64_t at, int valid, const Row& row, uint32_t quad) {
    store<vector>(p.pass.out + at, normal ? normal_quad(row, quad) : uniform_quad(row, quad), valid);
  });
}

}  // namespace gensys::cuda
