// The kernels for any CPU: what the compiler's default target has (SSE2 on x86-64, NEON on aarch64).
#include "headers.h"

#define GENSYS_ISA baseline
#define GENSYS_BYTES 16  // in a vector
#include "table.h"
