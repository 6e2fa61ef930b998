// attention and its gradient, one head after another (gensys/kernels/attention.py).
#include <array>
#include <memory>
#include <new>
#include <optional>

#include "operator.h"

namespace gensys {
namespace {

bool is_bfloat(const Tensor& x) { return x.scalar_type() == ScalarType::BFloat16; }

// (batch, heads, tokens, depth) on the CPU, of the given type and sizes, without gaps in the last dimension.
void check_heads(const Tensor& x, const char* name, ScalarType dtype, const std::array<int64_t, 4>& sizes) {
  STD_TORCH_CHECK(x.is_cpu() && x.scalar_type() == dtype && x.dim() == 4, "'", name, "' must be a CPU tensor of ",
                  text(dtype), " with four dimensions");
  for (int i = 0; i < 4; ++i)
    STD_TORCH_CHECK(x.size(i) == sizes[i], "'", name, "' must have ", sizes[i], " in dimension ", i, ", got ",
                    x.size(i));
  STD_TORCH_CHECK(x.stride(3) == 1 || sizes[3] == 1, "'", name, "' must not have gaps in its last dimension");
}

// The tensors of all heads, checked; `of` gives one head.
struct Heads {
  const Tensor &q, &k, &v, &out;
  float* stats;
  int64_t heads, count, queries, keys, depth;

  Heads(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& out_, const std::optional<Tensor>& stats_)
      : q(q_), k(k_), v(v_), out(out_), stats(nullptr) {
    const ScalarType dtype = q.scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, "'q' must be float32 or bfloat16");
    STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4, "'q' and 'k' must have four dimensions");
    heads = q.size(1), count = q.size(0) * heads, queries = q.size(2), keys = k.size(2), depth = q.size(3);
    STD_TORCH_CHECK(keys > 0 && depth > 0, "'k' must have at least one token and one column");
    check_heads(q, "q", dtype, like(queries));
    check_heads(k, "k", dtype, like(keys));
    check_heads(v, "v", dtype, like(keys));
    check_heads(out, "out", dtype, like(queries));
    if (!stats_) return;
    check(*stats_, ScalarType::Float, "stats");
    STD_TORCH_CHECK(stats_->numel() == count * 2 * queries, "'stats' must be (batch, heads, 2, queries)");
    stats = stats_->mutable_data_ptr<float>();
  }

  std::array<int64_t, 4> like(int64_t tokens) const { return {q.size(0), heads, tokens, depth}; }

  Matrix rows(const Tensor& x, int64_t head) const {
    const int64_t at = head / heads * x.stride(0) + head % heads * x.stride(1);
    char* const data = static_cast<char*>(x.data_ptr());
    return {data + at * (is_bfloat(x) ? sizeof(bfloat) : sizeof(float)), x.stride(2)};
  }

  Attention of(int64_t head) const {
    float* const s = stats ? stats + head * 2 * queries : nullptr;
    const float scale = float(1 / std::sqrt(double(depth)));
    return {rows(q, head), rows(k, head), rows(v, head), rows(out, head), s, queries, keys, depth, scale};
  }

  // Runs `kernel` on every head. A head is the work of one thread, so the number of threads changes no result.
  template <typename Head, typename At>
  void run(int64_t (*kernel)(const Head&, float*), const At& at) const {
    if (count * queries == 0) return;
    constexpr int64_t kWorth = 16;  // products of a score that take as long as one element of a simple operator
    const int64_t grain = std::max<int64_t>(1, kGrain * kWorth / std::max<int64_t>(1, queries * keys * depth));
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      constexpr std::align_val_t line{64};
      const auto release = [](float* p) { ::operator delete[](p, line); };
      const size_t size = size_t(kernel(at(begin), nullptr));
      const std::unique_ptr<float[], decltype(release)> work(
          static_cast<float*>(::operator new[](size * sizeof(float), line)), release);
      for (int64_t head = begin; head < end; ++head) kernel(at(head), work.get());
    });
  }
};

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const std::optional<Tensor>& stats) {
  const Heads all(q, k, v, out, stats);
  all.run(use().attention[is_bfloat(q)], [&](int64_t head) { return all.of(head); });
}

void attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& stats, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Heads all(q, k, v, out, stats);
  const ScalarType dtype = q.scalar_type();
  check_heads(dout, "dout", dtype, all.like(all.queries));
  check_heads(dq, "dq", dtype, all.like(all.queries));
  check_heads(dk, "dk", dtype, all.like(all.keys));
  check_heads(dv, "dv", dtype, all.like(all.keys));
  all.run(use().attention_backward[is_bfloat(q)], [&](int64_t head) {
    return AttentionBackward{
        all.of(head), all.rows(dout, head), all.rows(dq, head), all.rows(dk, head), all.rows(dv, head)};
  });
}

}  // namespace
}  // namespace gensys

STABLE_TORCH_LIBRARY_FRAGMENT(gensys, m) {
  m.def("attention(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!)? stats) -> ()");
  m.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor stats, Tensor(a!) dq, "
      "Tensor(b!) dk, Tensor(c!) dv) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gensys, CPU, m) {
  m.impl("attention", TORCH_BOX(&gensys::attention));
  m.impl("attention_backward", TORCH_BOX(&gensys::attention_backward));
}
