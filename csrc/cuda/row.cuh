// How the threads of a block share out a row of D elements: loads and stores of one thread's part, and sums over all.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "../kernels.h"

namespace gensys::cuda {

constexpr int kValues = 8;     // of a row, that a thread holds
constexpr int kThreads = 512;  // of a block, at most
constexpr int kWarp = 32;

using Values = float[kValues];

__device__ __forceinline__ float widen(uint32_t half) { return float_of(int32_t(half << 16)); }

__device__ __forceinline__ uint32_t narrow(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// n consecutive elements, 128 bits at a time (64 for four bfloat16).
template <int n>
__device__ __forceinline__ void load_vector(float* v, const float* p) {
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    const float4 q = *reinterpret_cast<const float4*>(p + i);
    v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
  }
}

template <int n>
__device__ __forceinline__ void store_vector(float* p, const float* v) {
#pragma unroll
  for (int i = 0; i < n; i += 4) *reinterpret_cast<float4*>(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

template <int n>
__device__ __forceinline__ void load_vector(float* v, const bfloat* p) {
  uint32_t words[n / 2];
  if constexpr (n == 8) {
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    words[0] = q.x, words[1] = q.y, words[2] = q.z, words[3] = q.w;
  } else {
    const uint2 q = *reinterpret_cast<const uint2*>(p);
    words[0] = q.x, words[1] = q.y;
  }
#pragma unroll
  for (int i = 0; i < n / 2; ++i) v[2 * i] = widen(words[i]), v[2 * i + 1] = widen(words[i] >> 16);
}

template <int n>
__device__ __forceinline__ void store_vector(bfloat* p, const float* v) {
  if constexpr (n == 8) {
    *reinterpret_cast<uint4*>(p) =
        make_uint4(narrow(v[0], v[1]), narrow(v[2], v[3]), narrow(v[4], v[5]), narrow(v[6], v[7]));
  } else {
    *reinterpret_cast<uint2*>(p) = make_uint2(narrow(v[0], v[1]), narrow(v[2], v[3]));
  }
}

__device__ __forceinline__ float load_one(const float* p) { return *p; }
__device__ __forceinline__ float load_one(const bfloat* p) { return widen(p->bits); }
__device__ __forceinline__ void store_one(float* p, float x) { *p = x; }
__device__ __forceinline__ void store_one(bfloat* p, float x) { p->bits = uint16_t(narrow(x, 0.0f)); }

// The value that a store and a load of a T would give back.
__device__ __forceinline__ float rounded(float x, float) { return x; }
__device__ __forceinline__ float rounded(float x, bfloat) { return widen(narrow(x, 0.0f)); }

// The columns that this thread owns in one tile of a row; a tile is what the block holds at once, blockDim.x * kValues.
// R, the type of the residual stream, decides their arrangement: neighbours as many as 128 bits hold, threads side by
// side. With `whole` the rows begin at multiples of 128 bits and one tile holds them (D <= kThreads * kValues).
template <typename R, bool whole>
struct Columns {
  static constexpr int n = 16 / sizeof(R);  // neighbours
  int first, stride, D;

  __device__ __forceinline__ Columns(int tile, int D)
      : first(tile * int(blockDim.x) * kValues + int(threadIdx.x) * n), stride(int(blockDim.x) * n), D(D) {}

  // Whether value i of this thread is one of the row's.
  __device__ __forceinline__ bool has(int i) const { return first + i / n * stride + (whole ? 0 : i % n) < D; }

  // This thread's part of a row; zeros beyond its end.
  template <typename T>
  __device__ __forceinline__ void load(Values& v, const T* row) const {
#pragma unroll
    for (int i = 0; i < kValues; i += n) {
      const T* p = row + (first + i / n * stride);
      if constexpr (whole) {
        if (has(i)) {
          load_vector<n>(v + i, p);
        } else {
#pragma unroll
          for (int j = 0; j < n; ++j) v[i + j] = 0.0f;
        }
      } else {
#pragma unroll
        for (int j = 0; j < n; ++j) v[i + j] = has(i + j) ? load_one(p + j) : 0.0f;
      }
    }
  }

  template <typename T>
  __device__ __forceinline__ void store(T* row, const Values& v) const {
#pragma unroll
    for (int i = 0; i < kValues; i += n) {
      T* p = row + (first + i / n * stride);
      if constexpr (whole) {
        if (has(i)) store_vector<n>(p, v + i);
      } else {
#pragma unroll
        for (int j = 0; j < n; ++j)
          if (has(i + j)) store_one(p + j, v[i + j]);
      }
    }
  }
};

__device__ __forceinline__ float add(float a, float b) { return a + b; }
__device__ __forceinline__ float2 add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

__device__ __forceinline__ float from_lane(float x, int apart) { return __shfl_xor_sync(0xFFFFFFFFu, x, apart); }
__device__ __forceinline__ float2 from_lane(float2 x, int apart) {
  return make_float2(from_lane(x.x, apart), from_lane(x.y, apart));
}

// Sums over the block, of one number or two at once; all threads receive them, always added up in the same order, and
// all call it equally often.
template <typename T>
struct BlockSum {
  T (*shared)[kWarp];  // [2]
  int turn = 0;

  __device__ __forceinline__ T operator()(T x) {
    const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
    x = over_warp(x);
    // Two buffers by turns need one barrier a sum: whoever writes one again has passed the barrier of the other, which
    // all reach after they have read this one.
    T* const sums = shared[turn];
    turn ^= 1;
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    return over_warp(lane < warps ? sums[lane] : T{});
  }

 private:
  __device__ __forceinline__ static T over_warp(T x) {
#pragma unroll
    for (int apart = kWarp / 2; apart; apart /= 2) x = add(x, from_lane(x, apart));
    return x;
  }
};

}  // namespace gensys::cuda
