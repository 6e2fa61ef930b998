// Which of the compiled instruction sets this CPU has. They are all in one library, which runs on any machine of its
// architecture: the best one is found when the library is loaded (never -march=native).
#include "kernels.h"

namespace gensys {
namespace {

std::vector<const Kernels*> find() {
  std::vector<const Kernels*> found;
#ifdef __x86_64__
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16::table);
  if (avx512) found.push_back(&avx512::table);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::table);
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
