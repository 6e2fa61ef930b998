// Launches of adaln.
#include "adaln.cuh"

#include "cuda.h"
#include "launch.h"

namespace gensys::cuda {
namespace {

// Rows of a strip: so many that the partial sums are little traffic beside the rows, so few that there are many strips.
// From T alone: the order of a sample's sums depends neither on the machine nor on who else is in the batch.
int64_t rows_of_strip(int64_t T) { return std::clamp<int64_t>(T / 32, std::min<int64_t>(T, 4), 32); }

Strips strips_of(int64_t T, int64_t D) {
  const int64_t rows = rows_of_strip(T);
  return {T, D, ceil_div(T, rows), rows};
}

// One thread for kValues elements, whole warps.
dim3 threads_of(int64_t D) {
  return dim3(unsigned(std::min<int64_t>(ceil_div(D, kValues * kWarp) * kWarp, kThreads)));
}

// Whether rows of R fit the registers and begin at multiples of 128 bits in all of these arrays.
template <typename R, typename... Pointers>
bool is_whole(int64_t D, Pointers... pointers) {
  return D % (16 / int64_t(sizeof(R))) == 0 && D <= kThreads * kValues && (aligned(pointers) && ...);
}

// Calls body with the type arguments of a call.
template <typename Body>
int with_types(int types, const Body& body) {
  switch (types) {
    case gensys_cuda_f32_f32: return body(float{}, float{});
    case gensys_cuda_f32_bf16: return body(float{}, bfloat{});
    case gensys_cuda_bf16_bf16: return body(bfloat{}, bfloat{});
    default: return int(cudaErrorInvalidValue);
  }
}

template <typename R, typename C, bool whole>
auto forward_of(bool gated, bool modulated) {
  if (!modulated) return forward<R, C, true, false, whole>;
  return gated ? forward<R, C, true, true, whole> : forward<R, C, false, true, whole>;
}

template <typename R, typename C, bool whole>
auto backward_of(bool gated, bool modulated) {
  if (!modulated) return backward<R, C, true, false, whole>;
  return gated ? backward<R, C, true, true, whole> : backward<R, C, false, true, whole>;
}

}  // namespace
}  // namespace gensys::cuda

using namespace gensys;
using namespace gensys::cuda;

int gensys_cuda_adaln_forward(int types, const void* x, const void* y, const float* gate, const float* shift,
                              const float* scale, float eps, void* h, void* out, float* stats, int64_t B, int64_t T,
                              int64_t D, void* stream) {
  if (B == 0 || T == 0 || D == 0) return 0;
  return with_types(types, [&](auto residual, auto compute) {
    using R = decltype(residual);
    using C = decltype(compute);
    const Forward<R, C> p = {strips_of(T, D), (const R*)x, (const C*)y, gate, shift, scale, eps, (R*)h, (C*)out,
                             (float2*)stats};
    const bool whole = is_whole<R>(D, x, y, gate, shift, scale, h, out);
    const auto kernel = whole ? forward_of<R, C, true>(y, out) : forward_of<R, C, false>(y, out);
    return launch(kernel, blocks(B * p.strips.strips), threads_of(D), p, stream);
  });
}

int gensys_cuda_adaln_backward(int types, const void* dh, const void* dout, const void* h, const void* y,
                               const float* gate, const float* scale, const float* stats, void* dx, void* dy,
                               float* sums, float* partial, int64_t B, int64_t T, int64_t D, void* stream) {
  if (B == 0 || T == 0 || D == 0) return 0;
  const Strips strips = strips_of(T, D);
  float* const by_strip = strips.strips == 1 ? sums : partial;
  const int error = with_types(types, [&](auto residual, auto compute) {
    using R = decltype(residual);
    using C = decltype(compute);
    const Backward<R, C> p = {strips, (const R*)dh, (const C*)dout, (const R*)h, (const C*)y, gate, scale,
                              (const float2*)stats, (R*)dx, (C*)dy, by_strip, B};
    const bool whole = is_whole<R>(D, dh, dout, h, y, gate, scale, dx, dy, by_strip);
    const auto kernel = whole ? backward_of<R, C, true>(y, dout) : backward_of<R, C, false>(y, dout);
    return launch(kernel, blocks(B * strips.strips), threads_of(D), p, stream);
  });
  if (error || strips.strips == 1) return error;
  const int64_t rows = ((y != nullptr) + 2 * (dout != nullptr)) * B;
  const AddStrips p = {sums, partial, strips.strips, D};
  return launch(add_strips, blocks(rows * ceil_div(D, kWarp)), dim3(kWarp, kSlices), p, stream);
}

int64_t gensys_cuda_adaln_strips(int64_t T) { return T == 0 ? 0 : ceil_div(T, rows_of_strip(T)); }
