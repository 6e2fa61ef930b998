// adaLN-Zero: the gated residual sum, LayerNorm without parameters and the modulation, in one pass over memory each way.
//
//     h = x + gate y        xhat = (h - mean) rstd        out = xhat (1 + scale) + shift
//
// A block takes a strip, some consecutive rows of one sample, and goes through it row by row; a thread owns the same
// columns in all of them. So the gradients of gate, scale and shift, which are sums over all rows of a sample, need no
// atomics: a thread adds up its columns over the strip, and `add_strips` adds up the strips in order.
//
// `gated` and `modulated` say which of the two halves there are. `whole` is for rows that fit the registers and begin at
// multiples of 128 bits; without it, for any D, a row is read again wherever it is needed (from the cache), one tile
// after the other, and the sums over the strip are kept in memory.
#pragma once

#include "row.cuh"

namespace gensys::cuda {

// How (B, T, D) is cut into strips of rows of one sample.
struct Strips {
  int64_t T, D;
  int64_t strips;  // of one sample
  int64_t rows;    // of a strip; the last one may have fewer

  struct Strip {
    int64_t sample, first, last;  // rows [first, last) of all B * T
  };

  __device__ __forceinline__ Strip mine() const {
    const int64_t sample = blockIdx.x / strips, first = blockIdx.x % strips * rows;
    return {sample, sample * T + first, sample * T + (first + rows < T ? first + rows : T)};
  }

  // How many tiles of the block cover a row.
  __device__ __forceinline__ int tiles() const { return int((D - 1) / (blockDim.x * kValues)) + 1; }
};

template <typename R, typename C>
struct Forward {
  Strips strips;
  const R* x;
  const C* y;
  const float *gate, *shift, *scale;
  float eps;
  R* h;
  C* out;
  float2* stats;
};

template <typename R, typename C, bool gated, bool modulated, bool whole>
__global__ void __launch_bounds__(kThreads) forward(const Forward<R, C> p) {
  __shared__ float shared[2][kWarp];
  BlockSum<float> block_sum{shared};
  const auto strip = p.strips.mine();
  const int D = int(p.strips.D), tiles = whole ? 1 : p.strips.tiles();
  const int64_t sample = strip.sample * D;
  Values v, y, gate, shift, scale;
  if constexpr (whole) {  // kept for all rows
    const Columns<R, whole> columns(0, D);
    if constexpr (gated) columns.load(gate, p.gate + sample);
    if constexpr (modulated) columns.load(shift, p.shift + sample), columns.load(scale, p.scale + sample);
  }
  for (int64_t row = strip.first; row < strip.last; ++row) {
    const int64_t at = row * D;
    float sum = 0.0f;
    for (int tile = 0; tile < tiles; ++tile) {
      const Columns<R, whole> columns(tile, D);
      columns.load(v, p.x + at);
      if constexpr (gated) {
        columns.load(y, p.y + at);
        if constexpr (!whole) columns.load(gate, p.gate + sample);
#pragma unroll
        for (int i = 0; i < kValues; ++i) v[i] = rounded(v[i] + gate[i] * y[i], R{});  // what the backward pass will read
        columns.store(p.h + at, v);
      }
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum += v[i];
    }
    if constexpr (modulated) {
      const R* const h = gated ? p.h : p.x;
      const float mean = block_sum(sum) / float(D);
      float squares = 0.0f;  // about the mean, in a pass of their own: no difference of large numbers
      for (int tile = 0; tile < tiles; ++tile) {
        const Columns<R, whole> columns(tile, D);
        if constexpr (!whole) columns.load(v, h + at);
#pragma unroll
        for (int i = 0; i < kValues; ++i) squares += columns.has(i) ? (v[i] - mean) * (v[i] - mean) : 0.0f;
      }
      const float rstd = 1.0f / sqrtf(block_sum(squares) / float(D) + p.eps);
      for (int tile = 0; tile < tiles; ++tile) {
        const Columns<R, whole> columns(tile, D);
        if constexpr (!whole) {
          columns.load(v, h + at);
          columns.load(shift, p.shift + sample), columns.load(scale, p.scale + sample);
        }
#pragma unroll
        for (int i = 0; i < kValues; ++i) v[i] = (v[i] - mean) * rstd * (1.0f + scale[i]) + shift[i];
        columns.store(p.out + at, v);
      }
      if (threadIdx.x == 0) p.stats[row] = make_float2(mean, rstd);
    }
  }
}

template <typename R, typename C>
struct Backward {
  Strips strips;
  const R* dh;  // null: zero
  const C* dout;
  const R* h;
  const C* y;
  const float *gate, *scale;
  const float2* stats;
  R* dx;
  C* dy;
  float* sums;      // (K, B, strips, D)
  int64_t samples;  // B
};

// Sums over the rows of a strip, for the columns of a thread. They are kept in registers if `whole`, in memory if not.
template <bool whole>
struct StripSum {
  float* row;
  Values v;

