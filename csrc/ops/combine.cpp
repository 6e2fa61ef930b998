// combine, philox_normal, philox_uniform: the arithmetic of a solver's step and its noise.
#include <algorithm>
#include <optional>
#include <vector>

#include "operator.h"

namespace gensys {
namespace {

constexpr int64_t kBlock = 1024;  // elements of noise drawn at a time: 4 KB, which stay in the first-level cache

// A batch of rows and the counters of their noise.
struct Draws {
  const int64_t* ids;
  int64_t rows, n;  // n: elements of a row
  uint64_t seed;
  uint32_t step, stream;

  Draws(const Tensor& out, const Tensor& ids_, int64_t seed_, int64_t step_, int64_t stream_)
      : rows(ids_.numel()), seed(uint64_t(seed_)), step(uint32_t(step_)), stream(uint32_t(stream_)) {
    check(ids_, ScalarType::Long, "ids");
    n = rows ? out.numel() / rows : 0;
    STD_TORCH_CHECK(rows * n == out.numel(), "'out' must have one row for each of the ", rows, " ids");
    STD_TORCH_CHECK(n <= int64_t(1) << 34, "a row may have 2^34 elements (the counter of a quad has 32 bits), got ", n);
    ids = ids_.const_data_ptr<int64_t>();
  }

  // Calls use(row, quad, offset in the batch, length) for blocks that cover the batch. The split depends on the shape
  // alone and every element on its counter alone, so the number of threads changes nothing.
  template <typename Use>
  void for_blocks(const Use& use) const {
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    const int64_t grain = kGrain / std::clamp<int64_t>(n, 1, kBlock);
    torch::stable::parallel_for(0, rows * blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = i / blocks, first = i % blocks * kBlock;
        const Row row = row_of(seed, uint64_t(ids[r]), step, stream);
        use(row, uint32_t(first / 4), r * n + first, int(std::min(kBlock, n - first)));
      }
    });
  }
};

void combine(const Tensor& out, const std::vector<Tensor>& tensors, const std::vector<double>& coefs, double noise_coef,
             const std::optional<Tensor>& ids, int64_t seed, int64_t step, int64_t stream,
             const std::vector<double>& clip) {
  const int count = int(tensors.size());
  STD_TORCH_CHECK(count <= kMaxTerms && coefs.size() == tensors.size(),
                  "'tensors' and 'coefs' must be of one length, at most ", kMaxTerms);
  STD_TORCH_CHECK(clip.empty() || clip.size() == 2, "'clip' must be empty or [low, high]");
  check(out, ScalarType::Float, "out");
  const float* terms[kMaxTerms];
  float c[kMaxTerms + 1];
  for (int j = 0; j < count; ++j) {
    check(tensors[j], ScalarType::Float, "tensors");
    STD_TORCH_CHECK(tensors[j].numel() == out.numel(), "'tensors' must have the shape of 'out'");
    terms[j] = tensors[j].const_data_ptr<float>();
    c[j] = float(coefs[j]);
  }
  c[count] = float(noise_coef);
  const Clip bounds = clip.empty() ? Clip{} : Clip{true, float(clip[0]), float(clip[1])};
  float* const y = out.mutable_data_ptr<float>();
  const Kernels& k = use();

  if (!ids) {
    torch::stable::parallel_for(0, out.numel(), kGrain, [&](int64_t begin, int64_t end) {
      const float* x[kMaxTerms];
      for (int j = 0; j < count; ++j) x[j] = terms[j] + begin;
      k.combine(y + begin, x, c, count, end - begin, bounds);
    });
    return;
  }
  Draws(out, *ids, seed, step, stream).for_blocks([&](const Row& row, uint32_t quad, int64_t at, int n) {
    alignas(64) float z[kBlock];
    k.normal(z, row, quad, n);
    const float* x[kMaxTerms + 1];
    for (int j = 0; j < count; ++j) x[j] = terms[j] + at;
    x[count] = z;
    k.combine(y + at, x, c, count + 1, n, bounds);
  });
}

template <auto draw>
void philox(const Tensor& out, const Tensor& ids, int64_t seed, int64_t step, int64_t stream) {
  check(out, ScalarType::Float, "out");
  float* const y = out.mutable_data_ptr<float>();
  const auto kernel = use().*draw;
  Draws(out, ids, seed, step, stream).for_blocks([&](const Row& row, uint32_t quad, int64_t at, int n) {
    kernel(y + at, row, quad, n);
  });
}

constexpr auto philox_uniform = philox<&Kernels::uniform>;
constexpr auto philox_normal = philox<&Kernels::normal>;

}  // namespace
}  // namespace gensys

STABLE_TORCH_LIBRARY_FRAGMENT(gensys, m) {
  m.def(
      "combine(Tensor(a!) out, Tensor[] tensors, float[] coefs, float noise_coef, Tensor? ids, int seed, int step, "
      "int stream, float[] clip) -> ()");
  m.def("philox_uniform(Tensor(a!) out, Tensor ids, int seed, int step, int stream) -> ()");
  m.def("philox_normal(Tensor(a!) out, Tensor ids, int seed, int step, int stream) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gensys, CPU, m) {
  m.impl("combine", TORCH_BOX(&gensys::combine));
  m.impl("philox_uniform", TORCH_BOX(gensys::philox_uniform));
  m.impl("philox_normal", TORCH_BOX(gensys::philox_normal));
}
