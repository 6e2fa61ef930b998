// The kernels for AVX2 with FMA (x86-64 since about 2013).
#ifdef __x86_64__
#include "headers.h"  // before the pragma: an inline function of a header must not need this instruction set

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define GENSYS_ISA avx2
#define GENSYS_BYTES 32  // in a vector
#include "table.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
