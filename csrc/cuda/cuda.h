// The CUDA kernels behind plain functions: raw pointers, sizes and a stream, no torch, so that one build serves any torch
// and also exists beside a torch without CUDA (the Python side is gensys/kernels/cuda).
//
// What has been executed where: compiled for sm_80, sm_90 and sm_100 (and PTX for what comes later), with tests that
// refuse spills, stack and too many registers; the bodies of the kernels and their launches, unmodified, run on the CPU
// under an emulation (tests/csrc/emulation). They have never run on a GPU; nothing is claimed about their speed.
//
// All pointers but `terms` and `coefs` are device memory of the current device. Everything is asynchronous on `stream`
// (a cudaStream_t) and deterministic: no atomics, and no order of a sum that depends on the machine. The result is the
// cudaError_t of the launch, 0 for success.
#pragma once

#include <cstdint>

#include "../kernels.h"

extern "C" {

// out[i] = sum over j of coefs[j] * terms[j][i] + noise_coef * z[i], left to right, clipped: the bits of Kernels::combine.
// out and terms: `rows` rows of n elements, contiguous. ids: one for each row, or null: no noise.
int gensys_cuda_combine(float* out, const float* const* terms, const float* coefs, int count, float noise_coef,
                        const int64_t* ids, int64_t rows, int64_t n, uint64_t seed, uint32_t step, uint32_t stream_id,
                        gensys::Clip clip, void* stream);

// The first n elements of every id's normals (or uniforms): the bits of Kernels::normal and Kernels::uniform.
int gensys_cuda_philox(float* out, const int64_t* ids, int64_t rows, int64_t n, uint64_t seed, uint32_t step,
                       uint32_t stream_id, bool normal, void* stream);

// The types of an adaln call: those of the residual stream (x, h, dh, dx) and of the network (y, out, dout, dy).
enum gensys_cuda_types { gensys_cuda_f32_f32, gensys_cuda_f32_bf16, gensys_cuda_bf16_bf16 };

// h = x + gate y;  out = (h - mean) rstd (1 + scale) + shift, mean and 1 / sqrt(variance + eps) of every row in `stats`.
// x, y, h, out: (B, T, D), contiguous. gate, shift, scale: float (B, D). stats: float (B, T, 2).
// y, gate, h are null for the second part alone (of x), shift, scale, out, stats for the first alone.
int gensys_cuda_adaln_forward(int types, const void* x, const void* y, const float* gate, const float* shift,
                              const float* scale, float eps, void* h, void* out, float* stats, int64_t B, int64_t T,
                              int64_t D, void* stream);

// The derivative of that. dh: the gradient that reaches h from elsewhere, or null; h: what was normalised; dout, h,
// scale, stats, dx are null for the first part alone, y, gate, dy for the second.
// sums: float (K, B, D), the gradients of gate (if there is one), then of shift and scale (if there are).
// partial: workspace, float (K, B, strips, D) with strips = gensys_cuda_adaln_strips(T); null if that is 1.
int gensys_cuda_adaln_backward(int types, const void* dh, const void* dout, const void* h, const void* y,
                               const float* gate, const float* scale, const float* stats, void* dx, void* dy,
                               float* sums, float* partial, int64_t B, int64_t T, int64_t D, void* stream);

// Into how many strips of rows the backward pass cuts a sample.
int64_t gensys_cuda_adaln_strips(int64_t T);

// Whether kernels can start on the current device: the driver is new enough, and there is code for this GPU.
int gensys_cuda_probe();

// What an error code says.
const char* gensys_cuda_error(int code);

}  // extern "C"
