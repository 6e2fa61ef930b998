// gelu and its derivative, which follow a matrix product (gensys/kernels/linear.py).
#include "operator.h"

namespace gensys {
namespace {

void check_pair(const Tensor& a, const Tensor& b, const char* name) {
  STD_TORCH_CHECK(b.scalar_type() == ScalarType::Float || b.scalar_type() == ScalarType::BFloat16, "'", name,
                  "' must be float32 or bfloat16");
  check(b, b.scalar_type(), name);
  check(a, b.scalar_type(), "out");
  STD_TORCH_CHECK(a.numel() == b.numel(), "'out' must have the shape of '", name, "'");
}

void gelu(const Tensor& out, const Tensor& x) {
  check_pair(out, x, "x");
  prefer_huge_pages(out);
  const auto run = [&]<typename T>(void (*kernel)(T*, const T*, int64_t)) {
    T* const y = static_cast<T*>(out.mutable_data_ptr());
    const T* const in = static_cast<const T*>(x.const_data_ptr());
    torch::stable::parallel_for(0, x.numel(), kGrain,
                                [&](int64_t begin, int64_t end) { kernel(y + begin, in + begin, end - begin); });
  };
  x.scalar_type() == ScalarType::Float ? run(use().gelu) : run(use().gelu_bf16);
}

void gelu_backward(const Tensor& out, const Tensor& dy, const Tensor& x) {
  check_pair(out, x, "x");
  check_pair(out, dy, "dy");
  prefer_huge_pages(out);
  const auto run = [&]<typename T>(void (*kernel)(T*, const T*, const T*, int64_t)) {
    T* const dx = static_cast<T*>(out.mutable_data_ptr());
    const T* const up = static_cast<const T*>(dy.const_data_ptr());
    const T* const in = static_cast<const T*>(x.const_data_ptr());
    torch::stable::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      kernel(dx + begin, up + begin, in + begin, end - begin);
    });
  };
  x.scalar_type() == ScalarType::Float ? run(use().gelu_backward) : run(use().gelu_backward_bf16);
}

}  // namespace
}  // namespace gensys

STABLE_TORCH_LIBRARY_FRAGMENT(gensys, m) {
  m.def("gelu(Tensor(a!) out, Tensor x) -> ()");
  m.def("gelu_backward(Tensor(a!) out, Tensor dy, Tensor x) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gensys, CPU, m) {
  m.impl("gelu", TORCH_BOX(&gensys::gelu));
  m.impl("gelu_backward", TORCH_BOX(&gensys::gelu_backward));
}
