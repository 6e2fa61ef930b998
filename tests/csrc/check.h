// What the C++ tests share: arrays that end where their memory ends, and a comparison that says what differs.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <new>

#include "../../csrc/kernels.h"

namespace check {

// Lengths around the multiples of every vector that there is.
constexpr int64_t kLengths[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 259};

// Nothing is negligible: the next number of a sequence that looks random, in [-4, 4).
inline float next_number() {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return float(int32_t(state >> 8)) * 0x1p-21f - 4.0f;
}

inline float widen(gensys::bfloat x) { return gensys::float_of(int32_t(uint32_t(x.bits) << 16)); }
inline void set(float& x, float value) { x = value; }
inline void set(gensys::bfloat& x, float value) { x.bits = uint16_t(uint32_t(gensys::bits_of(value)) >> 16); }
inline float get(float x) { return x; }
inline float get(gensys::bfloat x) { return widen(x); }
template <typename T>
void set(T& x, float value) {
  x = T(value * 64);
}

// n numbers on the heap, the first of them `shift` elements behind a multiple of 64 bytes, the last one at the very end:
// under AddressSanitizer nobody reads or writes beyond it unnoticed.
template <typename T>
class Array {
 public:
  explicit Array(int64_t n, int64_t shift = 0) : n_(n), shift_(shift) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, size_t(n + shift) * sizeof(T))) std::abort();
    memory_ = static_cast<T*>(memory);
    for (int64_t i = 0; i < n + shift; ++i) set(memory_[i], next_number());
  }
  Array(const Array& other) : Array(other.n_, other.shift_) {
    for (int64_t i = 0; i < n_; ++i) (*this)[i] = other[i];
  }
  Array& operator=(const Array&) = delete;
  ~Array() { std::free(memory_); }

  operator T*() { return memory_ + shift_; }
  operator const T*() const { return memory_ + shift_; }
  T* data() { return memory_ + shift_; }
  int64_t size() const { return n_; }

 private:
  int64_t n_, shift_;
  T* memory_;
};

// Ends the program unless a and b differ by at most `tolerance` (0: they are the same number, or both NaN).
inline void near(float a, double b, double tolerance, const char* what, int64_t i) {
  if (std::isnan(a) && std::isnan(b)) return;
  if (double(a) == b || std::fabs(double(a) - b) <= tolerance) return;
  std::fprintf(stderr, "%s: element %lld is %.9g, not %.9g\n", what, static_cast<long long>(i), double(a), b);
  std::exit(1);
}

}  // namespace check
