// Counter-based noise: the elements of philox.h, a batch of counters at a time.
//
// The loops over batches are plain, as in combine.h. Only the product of 32-bit words is written by hand: compilers make
// three or four times the instructions of it, and ten rounds of them are half of a normal's cost.

constexpr int kBatch = 256;  // counters; their words and their elements are 8 KB, which stay in the first-level cache

typedef uint32_t U __attribute__((vector_size(GENSYS_BYTES)));
typedef uint64_t L __attribute__((vector_size(GENSYS_BYTES)));

// The two halves of x m. The CPU multiplies every other word, to 64 bits: the even ones, then the odd ones; then the
// high and the low halves of both are put together.
FN void multiply(U x, uint32_t m, U& high, U& low) {
#if GENSYS_BYTES == 64
  const __m512i by = _mm512_set1_epi32(int(m));
  const __m512 even = (__m512)_mm512_mul_epu32((__m512i)x, by);
  const __m512 odd = (__m512)_mm512_mul_epu32((__m512i)(L(x) >> 32), by);
  high = (U)_mm512_mask_movehdup_ps(odd, 0x5555, even);
  low = (U)_mm512_mask_moveldup_ps(even, 0xAAAA, odd);
#elif GENSYS_BYTES == 32
  const __m256i by = _mm256_set1_epi32(int(m));
  const __m256 even = (__m256)_mm256_mul_epu32((__m256i)x, by);
  const __m256 odd = (__m256)_mm256_mul_epu32((__m256i)(L(x) >> 32), by);
  high = (U)_mm256_blend_ps(_mm256_movehdup_ps(even), odd, 0xAA);
  low = (U)_mm256_blend_ps(even, _mm256_moveldup_ps(odd), 0xAA);
#elif defined(__SSE2__)
  const __m128i by = _mm_set1_epi32(int(m));
  const L even = (L)_mm_mul_epu32((__m128i)x, by), odd = (L)_mm_mul_epu32((__m128i)(L(x) >> 32), by);
  high = U(even >> 32 | (odd & 0xFFFFFFFF00000000));
  low = U((even & 0xFFFFFFFF) | odd << 32);
#else
  for (int i = 0; i < W; ++i) {
    const uint64_t product = uint64_t(x[i]) * m;
    high[i] = uint32_t(product >> 32), low[i] = uint32_t(product);
  }
#endif
}

FN U exclusive_or(U x, U y, uint32_t z) {
#if GENSYS_BYTES == 64
  return (U)_mm512_ternarylogic_epi32((__m512i)x, (__m512i)y, _mm512_set1_epi32(int(z)), 0x96);
#else
  return x ^ y ^ z;
#endif
}

// The words of `count` counters from `quad` on: `words` of philox.h. count: a multiple of W.
FN void words(Quad<uint32_t[kBatch]>& out, const Row& row, uint32_t quad, int count) {
  static constexpr uint32_t kRamp[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  U ramp;
  memcpy(&ramp, kRamp, sizeof ramp);
  for (int first = 0; first < count; first += W) {
    U a = ramp + (quad + uint32_t(first)), b = U{} + row.id, c = U{} + row.step, d = U{} + row.tail;
    uint32_t key0 = row.key0, key1 = row.key1;
    for (int round = 0; round < 10; ++round) {
      U high0, low0, high1, low1;
      multiply(a, 0xD2511F53u, high0, low0);
      multiply(c, 0xCD9E8D57u, high1, low1);
      a = exclusive_or(high1, b, key0), b = low1, c = exclusive_or(high0, d, key1), d = low0;
      key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
    }
    memcpy(out.a + first, &a, sizeof a);
    memcpy(out.b + first, &b, sizeof b);
    memcpy(out.c + first, &c, sizeof c);
    memcpy(out.d + first, &d, sizeof d);
  }
}

template <Quad<float> (*elements)(const Quad<uint32_t>&)>
inline void draw(float* out, const Row& row, uint32_t quad, int n) {
  for (; n > 0; n -= 4 * kBatch, out += 4 * kBatch, quad += kBatch) {
    alignas(64) Quad<uint32_t[kBatch]> w;
    alignas(64) float z[4 * kBatch];
    const int count = std::min(kBatch, (n + 4 * W - 1) / (4 * W) * W);  // whole vectors
    float* const to = n >= 4 * count ? out : z;
    words(w, row, quad, count);
    for (int first = 0; first < count; first += W) {
#pragma omp simd
      for (int i = first; i < first + W; ++i) {
        const Quad<float> q = elements({w.a[i], w.b[i], w.c[i], w.d[i]});
        to[4 * i] = q.a;
        to[4 * i + 1] = q.b;
        to[4 * i + 2] = q.c;
        to[4 * i + 3] = q.d;
      }
    }
    if (to == z) memcpy(out, z, sizeof(float) * size_t(n));
  }
}

void uniform(float* out, const Row& row, uint32_t quad, int n) { draw<uniforms_of>(out, row, quad, n); }

void normal(float* out, const Row& row, uint32_t quad, int n) { draw<normals_of>(out, row, quad, n); }
