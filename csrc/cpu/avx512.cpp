// The kernels for AVX-512 (F, BW, DQ, VL).
#ifdef __x86_64__
#include "headers.h"  // before the pragma: an inline function of a header must not need this instruction set

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define GENSYS_ISA avx512
#define GENSYS_BYTES 64  // in a vector
#include "table.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
