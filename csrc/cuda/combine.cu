// Launches of combine and philox.
#include "combine.cuh"

#include <limits>

#include "cuda.h"
#include "launch.h"

namespace gensys::cuda {
namespace {

constexpr int kBlock = 256;

// Threads side by side along a row where it is long, along the rows where they are short.
template <typename P>
int over_quads(void (*kernel)(P), const P& p, void* stream) {
  const int64_t quads = ceil_div(p.pass.n, 4);
  int wide = 1;
  while (wide < kBlock && wide < quads) wide *= 2;
  const dim3 block(wide, kBlock / wide);
  const dim3 grid(unsigned(std::min<int64_t>(ceil_div(quads, block.x), 0x7FFFFFFF)),
                  unsigned(std::min<int64_t>(ceil_div(p.pass.rows, block.y), 65535)));  // the largest grids there are
  return launch(kernel, grid, block, p, stream);
}

template <bool noise, bool vector>
int combine_count(const Combine& p, int count, void* stream) {
  static constexpr void (*by_count[])(Combine) = {
      combine<0, noise, vector>, combine<1, noise, vector>, combine<2, noise, vector>,
      combine<3, noise, vector>, combine<4, noise, vector>, combine<5, noise, vector>,
      combine<6, noise, vector>, combine<7, noise, vector>, combine<8, noise, vector>};
  static_assert(sizeof by_count / sizeof by_count[0] == kMaxTerms + 1);
  return over_quads(by_count[count], p, stream);
}

}  // namespace
}  // namespace gensys::cuda

using namespace gensys;
using namespace gensys::cuda;

int gensys_cuda_combine(float* out, const float* const* terms, const float* coefs, int count, float noise_coef,
                        const int64_t* ids, int64_t rows, int64_t n, uint64_t seed, uint32_t step, uint32_t stream_id,
                        Clip clip, void* stream) {
  if (rows == 0 || n == 0) return 0;
  if (count < 0 || count > kMaxTerms) return int(cudaErrorInvalidValue);
  if (!ids) n *= rows, rows = 1;  // without noise the rows are one
  constexpr float infinity = std::numeric_limits<float>::infinity();
  Combine p = {{out, ids, rows, n, row_of(seed, 0, step, stream_id)}, {}, {}, noise_coef, -infinity, infinity};
  if (clip.on) p.low = clip.low, p.high = clip.high;
  bool vector = aligned(out) && (n % 4 == 0 || rows == 1);
  for (int j = 0; j < count; ++j) {
    p.terms[j] = terms[j];
    p.coefs[j] = coefs[j];
    vector = vector && aligned(terms[j]);
  }
  if (ids) return vector ? combine_count<true, true>(p, count, stream) : combine_count<true, false>(p, count, stream);
  return vector ? combine_count<false, true>(p, count, stream) : combine_count<false, false>(p, count, stream);
}

int gensys_cuda_philox(float* out, const int64_t* ids, int64_t rows, int64_t n, uint64_t seed, uint32_t step,
                       uint32_t stream_id, bool normal, void* stream) {
  if (rows == 0 || n == 0) return 0;
  const Philox p = {{out, ids, rows, n, row_of(seed, 0, step, stream_id)}};
  const bool vector = aligned(out) && (n % 4 == 0 || rows == 1);
  if (normal) return over_quads(vector ? philox_fill<true, true> : philox_fill<true, false>, p, stream);
  return over_quads(vector ? philox_fill<false, true> : philox_fill<false, false>, p, stream);
}

int gensys_cuda_probe() {
  cudaFuncAttributes attributes;  // asking for them loads the code
  const cudaError_t error = cudaFuncGetAttributes(&attributes, philox_fill<true, true>);
  cudaGetLastError();
  return int(error);
}

const char* gensys_cuda_error(int code) { return cudaGetErrorString(cudaError_t(code)); }
