// All kernels for one instruction set. A file of this folder includes it once, with GENSYS_ISA (a name) and GENSYS_BYTES
// (of a vector) defined; every kernel is a header without a guard, because four files compile it in four ways.
namespace gensys::GENSYS_ISA {
namespace {

#include "simd.h"
//
#include "panels.h"
//
#include "adaln.h"
#include "attention.h"
#include "combine.h"
#include "coupling.h"
#include "gelu.h"
#include "noise.h"
#include "peak.h"
#include "vq.h"

}  // namespace

#define GENSYS_TEXT(name) #name
#define GENSYS_NAME(name) GENSYS_TEXT(name)

const Kernels table = {
    .isa = GENSYS_NAME(GENSYS_ISA),
    .multiply_adds = multiply_adds,
    .dot_products = dot_products,
    .combine = combine,
    .uniform = uniform,
    .normal = normal,
    .gelu = gelu<float>,
    .gelu_bf16 = gelu<bfloat>,
    .gelu_backward = gelu_backward<float>,
    .gelu_backward_bf16 = gelu_backward<bfloat>,
    .vq_offsets = vq_offsets,
    .vq_nearest = vq_nearest<float>,
    .vq_nearest_bf16 = vq_nearest<bfloat>,
    .couple = couple<float>,
    .couple_bf16 = couple<bfloat>,
    .couple_backward = couple_backward<float>,
    .couple_backward_bf16 = couple_backward<bfloat>,
    .adaln = {adaln<float, float>, adaln<float, bfloat>, adaln<bfloat, bfloat>},
    .adaln_backward = {adaln_backward<float, float>, adaln_backward<float, bfloat>, adaln_backward<bfloat, bfloat>},
    .attention = {panels::attention<float>, panels::attention<bfloat>},
    .attention_backward = {panels::attention_backward<float>, panels::attention_backward<bfloat>},
};

}  // namespace gensys::GENSYS_ISA
