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

FN F min(F a, F b) { return a < b ? a : b; }  // b where one is NaN, as the instruction has it
FN F max(F a, F b) { return a > b ? a : b; }

// The sum of the lanes, always in the same order: halves onto each other.
FN float sum(F x) {
  float lanes[W];
  store(lanes, x);
  for (int n = W / 2; n; n /= 2)
    for (int i = 0; i < n; ++i) lanes[i] += lanes[i + n];
  return lanes[0];
}

FN float largest(F x) {
  float best = x[0];
  for (int i = 1; i < W; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

// e^x to 2 units in the last place: x = n ln 2 + r, e^r = 1 + r + r^2 p(r), |r| <= ln 2 / 2, p of degree 4 by
// interpolation at Chebyshev's nodes (1.1e-8 off). Overflow gives infinity, results below 2^-126 give 0, NaN stays.
FN F exp(F x) {
  const F magic = set(0x1.8p23f);  // adding it rounds to an integer, which is then in the low bits
  const F shifted = fma(x, set(1.44269504088896341f), magic);
  const F n = shifted - magic;
  F r = fma(n, set(-0x1.62e4p-1f), x);  // ln 2 in two parts, the first of few bits: n times it is exact
  r = fma(n, set(-0x1.7f7d1cp-20f), r);
  F p = set(0.0013926184037700295f);
  p = fma(p, r, set(0.008363178931176662f));
  p = fma(p, r, set(0.041666556149721146f));
  p = fma(p, r, set(0.16666576266288757f));
  p = fma(p, r, set(0.5f));
  p = fma(p * r, r, r) + 1.0f;
  const I half = (I(shifted) - I(magic)) >> 1;  // 2^n as a product of two: n may be 128
  const I rest = (I(shifted) - I(magic)) - half;
  F y = p * F((half + 127) << 23) * F((rest + 127) << 23);
  y = x > 88.72283f ? set(std::numeric_limits<float>::infinity()) : y;
  y = x < -87.33654f ? F{} : y;
  return x == x ? y : x;
}

// tanh x to 4e-7 of its value: x P(x^2) / Q(x^2), of degrees 4 and 4, fitted to |x| <= 9, where it is 1 in float32.
FN F tanh(F x) {
  const F y = min(max(x, set(-9.0f)), set(9.0f));
  const F z = y * y;
  F p = set(1.3319081261513526e-08f);
  p = fma(p, z, set(2.0583503477583242e-05f));
  p = fma(p, z, set(0.0034940366174306316f));
  p = fma(p, z, set(0.13379719929801118f));
  p = fma(p, z, set(0.9999999790877123f));
  F q = set(7.762027781809732e-07f);
  q = fma(q, z, set(0.00032830956975508544f));
  q = fma(q, z, set(0.02587108180520783f));
  q = fma(q, z, set(0.4671303518816799f));
  q = fma(q, z, set(1.0f));
  const F t = min(max(y * p / q, set(-1.0f)), set(1.0f));
  return x == x ? t : x;
}
