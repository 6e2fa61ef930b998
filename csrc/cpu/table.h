// All kernels for one instruction set. A file of this folder includes it once, with GENSYS_ISA (a name) and GENSYS_BYTES
// (of a vector) defined; every kernel is a header without a guard, because four files compile it in four ways.
namespace gensys::GENSYS_ISA {
namespace {

#include "simd.h"
//
#include "panels.h"
//
#include "attention.h"
#include "combine.h"
#include "gelu.h"
#include "noise.h"

}  // namespace

#define GENSYS_TEXT(name) #name
#define GENSYS_NAME(name) GENSYS_TEXT(name)

const Kernels table = {
    .isa = GENSYS_NAME(GENSYS_ISA),
    .combine = combine,
    .uniform = uniform,
    .normal = normal,
    .gelu = gelu<float>,
    .gelu_bf16 = gelu<bfloat>,
    .gelu_backward = gelu_backward<float>,
    .gelu_backward_bf16 = gelu_backward<bfloat>,
    .attention = {panels::attention<float>, panels::attention<bfloat>},
    .attention_backward = {panels::attention_backward<float>, panels::attention_backward<bfloat>},
};

}  // namespace gensys::GENSYS_ISA
