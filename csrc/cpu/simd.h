// Vectors of floats for the instruction set at hand: the few operations that the kernels are written in. Arithmetic
// (+ - * / comparisons) is the compiler's own on vector types; here is what it has no sign for.

typedef float F __attribute__((vector_size(GENSYS_BYTES)));
typedef int32_t I __attribute__((vector_size(GENSYS_BYTES)));
constexpr int W = GENSYS_BYTES / 4;  // floats in a vector

#define FN inline __attribute__((always_inline))

FN F set(float x) { return x - F{}; }  // a scalar and a vector: the scalar is spread (x - 0 = x, -0 and NaN too)

FN F load(const float* p) {
  F x;
  memcpy(&x, p, sizeof x);
  return x;
}

FN void store(float* p, F x) { memcpy(p, &x, sizeof x); }

// The first n < W elements, the others zero; and the way back, which touches n elements only.
FN F load(const float* p, int n) {
#if GENSYS_BYTES == 64
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#elif GENSYS_BYTES == 32
  return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
#else
  F x = {};
  for (int i = 0; i < n; ++i) x[i] = p[i];
  return x;
#endif
}

FN void store(float* p, F x, int n) {
#if GENSYS_BYTES == 64
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x);
#elif GENSYS_BYTES == 32
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)), x);
#else
  for (int i = 0; i < n; ++i) p[i] = x[i];
#endif
}

// A store past the caches, to an address that is a multiple of GENSYS_BYTES: half the traffic of a large output, as
// its lines are not read first. Call fence() before another thread may look.
FN void stream(float* p, F x) {
#if GENSYS_BYTES == 64
  _mm512_stream_ps(p, x);
#elif GENSYS_BYTES == 32
  _mm256_stream_ps(p, x);
#else
  store(p, x);
#endif
}

FN void fence() {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

typedef uint16_t H __attribute__((vector_size(GENSYS_BYTES / 2)));  // W bfloat16 numbers

FN F widen(H h) {
#if GENSYS_BYTES == 64
  return F(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16));
#elif GENSYS_BYTES == 32
  return F(_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16));
#else
  return F(__builtin_convertvector(h, I) << 16);
#endif
}

// Round to nearest, ties to even; NaN stays NaN. (The AVX512_BF16 instruction takes subnormal numbers for zero.)
FN H narrow(F x) {
#ifdef GENSYS_BF16
  return H(_mm512_cvtneps_pbh(x));
#else
  const I bits = I(x);
  const I rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const I quiet = (bits >> 16) | 0x40;
  return __builtin_convertvector(x == x ? rounded : quiet, H);
#endif
}

FN F load(const bfloat* p) {
  H h;
  memcpy(&h, p, sizeof h);
  return widen(h);
}

FN void store(bfloat* p, F x) {
  const H h = narrow(x);
  memcpy(p, &h, sizeof h);
}

FN F load(const bfloat* p, int n) {
  H h = {};
  memcpy(&h, p, sizeof(bfloat) * n);
  return widen(h);
}

FN void store(bfloat* p, F x, int n) {
  const H h = narrow(x);
  memcpy(p, &h, sizeof(bfloat) * n);
}

FN void stream(bfloat* p, F x) {
  const H h = narrow(x);
#if GENSYS_BYTES == 64
  _mm256_stream_si256((__m256i*)p, (__m256i)h);
#elif GENSYS_BYTES == 32
  _mm_stream_si128((__m128i*)p, (__m128i)h);
#else
  memcpy(p, &h, sizeof h);
#endif
}

// a b + c; rounded once where the CPU has the instruction, twice where not.
FN F fma(F a, F b, F c) {
#if GENSYS_BYTES == 64
  return _mm512_fmadd_ps(a, b, c);
#elif GENSYS_BYTES == 32
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return F(__builtin_convertvector(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)), F));
#else
  return a * b + c;
#endif
}

