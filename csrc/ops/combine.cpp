// combine, philox_normal, philox_uniform: the arithmetic of a solver's step and its noise.
#include <optional>
#include <vector>

#include "sums.h"

namespace gensys {
namespace {

Draws draws_of(const Tensor& out, const Tensor& ids, int64_t seed, int64_t stream) {
  check(ids, ScalarType::Long, "ids");
  const int64_t rows = ids.numel(), n = rows ? out.numel() / rows : 0;
  STD_TORCH_CHECK(rows * n == out.numel(), "'out' must have one row for each of the ", rows, " ids");
  STD_TORCH_CHECK(n <= kLongestRow, "a row may have 2^34 elements (the counter of a quad has 32 bits), got ", n);
  return {ids.const_data_ptr<int64_t>(), rows, n, uint64_t(seed), uint32_t(stream)};
}

void combine(const Tensor& out, const std::vector<Tensor>& tensors, const std::vector<double>& coefs, double noise_coef,
             const std::optional<Tensor>& ids, int64_t seed, int64_t step, int64_t stream,
             const std::vector<double>& clip) {
  const int count = int(tensors.size());
  STD_TORCH_CHECK(count <= kMaxTerms && coefs.size() == tensors.size(),
                  "'tensors' and 'coefs' must be of one length, at most ", kMaxTerms);
  STD_TORCH_CHECK(clip.empty() || clip.size() == 2, "'clip' must be empty or [low, high]");
  check(out, ScalarType::Float, "out");
  Sum sum{.out = out.mutable_data_ptr<float>(), .count = count, .noisy = ids.has_value(), .step = uint32_t(step)};
  for (int j = 0; j < count; ++j) {
    check(tensors[j], ScalarType::Float, "tensors");
    STD_TORCH_CHECK(tensors[j].numel() == out.numel(), "'tensors' must have the shape of 'out'");
    sum.terms[j] = tensors[j].const_data_ptr<float>();
    sum.coefs[j] = float(coefs[j]);
  }
  sum.coefs[count] = float(noise_coef);
  if (!clip.empty()) sum.clip = {true, float(clip[0]), float(clip[1])};
  compute(&sum, 1, out.numel(), ids ? draws_of(out, *ids, seed, stream) : Draws{});
}

template <auto draw>
void philox(const Tensor& out, const Tensor& ids, int64_t seed, int64_t step, int64_t stream) {
  check(out, ScalarType::Float, "out");
  float* const y = out.mutable_data_ptr<float>();
  const auto kernel = use().*draw;
  const Draws draws = draws_of(out, ids, seed, stream);
  draws.for_blocks([&](int64_t r, int64_t first, int n) {
    kernel(y + r * draws.n + first, draws.row(r, uint32_t(step)), uint32_t(first / 4), n);
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
