// GELU in its tanh form, x (1 + tanh u) / 2 = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3), element by
// element. The second form has no cancellation where x is far below zero.

constexpr float kTwoU = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

FN F gelu_of(F x) {
  const F u = x * fma(x * x, set(kTwoU * kCubic), set(kTwoU));
  return x / (exp(-u) + 1.0f);
}

// The derivative, s + x s (1 - s) (2u)', with s = 1 / (1 + e^-2u). Beyond +-16 it is 0 or 1 in float32: x is held there,
// so that no infinity meets a zero.
FN F gelu_slope_of(F x) {
  const F y = min(max(x, set(-16.0f)), set(16.0f));
  const F z = y * y;
  const F e = exp(-(y * fma(z, set(kTwoU * kCubic), set(kTwoU))));
  const F s = 1.0f / (e + 1.0f);
  const F rest = s < 1e-30f ? F{} : e * s;  // 1 - s without cancellation; e may be infinite where s is 0
  const F slope = fma(y * s * rest, fma(z, set(3 * kTwoU * kCubic), set(kTwoU)), s);
  return x == x ? slope : x;
}

// out = gelu(x); `out` may be x.
template <typename T>
void gelu(T* out, const T* x, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, gelu_of(load(x + i)));
  if (i < n) store(out + i, gelu_of(load(x + i, int(n - i))), int(n - i));
}

// dx = dy gelu'(x); `dx` may be dy.
template <typename T>
void gelu_backward(T* dx, const T* dy, const T* x, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(dx + i, load(dy + i) * gelu_slope_of(load(x + i)));
  if (i < n) {
    const int rest = int(n - i);
    store(dx + i, load(dy + i, rest) * gelu_slope_of(load(x + i, rest)), rest);
  }
}
