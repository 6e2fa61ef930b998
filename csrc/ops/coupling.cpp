// affine_coupling and its gradients (gensys/kernels/affine_coupling.py): the threads share the rows.
#include <optional>
#include <type_traits>

#include "operator.h"

namespace gensys {
namespace {

// From this size on a float32 result is written past the caches, which would not hold it until it is read: a tenth less
// time in the forward pass, a fifth in the backward pass. Below it who reads the result next loses what was won here.
// (bfloat16 is bound by arithmetic: no gain.)
constexpr int64_t kStreamed = 16 << 20;  // bytes

// (B, *S) as B rows of numbers that follow each other; the rows may lie apart, as halves of a larger tensor do.
template <typename T>
Rows<T> rows_of(const Tensor& tensor, const Tensor& s, const char* name) {
  bool right = tensor.is_cpu() && tensor.scalar_type() == s.scalar_type() && tensor.dim() == s.dim();
  right = right && tensor.size(0) == s.size(0);
  int64_t size = 1;
  for (int64_t d = s.dim() - 1; right && d > 0; size *= s.size(d--))
    right = tensor.size(d) == s.size(d) && (tensor.stride(d) == size || tensor.size(d) == 1 || !s.numel());
  STD_TORCH_CHECK(right, "'", name, "' must be a CPU tensor of the shape and dtype of 's', each row contiguous");
  if constexpr (std::is_const_v<T>)
    return {static_cast<T*>(tensor.const_data_ptr()), tensor.stride(0)};
  else
    return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0)};
}

template <typename T>
bool streams(const Rows<T>& rows, const Tensor& s) {
  const bool aligned = (reinterpret_cast<uintptr_t>(rows.data) | uintptr_t(rows.stride * sizeof(T))) % 64 == 0;
  return std::is_same_v<T, float> && aligned && s.numel() * int64_t(sizeof(T)) >= kStreamed;
}

// Calls run(zero) with a zero of the type of s, which it checks together with what belongs to its rows.
template <typename Run>
void by_type(const Tensor& s, const Tensor& logdet, const char* name, const Run& run) {
  const ScalarType type = s.scalar_type();
  STD_TORCH_CHECK(s.dim() > 0 && (type == ScalarType::Float || type == ScalarType::BFloat16),
                  "'s' must have a dimension of rows and be float32 or bfloat16");
  check(logdet, ScalarType::Float, name);
  STD_TORCH_CHECK(logdet.dim() == 1 && logdet.size(0) == s.size(0), "'", name, "' must be a number for each row");
  type == ScalarType::Float ? run(float{}) : run(bfloat{});
}

template <typename Arguments>
void over_rows(void (*kernel)(const Arguments&, int64_t, int64_t), const Arguments& arguments, int64_t rows) {
  torch::stable::parallel_for(0, rows, kGrain / (arguments.n + 1) + 1,
                              [&](int64_t begin, int64_t end) { kernel(arguments, begin, end); });
}

int64_t row_length(const Tensor& s) { return s.size(0) ? s.numel() / s.size(0) : 0; }

void affine_coupling(const Tensor& y, const Tensor& logdet, const Tensor& x, const Tensor& s, const Tensor& t,
                     double bound, bool inverse) {
  by_type(s, logdet, "logdet", [&]<typename T>(T) {
    const Rows<T> image = rows_of<T>(y, s, "y");
    const Coupling<T> c = {.y = image,
                           .logdet = logdet.mutable_data_ptr<float>(),
                           .x = rows_of<const T>(x, s, "x"),
                           .s = rows_of<const T>(s, s, "s"),
                           .t = rows_of<const T>(t, s, "t"),
                           .n = row_length(s),
                           .bound = float(bound),
                           .inverse = inverse,
                           .streamed = streams(image, s)};
    prefer_huge_pages(y);
    if constexpr (std::is_same_v<T, float>)
      over_rows(use().couple, c, s.size(0));
    else
      over_rows(use().couple_bf16, c, s.size(0));
  });
}

void affine_coupling_backward(const Tensor& dx, const Tensor& ds, const std::optional<Tensor>& dt, const Tensor& dy,
                              const Tensor& dlogdet, const Tensor& kept, const Tensor& s, double bound, bool inverse) {
  STD_TORCH_CHECK(dt.has_value() == inverse, "'dt' must be given for the inverse, and for it only");
  by_type(s, dlogdet, "dlogdet", [&]<typename T>(T) {
    const Rows<T> of_x = rows_of<T>(dx, s, "dx"), of_s = rows_of<T>(ds, s, "ds");
    const Rows<T> of_t = inverse ? rows_of<T>(*dt, s, "dt") : Rows<T>{};
    const CouplingBackward<T> c = {.dx = of_x,
                                   .ds = of_s,
                                   .dt = of_t,
                                   .dy = rows_of<const T>(dy, s, "dy"),
                                   .dlogdet = dlogdet.const_data_ptr<float>(),
                                   .kept = rows_of<const T>(kept, s, "kept"),
                                   .s = rows_of<const T>(s, s, "s"),
                                   .n = row_length(s),
                                   .bound = float(bound),
                                   .inverse = inverse,
                                   .streamed = streams(of_x, s) && streams(of_s, s) && streams(of_t, s)};
    prefer_huge_pages(dx);
    prefer_huge_pages(ds);
    if (inverse) prefer_huge_pages(*dt);
    if constexpr (std::is_same_v<T, float>)
      over_rows(use().couple_backward, c, s.size(0));
    else
      over_rows(use().couple_backward_bf16, c, s.size(0));
  });
}

}  // namespace
}  // namespace gensys

STABLE_TORCH_LIBRARY_FRAGMENT(gensys, m) {
  m.def(
      "affine_coupling(Tensor(a!) y, Tensor(b!) logdet, Tensor x, Tensor s, Tensor t, float bound, bool inverse) "
      "-> ()");
  m.def(
      "affine_coupling_backward(Tensor(a!) dx, Tensor(b!) ds, Tensor(c!)? dt, Tensor dy, Tensor dlogdet, Tensor kept, "
      "Tensor s, float bound, bool inverse) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gensys, CPU, m) {
  m.impl("affine_coupling", TORCH_BOX(&gensys::affine_coupling));
  m.impl("affine_coupling_backward", TORCH_BOX(&gensys::affine_coupling_backward));
}
