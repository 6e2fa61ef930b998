// The element mathematics of gensys/noise.py: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) and the normals of
// Box and Muller (1958), one counter at a time. GENSYS_FN makes the same lines device code under nvcc.
//
// The promise is bits, not accuracy alone: every operation below is correctly rounded by IEEE 754 (+, -, *, /, sqrt and
// exact conversions), so SSE2, AVX2, AVX-512, NEON and plain torch agree to the last bit, provided that nobody fuses a
// multiply with an add: compile with -ffp-contract=off (nvcc: -fmad=false).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __FAST_MATH__
#error "gensys kernels promise exact bits: compile without -ffast-math"
#endif

#ifdef __CUDACC__
#define GENSYS_FN __host__ __device__ __forceinline__
#else
#define GENSYS_FN inline __attribute__((always_inline))
#endif

namespace gensys {

// Everything of a counter that is the same for all elements of one sample.
struct Row {
  uint32_t key0, key1;  // the seed, low and high
  uint32_t id;          // the sample id's low half
  uint32_t step;
  uint32_t tail;  // stream | id's high half << 8
};

// The four elements that one counter gives: words, uniforms or normals.
template <typename T>
struct Quad {
  T a, b, c, d;
};

GENSYS_FN Row row_of(uint64_t seed, uint64_t id, uint32_t step, uint32_t stream) {
  return {uint32_t(seed), uint32_t(seed >> 32), uint32_t(id), step, stream | uint32_t(id >> 32) << 8};
}

GENSYS_FN Quad<uint32_t> philox(Quad<uint32_t> c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t x = uint64_t(c.a) * 0xD2511F53u;
    const uint64_t y = uint64_t(c.c) * 0xCD9E8D57u;
    c = {uint32_t(y >> 32) ^ c.b ^ key0, uint32_t(y), uint32_t(x >> 32) ^ c.d ^ key1, uint32_t(x)};
    key0 += 0x9E3779B9u;  // golden ratio
    key1 += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return c;
}

GENSYS_FN Quad<uint32_t> words(const Row& row, uint32_t quad) {
  return philox({quad, row.id, row.step, row.tail}, row.key0, row.key1);
}

GENSYS_FN int32_t bits_of(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

GENSYS_FN float float_of(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The word's upper 23 bits as the centre of one of 2^23 cells of (0, 1). (Signed, as AVX2 converts no other.)
GENSYS_FN float unit(uint32_t word) { return (float(int32_t(word >> 9)) + 0.5f) * 0x1p-23f; }

// ln u, 0 < u < 1: u = m 2^e, m in [1/sqrt 2, sqrt 2), ln m = 2 artanh((m - 1) / (m + 1)).
GENSYS_FN float log_unit(float u) {
  const int32_t bits = bits_of(u);
  const int32_t e = (bits - 0x3F3504F3) >> 23;
  const float m = float_of(bits - e * (1 << 23));
  const float s = (m - 1.0f) / (m + 1.0f);
  const float z = s * s;
  const float series = (((z * float(1.0 / 9) + float(1.0 / 7)) * z + float(1.0 / 5)) * z + float(1.0 / 3)) * z * s + s;
  return float(e) * float(0.69314718055994530942) + (series + series);
}

// A point of the circle of this radius: two bits of the word choose the quadrant, 21 the angle within it.
GENSYS_FN void polar(float radius, uint32_t word, float& x, float& y) {
  float t = (float(int32_t((word >> 9) & 0x1FFFFF)) + 0.5f) * 0x1p-21f - 0.5f;
  t = t * float(1.57079632679489661923);
  const float z = t * t;
  const float sin3 = ((z * float(1.0 / 362880) - float(1.0 / 5040)) * z + float(1.0 / 120)) * z - float(1.0 / 6);
  const float cos4 = ((z * float(-1.0 / 3628800) + float(1.0 / 40320)) * z - float(1.0 / 720)) * z + float(1.0 / 24);
  const float sin = sin3 * z * t + t;
  const float cos = (cos4 * z - 0.5f) * z + 1.0f;
  const bool odd = word & (1u << 30);
  const float u = odd ? -sin : cos;
  const float v = odd ? cos : sin;
  const int32_t flip = int32_t(word & (1u << 31));  // half a turn: both signs, as bits
  x = radius * float_of(bits_of(u) ^ flip);
  y = radius * float_of(bits_of(v) ^ flip);
}

GENSYS_FN Quad<float> uniforms_of(const Quad<uint32_t>& w) { return {unit(w.a), unit(w.b), unit(w.c), unit(w.d)}; }

GENSYS_FN Quad<float> normals_of(const Quad<uint32_t>& w) {
  Quad<float> z;
  polar(std::sqrt(log_unit(unit(w.a)) * -2.0f), w.b, z.a, z.b);
  polar(std::sqrt(log_unit(unit(w.c)) * -2.0f), w.d, z.c, z.d);
  return z;
}

GENSYS_FN Quad<float> uniform_quad(const Row& row, uint32_t quad) { return uniforms_of(words(row, quad)); }

GENSYS_FN Quad<float> normal_quad(const Row& row, uint32_t quad) { return normals_of(words(row, quad)); }

}  // namespace gensys
