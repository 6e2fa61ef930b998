// vq_nearest: the nearest code of every row.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "operator.h"

namespace gensys {
namespace {

constexpr int64_t kProducts = 1 << 20;  // multiplications that are worth waking a thread: some ten microseconds

void vq_nearest(const Tensor& x, const Tensor& codebook, const Tensor& index, const std::optional<Tensor>& distance) {
  const bool bf16 = x.scalar_type() == ScalarType::BFloat16;
  check(x, bf16 ? ScalarType::BFloat16 : ScalarType::Float, "x");
  check(codebook, ScalarType::Float, "codebook");
  check(index, ScalarType::Long, "index");
  STD_TORCH_CHECK(x.dim() == 2 && codebook.dim() == 2 && x.size(1) == codebook.size(1),
                  "'x' and 'codebook' must be (N, D) and (K, D)");
  const int64_t n = x.size(0), count = codebook.size(0), dim = x.size(1);
  STD_TORCH_CHECK(count >= 1 && count <= INT32_MAX, "'codebook' must have 1 to 2^31 - 1 codes, got ", count);
  STD_TORCH_CHECK(index.numel() == n, "'index' must have one element for each of the ", n, " rows of 'x'");
  float* distances = nullptr;
  if (distance) {
    check(*distance, ScalarType::Float, "distance");
    STD_TORCH_CHECK(distance->numel() == n, "'distance' must have one element for each of the ", n, " rows of 'x'");
    distances = distance->mutable_data_ptr<float>();
  }
  int64_t* const indices = index.mutable_data_ptr<int64_t>();
  const void* const rows = x.const_data_ptr();
  const float* const codes = codebook.const_data_ptr<float>();
  const Kernels& k = use();

  std::vector<float> offsets(count);
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, kProducts / (dim + 1)), [&](int64_t begin, int64_t end) {
    k.vq_offsets(offsets.data() + begin, codes + begin * dim, end - begin, dim);
  });
  const Codebook book{codes, offsets.data(), count, dim};

  const int64_t blocks = (n + kVqBlock - 1) / kVqBlock;
  const int64_t grain = std::max<int64_t>(1, kProducts / (kVqBlock * count * (dim + 1)));
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    const int64_t size = kVqBlock * (dim + kVqSpare);
    std::vector<float> buffer(size + 16);
    size_t space = buffer.size() * sizeof(float);
    void* aligned = buffer.data();
    float* const scratch = static_cast<float*>(std::align(64, size * sizeof(float), aligned, space));
    const int64_t first = begin * kVqBlock, length = std::min(n, end * kVqBlock) - first;
    float* const d = distances ? distances + first : nullptr;
    if (bf16)
      k.vq_nearest_bf16(indices + first, d, static_cast<const bfloat*>(rows) + first * dim, length, book, scratch);
    else
      k.vq_nearest(indices + first, d, static_cast<const float*>(rows) + first * dim, length, book, scratch);
  });
}

}  // namespace
}  // namespace gensys

STABLE_TORCH_LIBRARY_FRAGMENT(gensys, m) {
  m.def("vq_nearest(Tensor x, Tensor codebook, Tensor(a!) index, Tensor(b!)? distance) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gensys, CPU, m) { m.impl("vq_nearest", TORCH_BOX(&gensys::vq_nearest)); }