  __device__ __forceinline__ StripSum(float* row) : row(row) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] = 0.0f;
  }

  // Around the additions of one tile.
  template <typename Columns>
  __device__ __forceinline__ void open(const Columns& columns, bool first) {
    if constexpr (!whole)
      if (!first) columns.load(v, row);
  }
  template <typename Columns>
  __device__ __forceinline__ void close(const Columns& columns) {
    if constexpr (!whole) {
      columns.store(row, v);
#pragma unroll
      for (int i = 0; i < kValues; ++i) v[i] = 0.0f;
    }
  }
};

template <typename R, typename C, bool gated, bool modulated, bool whole>
__global__ void __launch_bounds__(kThreads) backward(const Backward<R, C> p) {
  __shared__ float2 shared[2][kWarp];
  BlockSum<float2> block_sum{shared};
  const auto strip = p.strips.mine();
  const int D = int(p.strips.D), tiles = whole ? 1 : p.strips.tiles();
  const int64_t sample = strip.sample * D;
  // blockIdx.x counts the strips of all samples: the sums of gate, shift and scale lie samples * strips * D apart
  float* const sums = p.sums + int64_t(blockIdx.x) * D;
  const int64_t apart = p.samples * p.strips.strips * D;
  StripSum<whole> dgate(sums), dshift(sums + (gated ? apart : 0)), dscale(sums + (gated ? 2 : 1) * apart);
  Values dx, dout, h, y, gate, scale;
  if constexpr (whole) {
    const Columns<R, whole> columns(0, D);
    if constexpr (gated) columns.load(gate, p.gate + sample);
    if constexpr (modulated) columns.load(scale, p.scale + sample);
  }
  for (int64_t row = strip.first; row < strip.last; ++row) {
    const int64_t at = row * D;
    float2 stats = make_float2(0.0f, 0.0f), means = stats;
    if constexpr (modulated) {
      stats = p.stats[row];
      for (int tile = 0; tile < tiles; ++tile) {
        const Columns<R, whole> columns(tile, D);
        columns.load(dout, p.dout + at);
        columns.load(h, p.h + at);
        if constexpr (!whole) columns.load(scale, p.scale + sample);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          const float g = dout[i] * (1.0f + scale[i]);
          means.x += g;
          means.y += g * ((h[i] - stats.x) * stats.y);
        }
      }
      means = block_sum(means);
      means.x /= float(D), means.y /= float(D);
    }
    for (int tile = 0; tile < tiles; ++tile) {
      const Columns<R, whole> columns(tile, D);
      if (p.dh) {
        columns.load(dx, p.dh + at);
      } else {
#pragma unroll
        for (int i = 0; i < kValues; ++i) dx[i] = 0.0f;
      }
      if constexpr (modulated) {
        if constexpr (!whole) {
          columns.load(dout, p.dout + at);
          columns.load(h, p.h + at);
          columns.load(scale, p.scale + sample);
        }
        dshift.open(columns, row == strip.first), dscale.open(columns, row == strip.first);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          const float xhat = (h[i] - stats.x) * stats.y, g = dout[i] * (1.0f + scale[i]);
          dshift.v[i] += dout[i];
          dscale.v[i] += dout[i] * xhat;
          dx[i] += stats.y * (g - means.x - xhat * means.y);
        }
        dshift.close(columns), dscale.close(columns);
        columns.store(p.dx + at, dx);
      }
      if constexpr (gated) {
        columns.load(y, p.y + at);
        if constexpr (!whole) columns.load(gate, p.gate + sample);
        dgate.open(columns, row == strip.first);
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          dgate.v[i] += dx[i] * y[i];
          y[i] = dx[i] * gate[i];
        }
        dgate.close(columns);
        columns.store(p.dy + at, y);
      }
    }
  }
  if constexpr (whole) {
    const Columns<R, whole> columns(0, D);
    if constexpr (gated) columns.store(dgate.row, dgate.v);
    if constexpr (modulated) columns.store(dshift.row, dshift.v), columns.store(dscale.row, dscale.v);
  }
}

struct AddStrips {
  float* out;            // (rows, D)
  const float* partial;  // (rows, strips, D)
  int64_t strips, D;
};

constexpr int kSlices = 8;  // threads that share a column

// out[row][d] = the sum of partial[row][s][d]: every kSlices-th strip to a thread, then the threads in order.
__global__ void __launch_bounds__(kWarp* kSlices) add_strips(const AddStrips p) {
  __shared__ float shared[kSlices][kWarp];
  const int64_t blocks = (p.D + kWarp - 1) / kWarp;
  const int64_t row = blockIdx.x / blocks, d = blockIdx.x % blocks * kWarp + threadIdx.x;
  float sum = 0.0f;
  if (d < p.D)
    for (int64_t s = threadIdx.y; s < p.strips; s += kSlices) sum += p.partial[(row * p.strips + s) * p.D + d];
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || d >= p.D) return;
#pragma unroll
  for (int slice = 1; slice < kSlices; ++slice) sum += shared[slice][threadIdx.x];
  p.out[row * p.D + d] = sum;
}

}  // namespace gensys::cuda
