// Sums of tensors and noise over a batch, block by block: what `combine` and the stepper have in common.
#pragma once

#include <algorithm>
#include <cstring>

#include "operator.h"

namespace gensys {

constexpr int64_t kNoiseBlock = 1024;              // elements of noise drawn at a time: 4 KB of the first-level cache
constexpr int64_t kBlock = 4096;                   // elements that stay in a cache from sum to sum
constexpr int64_t kLongestRow = int64_t(1) << 34;  // elements: the counter of a quad has 32 bits

// Every row of a batch and the counter of its noise, less the step.
struct Draws {
  const int64_t* ids;
  int64_t rows, n;  // n: elements of a row
  uint64_t seed;
  uint32_t stream;

  Row row(int64_t r, uint32_t step) const { return row_of(seed, uint64_t(ids[r]), step, stream); }

  // Calls use(row, first, length) for blocks that cover the batch. The split depends on the shape alone and every
  // element on its counter alone, so the number of threads changes nothing.
  template <typename Use>
  void for_blocks(const Use& use) const {
    const int64_t blocks = (n + kNoiseBlock - 1) / kNoiseBlock;
    const int64_t grain = kGrain / std::clamp<int64_t>(n, 1, kNoiseBlock);
    torch::stable::parallel_for(0, rows * blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % blocks * kNoiseBlock;
        use(i / blocks, first, int(std::min(kNoiseBlock, n - first)));
      }
    });
  }
};

// out = clip(sum over j of coefs[j] terms[j] + coefs[count] z), with z = the noise of `step` if noisy.
//
// Where `out` or a term is null it stands for the scratch: memory for one block, which the sums of a block share.
struct Sum {
  float* out;
  float* copy;  // gets the same, if not null
  const float* terms[kMaxTerms];
  float coefs[kMaxTerms + 1];
  int count;  // of terms
  bool noisy;
  uint32_t step;
  Clip clip;

  // For n elements from `at` on; z: their noise.
  void compute(const Kernels& k, int64_t at, int64_t n, float* scratch, const float* z) const {
    const float* x[kMaxTerms + 1];
    for (int j = 0; j < count; ++j) x[j] = terms[j] ? terms[j] + at : scratch;
    if (noisy) x[count] = z;
    float* const y = out ? out + at : scratch;
    k.combine(y, x, coefs, count + noisy, n, clip);
    if (copy) memcpy(copy + at, y, sizeof(float) * size_t(n));
  }
};

// The sums in order, each over all `numel` elements; a later one may read what an earlier one has written. Block by
// block all sums are done, so that what they share is in the caches.
inline void compute(const Sum* sums, int count, int64_t numel, const Draws& draws) {
  const Kernels& k = use();
  if (std::any_of(sums, sums + count, [](const Sum& sum) { return sum.noisy; })) {
    draws.for_blocks([&](int64_t r, int64_t first, int n) {
      alignas(64) float z[kNoiseBlock], scratch[kNoiseBlock];
      for (const Sum* sum = sums; sum != sums + count; ++sum) {
        if (sum->noisy) k.normal(z, draws.row(r, sum->step), uint32_t(first / 4), n);
        sum->compute(k, r * draws.n + first, n, scratch, z);
      }
    });
    return;
  }
  torch::stable::parallel_for(0, numel, kGrain, [&](int64_t begin, int64_t end) {
    alignas(64) float scratch[kBlock];
    for (int64_t at = begin; at < end; at += kBlock)
      for (const Sum* sum = sums; sum != sums + count; ++sum)
        sum->compute(k, at, std::min(kBlock, end - at), scratch, nullptr);
  });
}

}  // namespace gensys
