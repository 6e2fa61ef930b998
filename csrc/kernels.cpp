// The kernels, compiled once for each instruction set into one library that runs on any machine of its architecture:
// the best set that the CPU has is found when the library is loaded (never -march=native).
//
// Function attributes rather than compiler flags: they work in GCC and Clang alike, need no build system, and cannot
// leak AVX-512 into an inline function of the standard library that other code shares.
#include "kernels.h"

namespace gensys {
namespace {

namespace baseline {
#define GENSYS_ISA "baseline"
#define GENSYS_TARGET
#include "kernels.inc"
}  // namespace baseline

#ifdef __x86_64__

namespace avx2 {
#define GENSYS_ISA "avx2"
#define GENSYS_TARGET __attribute__((target("avx2")))
#include "kernels.inc"
}  // namespace avx2

namespace avx512 {
#define GENSYS_ISA "avx512"
#define GENSYS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "kernels.inc"
}  // namespace avx512

#endif

std::vector<const Kernels*> find() {
  std::vector<const Kernels*> found;
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(&avx512::table);
  if (__builtin_cpu_supports("avx2")) found.push_back(&avx2::table);
#endif
  found.push_back(&baseline::table);
  return found;
}

}  // namespace

const std::vector<const Kernels*>& kernels() {
  static const std::vector<const Kernels*> found = find();
  return found;
}

}  // namespace gensys
