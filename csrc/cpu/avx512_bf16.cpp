// The kernels for AVX-512 with its bfloat16 instructions.
#ifdef __x86_64__
#include "headers.h"  // before the pragma: an inline function of a header must not need this instruction set

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define GENSYS_ISA avx512_bf16
#define GENSYS_BYTES 64  // in a vector
#define GENSYS_BF16 1    // not __AVX512BF16__: GCC 12 reads a C++ file whole before it obeys the pragma
#include "table.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
