// adaln and adaln_backward: LayerNorm, modulation and gated residual. What an op lacks (y and gate, or shift, scale
// and out) is None.
#include <memory>
#include <optional>

#include "operator.h"

namespace gensys {
namespace {

using Maybe = std::optional<Tensor>;

// Tokens whose gradients of shift, scale and gate are summed in one go. The split of a sample depends on its number of
// tokens alone and the parts are added in their order, so neither threads nor the batch change a bit.
constexpr int64_t kPart = 64;

// Results from this size on are written past the caches. They would not stay there anyway: 4 MB are several times the
// second-level cache. Measured with the linear layer that reads the result: 0 to 8% faster from 3 MB on, never slower.
constexpr int64_t kStreamed = int64_t(4) << 20;

int64_t bytes(const Maybe& tensor) { return tensor ? tensor->numel() * int64_t(tensor->element_size()) : 0; }

// What (B, T, D) tensor of the residual and of the compute type the others are compared with.
struct Shape {
  int64_t samples, tokens, width;
  ScalarType residual, compute;

  Shape(const Tensor& r, const Tensor& c) : residual(r.scalar_type()), compute(c.scalar_type()) {
    STD_TORCH_CHECK(r.dim() == 3, "tensors of the residual stream must be (B, T, D)");
    samples = r.size(0), tokens = r.size(1), width = r.size(2);
    types();
  }

