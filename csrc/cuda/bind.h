// The Python functions of the CUDA kernels, for the module gensys._native and for the tests' emulation of it.
#pragma once

#include <pybind11/pybind11.h>

namespace gensys {

void bind_cuda(pybind11::module_ m);

}  // namespace gensys
