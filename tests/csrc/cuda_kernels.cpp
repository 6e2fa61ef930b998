// The CUDA kernels and their launches by themselves, under the emulation: arrays that end where their memory ends, shapes
// around every vector, tile and strip. Built with sanitizers (tests/csrc/test_sanitizers.py) it finds accesses outside of an
// array and misaligned vectors; that the values are right is the business of tests/kernels/test_cuda.py, here they are
// compared between the ways of getting them.
#include "../../csrc/cuda/combine.cuh"

#include "../../csrc/cuda/cuda.h"
#include "check.h"

namespace {

using check::Array;
using check::near;
using gensys::bfloat;

void succeeded(int code) {
  if (code == 0) return;
  std::fprintf(stderr, "launch: %s\n", gensys_cuda_error(code));
  std::exit(1);
}

template <typename T>
void same(const Array<T>& a, const Array<T>& b, const char* what) {
  for (int64_t i = 0; i < a.size(); ++i) near(check::get(a[i]), check::get(b[i]), 0, what, i);
}

void combine() {
  const int64_t shapes[][2] = {{1, 1}, {3, 5}, {2, 8}, {1, 1023}, {2, 1028}, {300, 1}, {5, 130}};
  for (auto [rows, n] : shapes) {
    Array<int64_t> ids(rows);
    for (int64_t r = 0; r < rows; ++r) ids[r] = (int64_t(1) << 40) * r + r;
    for (int count = 0; count <= gensys::kMaxTerms; ++count)
      for (bool noisy : {false, true}) {
        const Array<float> x(rows * n), y(rows * n, 4), apart(rows * n, 1), c(count);
        for (const Array<float>* last : {&y, &apart}) {  // with and without 128-bit accesses
          const float* terms[gensys::kMaxTerms];
          for (int j = 0; j < count; ++j) terms[j] = j + 1 < count ? x : *last;
          Array<float> out(rows * n);
          succeeded(gensys_cuda_combine(out, terms, c, count, 0.5f, noisy ? ids.data() : nullptr, rows, n, 7, 8, 9,
                                        {true, -6.0f, 6.0f}, nullptr));
          for (int64_t i = 0; i < rows * n; ++i) {
            float sum = count ? c[0] * terms[0][i] : 0.0f;
            for (int j = 1; j < count; ++j) sum = sum + c[j] * terms[j][i];
            if (noisy) {
              const auto q = gensys::normal_quad(gensys::row_of(7, uint64_t(ids[i / n]), 8, 9), uint32_t(i % n / 4));
              const float z[] = {q.a, q.b, q.c, q.d};
              sum = count ? sum + 0.5f * z[i % n % 4] : 0.5f * z[i % n % 4];
            }
            near(out[i], sum < -6.0f ? -6.0f : sum > 6.0f ? 6.0f : sum, 0, "combine", i);
          }
        }
      }
  }
}

// A grid too small for its pass goes round until it has covered it.
void small_grid() {
  const int64_t rows = 7, n = 37;
  Array<int64_t> ids(rows);
  Array<float> all(rows * n), round(rows * n);
  for (bool normal : {false, true}) {
    succeeded(gensys_cuda_philox(all, ids, rows, n, 1, 2, 3, normal, nullptr));
    gensys::cuda::Philox p = {{round, ids, rows, n, gensys::row_of(1, 0, 2, 3)}};
    void* arguments[] = {&p};
    const auto kernel = normal ? gensys::cuda::philox_fill<true, false> : gensys::cuda::philox_fill<false, false>;
    succeeded(cudaLaunchKernel(kernel, dim3(2, 2), dim3(3, 2), arguments, 0, nullptr));
    same(round, all, "small_grid");
  }
}

// The three ops forward and backward; `shift` elements after a multiple of 64 bytes.
template <typename R, typename C>
void adaln(int types, int64_t B, int64_t T, int64_t D, int64_t shift) {
  const int64_t n = B * T * D, strips = gensys_cuda_adaln_strips(T);
  const Array<R> x(n, shift), dh(n, shift);
  const Array<C> y(n, shift), dout(n, shift);
  const Array<float> gate(B * D, shift), bias(B * D, shift), scale(B * D, shift);
  Array<R> h(n, shift), again(n, shift), dx(n, shift), dx_again(n, shift);
  Array<C> out(n, shift), from_h(n, shift), dy(n, shift), dy_again(n, shift);
  Array<float> stats(2 * B * T), sums(3 * B * D), fewer(2 * B * D), one(B * D), partial(3 * B * strips * D);

  succeeded(gensys_cuda_adaln_forward(types, x, y, gate, bias, scale, 1e-6f, h, out, stats, B, T, D, nullptr));
  succeeded(gensys_cuda_adaln_forward(types, x, y, gate, nullptr, nullptr, 0, again, nullptr, nullptr, B, T, D, nullptr));
  same(again, h, "gate");
  succeeded(gensys_cuda_adaln_forward(types, h, nullptr, nullptr, bias, scale, 1e-6f, nullptr, from_h, stats, B, T, D,
                                      nullptr));
  same(from_h, out, "modulate");

  for (const R* extra : {static_cast<const R*>(dh), static_cast<const R*>(nullptr)}) {
    succeeded(gensys_cuda_adaln_backward(types, extra, dout, h, y, gate, scale, stats, dx, dy, sums, partial, B, T, D,
                                         nullptr));
    succeeded(gensys_cuda_adaln_backward(types, extra, dout, h, nullptr, nullptr, scale, stats, dx_again, nullptr, fewer,
                                         partial, B, T, D, nullptr));
    same(dx_again, dx, "modulate_backward");
    for (int64_t i = 0; i < fewer.size(); ++i) near(fewer[i], sums[B * D + i], 0, "dshift, dscale", i);
  }
  succeeded(gensys_cuda_adaln_backward(types, dh, nullptr, nullptr, y, gate, nullptr, nullptr, nullptr, dy_again, one,
                                       partial, B, T, D, nullptr));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t d = i / (T * D) * D + i % D;
    const float expected = check::get(dh[i]) * gate[d];
    near(check::get(dy_again[i]), expected, std::fabs(expected) / 256, "gate_backward", i);
  }
}

}  // namespace

int main() {
  for (unsigned order : {0, 1}) {
    emulation::state().order = order;
    combine();
    small_grid();
    const int64_t shapes[][3] = {{1, 1, 1}, {2, 3, 8}, {1, 9, 33}, {2, 5, 40}, {1, 66, 12}, {1, 2, 4100}};
    for (auto [B, T, D] : shapes)
      for (int64_t shift : {0, 1}) {
        adaln<float, float>(gensys_cuda_f32_f32, B, T, D, shift);
        adaln<float, bfloat>(gensys_cuda_f32_bf16, B, T, D, shift);
        adaln<bfloat, bfloat>(gensys_cuda_bf16_bf16, B, T, D, shift);
      }
    std::printf("order %u\n", order);
  }
}