  int types() const {  // the index of a kernel
    const auto pair = [&](ScalarType r, ScalarType c) { return residual == r && compute == c; };
    constexpr ScalarType full = ScalarType::Float, half = ScalarType::BFloat16;
    STD_TORCH_CHECK(pair(full, full) || pair(full, half) || pair(half, half),
                    "the types of stream and network must be float32 or bfloat16, the stream's no narrower");
    return (residual == half) + (compute == half);
  }
  void like(const Tensor& tensor, ScalarType dtype, int64_t numel, const char* name) const {
    check(tensor, dtype, name);
    STD_TORCH_CHECK(tensor.numel() == numel, "'", name, "' must have ", numel, " elements, got ", tensor.numel());
  }
  int64_t large() const { return samples * tokens * width; }
  const void* in(const Maybe& x, ScalarType dtype, const char* name) const {
    return x ? (like(*x, dtype, large(), name), x->const_data_ptr()) : nullptr;
  }
  void* out(const Maybe& x, ScalarType dtype, const char* name) const {
    if (!x) return nullptr;
    like(*x, dtype, large(), name);
    prefer_huge_pages(*x);
    return x->mutable_data_ptr();
  }
  const float* in(const Maybe& x, int64_t numel, const char* name) const {
    return x ? (like(*x, ScalarType::Float, numel, name), x->const_data_ptr<float>()) : nullptr;
  }
  float* out(const Maybe& x, int64_t numel, const char* name) const {
    return x ? (like(*x, ScalarType::Float, numel, name), x->mutable_data_ptr<float>()) : nullptr;
  }
};

void adaln(const Tensor& x, const Maybe& y, const Maybe& gate, const Maybe& shift, const Maybe& scale, double eps,
           const Maybe& h, const Maybe& out, const Maybe& stats) {
  STD_TORCH_CHECK(y.has_value() == gate.has_value() && y.has_value() == h.has_value(), "'y' goes with 'gate' and 'h'");
  STD_TORCH_CHECK(out.has_value() == shift.has_value() && out.has_value() == scale.has_value() &&
                      out.has_value() == stats.has_value(),
                  "'out' goes with 'shift', 'scale' and 'stats'");
  STD_TORCH_CHECK(y || out, "'y' or 'out' must be given");
  const Shape s(x, y ? *y : *out);
  const int64_t rows = s.samples * s.tokens, vectors = s.samples * s.width;
  const Adaln a = {.x = s.in(x, s.residual, "x"),
                   .y = s.in(y, s.compute, "y"),
                   .gate = s.in(gate, vectors, "gate"),
                   .shift = s.in(shift, vectors, "shift"),
                   .scale = s.in(scale, vectors, "scale"),
                   .h = s.out(h, s.residual, "h"),
                   .out = s.out(out, s.compute, "out"),
                   .stats = s.out(stats, 2 * rows, "stats"),
                   .tokens = s.tokens,
                   .width = s.width,
                   .eps = float(eps),
                   .stream = bytes(h) + bytes(out) >= kStreamed};
  if (s.large() == 0) return;
  const auto kernel = use().adaln[s.types()];
  torch::stable::parallel_for(0, rows, 1 + kGrain / s.width, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> room(new float[kAdalnRows * (s.width + 16) + 16]);
    kernel(a, begin, end, (float*)((uintptr_t(room.get()) + 63) / 64 * 64));
  });
}

void adaln_backward(const Maybe& dh, const Maybe& dout, const Maybe& h, const Maybe& y, const Maybe& gate,
                    const Maybe& scale, const Maybe& stats, const Maybe& dx, const Maybe& dy, const Maybe& dshift,
                    const Maybe& dscale, const Maybe& dgate) {
  STD_TORCH_CHECK(y.has_value() == gate.has_value() && y.has_value() == dy.has_value() &&
                      y.has_value() == dgate.has_value() && (dh || dout),
                  "'y' goes with 'gate', 'dy' and 'dgate', and with 'dh' or 'dout'");
  for (const Maybe* other : {&h, &scale, &stats, &dx, &dshift, &dscale})
    STD_TORCH_CHECK(dout.has_value() == other->has_value(),
                    "'dout' goes with 'h', 'scale', 'stats', 'dx', 'dshift' and 'dscale'");
  STD_TORCH_CHECK(y || dout, "'y' or 'dout' must be given");
  const Shape s(dout ? *h : *dh, y ? *y : *dout);
  const int64_t vectors = s.samples * s.width;
  const AdalnBackward a = {.dh = s.in(dh, s.residual, "dh"),
                           .dout = s.in(dout, s.compute, "dout"),
                           .h = s.in(h, s.residual, "h"),
                           .y = s.in(y, s.compute, "y"),
                           .gate = s.in(gate, vectors, "gate"),
                           .scale = s.in(scale, vectors, "scale"),
                           .stats = s.in(stats, 2 * s.samples * s.tokens, "stats"),
                           .dx = s.out(dx, s.residual, "dx"),
                           .dy = s.out(dy, s.compute, "dy"),
                           .tokens = s.tokens,
                           .width = s.width,
                           .stream = bytes(dx) + bytes(dy) >= kStreamed};
  float* const results[] = {s.out(dshift, vectors, "dshift"), s.out(dscale, vectors, "dscale"),
                            s.out(dgate, vectors, "dgate")};
  if (vectors == 0) return;
  const auto kernel = use().adaln_backward[s.types()];
  const int64_t parts = std::max<int64_t>(1, (s.tokens + kPart - 1) / kPart);  // without tokens one that writes zeros
  const int64_t n = s.width;
  std::unique_ptr<float[]> sums[3];  // (samples, parts, width); without need where the only part is the result
  float* at[3];
  for (int j = 0; j < 3; ++j) {
    if (results[j] && parts > 1) sums[j].reset(new float[s.samples * parts * n]);
    at[j] = parts > 1 ? sums[j].get() : results[j];
  }
  torch::stable::parallel_for(0, s.samples * parts, 1 + kGrain / (kPart * n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / parts * s.tokens, part = i % parts * kPart;
      const auto place = [&](int j) { return at[j] ? at[j] + i * n : nullptr; };
      kernel(a, first + part, first + std::min(part + kPart, s.tokens), {place(0), place(1), place(2)});
    }
  });
  if (parts == 1) return;
  torch::stable::parallel_for(0, s.samples, 1 + kGrain / (parts * n), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int j = 0; j < 3; ++j)
        if (results[j]) {
          float* const total = results[j] + b * n;
          const float* part = at[j] + b * parts * n;
          std::copy(part, part + n, total);
          for (int64_t p = 1; p < parts; ++p) {
            part += n;
            for (int64_t i = 0; i < n; ++i) total[i] += part[i];
          }
        }
  });
}

}  // namespace
}  // namespace gensys

STABLE_TORCH_LIBRARY_FRAGMENT(gensys, m) {
  m.def(
      "adaln(Tensor x, Tensor? y, Tensor? gate, Tensor? shift, Tensor? scale, float eps, Tensor(a!)? h, "
      "Tensor(b!)? out, Tensor(c!)? stats) -> ()");
  m.def(
      "adaln_backward(Tensor? dh, Tensor? dout, Tensor? h, Tensor? y, Tensor? gate, Tensor? scale, Tensor? stats, "
      "Tensor(a!)? dx, Tensor(b!)? dy, Tensor(c!)? dshift, Tensor(d!)? dscale, Tensor(e!)? dgate) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gensys, CPU, m) {
  m.impl("adaln", TORCH_BOX(&gensys::adaln));
  m.impl("adaln_backward", TORCH_BOX(&gensys::adaln_backward));
}