// b where one of them is NaN. The instruction by its name: from the choice below GCC makes two.
FN F min(F a, F b) {
#if GENSYS_BYTES == 64
  return _mm512_min_ps(a, b);
#elif GENSYS_BYTES == 32
  return _mm256_min_ps(a, b);
#elif defined(__x86_64__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

FN F max(F a, F b) {
#if GENSYS_BYTES == 64
  return _mm512_max_ps(a, b);
#elif GENSYS_BYTES == 32
  return _mm256_max_ps(a, b);
#elif defined(__x86_64__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// The sum of the lanes, always in the same order: halves onto each other.
FN float sum(F x) {
#if GENSYS_BYTES == 64
  x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3);
  const F y = x + __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1);
#elif GENSYS_BYTES == 32
  x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
  const F y = x + __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1);
#else
  const F y = x + __builtin_shufflevector(x, x, 2, 3, 0, 1);
#endif
  return y[0] + y[1];
}

FN float largest(F x) {
  float best = x[0];
  for (int i = 1; i < W; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

// e^x to 0.9 units in the last place (1.2 where fma rounds twice), subnormal results too; from 88.73 on infinity, below
// -103.97 zero, NaN stays. x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 p(r), p minimax to 3e-9 of e^r.
FN F exp(F x) {
#if GENSYS_BYTES != 64
  x = min(set(88.8f), max(set(-104.0f), x));  // n then fits the exponents below
#endif
  const F magic = set(0x1.8p23f + 254);  // adding it rounds to an integer, which is then in the low bits, plus 254
  const F shifted = fma(x, set(0x1.715476p+0f), magic);
  const F n = shifted - magic;
  F r = fma(n, set(-0x1.62e4p-1f), x);  // ln 2 in two parts, the first of few bits: n times it is exact
  r = fma(n, set(-0x1.7f7d1cp-20f), r);
#if GENSYS_BYTES == 64
  // Only |x| > 2^22 gives |r| > 1/2 (or NaN): then n alone decides, if the polynomial stays a positive number.
  r = _mm512_range_ps(r, set(0.5f), 2);  // the smaller magnitude
#endif
  F p = set(0x1.6a524ep-10f);
  p = fma(p, r, set(0x1.12396ep-7f));
  p = fma(p, r, set(0x1.5558aap-5f));
  p = fma(p, r, set(0x1.555492p-3f));
  p = fma(p, r, set(0x1.fffffcp-2f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
#if GENSYS_BYTES == 64
  return _mm512_scalef_ps(p, n);  // p 2^n, rounded once; NaN for n = NaN
#else
  const I k = I(shifted), half = k >> 1;  // 2^n, n = -150..128, as a product of two: 254 is twice an exponent's bias
  return p * F(half << 23) * F((k - half) << 23);
#endif
}

// tanh x to 2.5 units in the last place, odd to the bit, never beyond +-1, NaN stays:
//   tanh |x| = m / (1 - m),   m = (1 - e^(-2 |x|)) / 2 = (1 - 2^n) / 2 + 2^n h,   h = (1 - e^(-2 r)) / 2 = r + r^2 p(r)
// with |x| = r - n ln 2 / 2, |r| <= ln 2 / 4: no cancellation anywhere. p is minimax, h to 1.4e-8 of its value.
FN F tanh(F x) {
  const I sign = I(set(-0.0f));
  const F a = min(set(9.1f), F(I(x) & ~sign));  // from 9.01 on it is 1
  const F magic = set(0x1.8p23f + 127);         // as above, and the bias is that of an exponent
  const F shifted = fma(a, set(-0x1.715476p+1f), magic);
  const F r = fma(shifted - magic, set(0x1.62e43p-2f), a);  // n <= 27: one part of ln 2 / 2 is enough
  F p = set(-0x1.6b97a6p-5f);
  p = fma(p, r, set(0x1.122538p-3f));
  p = fma(p, r, set(-0x1.5556f6p-2f));
  p = fma(p, r, set(0x1.5554b4p-1f));
  p = fma(p, r, set(-0x1.fffffep-1f));
  const F h = fma(r * r, p, r);
  const F power = F(I(shifted) << 23);  // 2^n
  const F m = fma(power, h, fma(power, set(-0.5f), set(0.5f)));
  return F(I(m / (1.0f - m)) | (I(x) & sign));
}
