// The CUDA kernels for Python: addresses and numbers in, an exception for a launch that failed. The tensors, their
// checks and the stream are the Python side's (gensys/kernels/cuda).
#include "bind.h"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda.h"

namespace gensys {
namespace {

using Address = uintptr_t;

template <typename T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void check(int code) {
  if (code) throw std::runtime_error(std::string("CUDA refused a kernel of gensys: ") + gensys_cuda_error(code));
}

void combine(Address out, const std::vector<Address>& terms, const std::vector<float>& coefs, float noise_coef,
             Address ids, int64_t rows, int64_t n, int64_t seed, uint32_t step, uint32_t stream_id,
             const std::optional<std::pair<float, float>>& clip, Address stream) {
  if (terms.size() > kMaxTerms || coefs.size() != terms.size())
    throw std::invalid_argument("'terms' and 'coefs' must be of one length, at most 8");
  const float* pointers[kMaxTerms];
  for (size_t j = 0; j < terms.size(); ++j) pointers[j] = at<float>(terms[j]);
  const Clip bounds = clip ? Clip{true, clip->first, clip->second} : Clip{};
  check(gensys_cuda_combine(at<float>(out), pointers, coefs.data(), int(terms.size()), noise_coef, at<int64_t>(ids),
                            rows, n, uint64_t(seed), step, stream_id, bounds, at(stream)));
}

void draw(Address out, Address ids, int64_t rows, int64_t n, int64_t seed, uint32_t step, uint32_t stream_id,
            bool normal, Address stream) {
  check(gensys_cuda_philox(at<float>(out), at<int64_t>(ids), rows, n, uint64_t(seed), step, stream_id, normal,
                           at(stream)));
}

void adaln_forward(int types, Address x, Address y, Address gate, Address shift, Address scale, float eps, Address h,
                   Address out, Address stats, int64_t B, int64_t T, int64_t D, Address stream) {
  check(gensys_cuda_adaln_forward(types, at(x), at(y), at<float>(gate), at<float>(shift), at<float>(scale), eps, at(h),
                                  at(out), at<float>(stats), B, T, D, at(stream)));
}

void adaln_backward(int types, Address dh, Address dout, Address h, Address y, Address gate, Address scale,
                    Address stats, Address dx, Address dy, Address sums, Address partial, int64_t B, int64_t T,
                    int64_t D, Address stream) {
  check(gensys_cuda_adaln_backward(types, at(dh), at(dout), at(h), at(y), at<float>(gate), at<float>(scale),
                                   at<float>(stats), at(dx), at(dy), at<float>(sums), at<float>(partial), B, T, D,
                                   at(stream)));
}

}  // namespace

void bind_cuda(pybind11::module_ m) {
  m.doc() = "The CUDA kernels, by address (csrc/cuda/cuda.h says what each takes).";
  m.def("why_missing", [] {
    const int code = gensys_cuda_probe();
    return std::string(code ? gensys_cuda_error(code) : "");
  });
  m.def("combine", combine);
  m.def("draw", draw);
  m.def("adaln_forward", adaln_forward);
  m.def("adaln_backward", adaln_backward);
  m.def("adaln_strips", gensys_cuda_adaln_strips);
}

}  // namespace gensys
