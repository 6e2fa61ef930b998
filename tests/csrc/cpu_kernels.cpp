// The CPU kernels by themselves, without torch or Python: every instruction set of this machine, lengths around every
// vector, arrays that end where their memory ends. Built with sanitizers (tests/csrc/test_sanitizers.py) it finds accesses
// outside of an array, undefined arithmetic and misaligned vectors; values are compared with plain formulas.
//
// A kernel that is new: a function that calls it, and a line in main.
#include "check.h"

namespace {

using check::Array;
using check::get;
using check::kLengths;
using check::near;
using gensys::bfloat;
using gensys::Kernels;

void combine(const Kernels& k) {
  for (int64_t n : kLengths)
    for (int count = 0; count <= gensys::kMaxTerms + 1; ++count)
      for (bool clipped : {false, true}) {
        const Array<float> x[] = {Array<float>(n, 1), Array<float>(n, 2), Array<float>(n)}, c(count);
        const float* terms[gensys::kMaxTerms + 1];
        for (int j = 0; j < count; ++j) terms[j] = x[j % 3];
        Array<float> out(n, count);
        k.combine(out, terms, c, count, n, {clipped, -3.0f, 5.0f});
        for (int64_t i = 0; i < n; ++i) {
          float sum = count ? c[0] * terms[0][i] : 0.0f;
          for (int j = 1; j < count; ++j) sum = sum + c[j] * terms[j][i];
          if (clipped) sum = sum < -3.0f ? -3.0f : sum > 5.0f ? 5.0f : sum;
          near(out[i], sum, 0, "combine", i);
        }
      }
}

void noise(const Kernels& k) {
  const gensys::Row row = gensys::row_of(0xFEDCBA9876543210u, 0xFFFFFFFFFFFFFFu, 0xFFFFFFFFu, 255);
  const uint32_t quad = 0xFFFFFFF0u;  // the counter of a quad goes round
  for (int64_t n : kLengths)
    for (bool normal : {false, true}) {
      Array<float> out(n, 1);
      (normal ? k.normal : k.uniform)(out, row, quad, int(n));
      for (int64_t i = 0; i < n; ++i) {
        const auto q = (normal ? gensys::normal_quad : gensys::uniform_quad)(row, quad + uint32_t(i / 4));
        const float expected[] = {q.a, q.b, q.c, q.d};
        near(out[i], expected[i % 4], 0, normal ? "normal" : "uniform", i);
      }
    }
}

double gelu_of(double x) { return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double gelu_slope_of(double x) { return (gelu_of(x + 1e-6) - gelu_of(x - 1e-6)) / 2e-6; }

template <typename T>
void gelu_of_type(void (*forward)(T*, const T*, int64_t), void (*backward)(T*, const T*, const T*, int64_t),
                  double relative) {
  for (int64_t n : kLengths) {
    const Array<T> x(n, 1), dy(n, 3);
    Array<T> y(n, 2), dx(n);
    forward(y, x, n);
    backward(dx, dy, x, n);
    for (int64_t i = 0; i < n; ++i) {
      const double slope = gelu_slope_of(get(x[i])) * get(dy[i]);
      near(get(y[i]), gelu_of(get(x[i])), relative * (1e-3 + std::fabs(gelu_of(get(x[i])))), "gelu", i);
      near(get(dx[i]), slope, relative * (1e-3 + std::fabs(slope)) + 1e-6, "gelu_backward", i);
    }
  }
}

void gelu(const Kernels& k) {
  gelu_of_type(k.gelu, k.gelu_backward, 2e-6);
  gelu_of_type(k.gelu_bf16, k.gelu_backward_bf16, 1.0 / 256);
}

template <typename T>
void vq_nearest_of_type(const Kernels& k, void (*nearest)(int64_t*, float*, const T*, int64_t, const gensys::Codebook&,
                                                          float*)) {
  for (int64_t dim : {1, 3, 4, 7, 8, 9, 16, 17, 33})
    for (int64_t count : {1, 2, 3, 4, 5, 11})
      for (int64_t n : kLengths) {
        const Array<T> x(n * dim, 1);
        const Array<float> codes(count * dim, 3);
        Array<float> offsets(count), distance(n), scratch(gensys::kVqBlock * (dim + gensys::kVqSpare));
        Array<int64_t> index(n);
        k.vq_offsets(offsets, codes, count, dim);
        nearest(index, nullptr, x, n, {codes, offsets, count, dim}, scratch);
        nearest(index, distance, x, n, {codes, offsets, count, dim}, scratch);
        for (int64_t i = 0; i < n; ++i) {
          double smallest = INFINITY, found = INFINITY;
          for (int64_t c = 0; c < count; ++c) {
            double sum = 0;
            for (int64_t d = 0; d < dim; ++d) sum += std::pow(get(x[i * dim + d]) - double(codes[c * dim + d]), 2);
            if (sum < smallest) smallest = sum;
            if (c == index[i]) found = sum;
          }
          near(float(found), smallest, 1e-5 * (100 + smallest), "vq_nearest, index", i);
          near(distance[i], found, 1e-6 * found, "vq_nearest, distance", i);
        }
      }
}

void vq_nearest(const Kernels& k) {
  vq_nearest_of_type(k, k.vq_nearest);
  vq_nearest_of_type(k, k.vq_nearest_bf16);
}

// Three rows with a gap between them, in both directions.
template <typename T>
void coupling_of_type(void (*forward)(const gensys::Coupling<T>&, int64_t, int64_t),
                      void (*backward)(const gensys::CouplingBackward<T>&, int64_t, int64_t), double relative) {
  constexpr int64_t kRows = 3;
  const float bound = 1.5f;
  for (int64_t n : kLengths)
    for (int64_t gap : {0, 5})
      for (bool inverse : {false, true})
        for (bool streamed : {false, true}) {
          if (streamed && (n + gap) % 16) continue;
          const int64_t size = kRows * (n + gap) - gap, stride = n + gap, shift = streamed ? 0 : 1;
          const Array<T> x(size, 1), s(size, 2), t(size, 3), dy(size);
          Array<T> y(size, shift), dx(size, shift), ds(size, shift), dt(size, shift);
          Array<float> logdet(kRows);
          const Array<float> dlogdet(kRows);
          const gensys::Rows<const T> rows_of_x{x, stride}, rows_of_s{s, stride};
          forward({{y, stride}, logdet, rows_of_x, rows_of_s, {t, stride}, n, bound, inverse, streamed}, 0, kRows);
          const gensys::Rows<const T> kept = inverse ? gensys::Rows<const T>{y, stride} : rows_of_x;
          backward({{dx, stride}, {ds, stride}, {dt, stride}, {dy, stride}, dlogdet, kept, rows_of_s, n, bound, inverse,
                    streamed}, 0, kRows);
          for (int64_t r = 0; r < kRows; ++r) {
            double sum = 0;
            for (int64_t i = r * stride; i < r * stride + n; ++i) {
              const double tanh = std::tanh(get(s[i]) / bound), l = (inverse ? -1 : 1) * bound * tanh, e = std::exp(l);
              const double in = get(x[i]), shifted = get(t[i]), up = get(dy[i]), out = get(y[i]);
              const double image = inverse ? (in - shifted) * e : in * e + shifted;
              const double of_l = inverse ? -(up * out + dlogdet[r]) : up * in * e + dlogdet[r];
              near(get(y[i]), image, relative * 8 * (1 + e), "couple", i);  // |x| + |t| <= 8
              near(get(dx[i]), up * e, relative * 4 * e, "couple_backward, dx", i);
              near(get(ds[i]), of_l * (1 - tanh * tanh), relative * (4 + 32 * e), "couple_backward, ds", i);
              if (inverse) near(get(dt[i]), -get(dx[i]), 0, "couple_backward, dt", i);
              sum += l;
            }
            near(logdet[r], sum, 1e-6 * double(1 + n), "couple, logdet", r);
          }
        }
}

void coupling(const Kernels& k) {
  coupling_of_type(k.couple, k.couple_backward, 4e-7);
  coupling_of_type(k.couple_bf16, k.couple_backward_bf16, 1.0 / 256);
}

}  // namespace

int main() {
  for (const Kernels* k : gensys::kernels()) {
    combine(*k);
    noise(*k);
    gelu(*k);
    vq_nearest(*k);
    coupling(*k);
    std::printf("%s\n", k->isa);
  }
}
