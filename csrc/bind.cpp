// The module gensys._native. Importing it registers the kernels as torch operators (csrc/ops; torch.ops.gensys.*, through
// torch's stable ABI, so that one build serves later torch versions); the functions here see and choose the instruction
// set.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#ifdef GENSYS_CUDA
#include "cuda/bind.h"
#endif
#include "ops/operator.h"

namespace gensys {

void bind_stepper(pybind11::module_& m);  // ops/stepper.cpp

std::atomic<const Kernels*> active{kernels().front()};

namespace {

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Kernels* k : kernels()) names.emplace_back(k->isa);
  return names;
}

void use_isa(const std::string& name) {
  for (const Kernels* k : kernels())
    if (k->isa == name) {
      active = k;
      return;
    }
  throw std::invalid_argument("'name' must be an instruction set of this CPU (see isas()), got '" + name + "'");
}

}  // namespace
}  // namespace gensys

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of gensys; importing it registers torch.ops.gensys.*";
  m.def("isas", &gensys::isas, "Instruction sets of this CPU that the kernels are compiled for, fastest first.");
  m.def("isa", [] { return gensys::active.load()->isa; }, "The instruction set in use.");
  m.def("use_isa", &gensys::use_isa, pybind11::arg("name"), "Use another one of isas(), in the whole process.");
#ifdef GENSYS_CUDA
  gensys::bind_cuda(m.def_submodule("cuda"));
#endif
  m.def("multiply_adds", [](int64_t loops) { return gensys::use().multiply_adds(loops); }, pybind11::arg("loops"),
        "Do nothing but multiply-adds of float32; returns the number of floating-point operations.");
  m.def("dot_products", [](int64_t loops) { return gensys::use().dot_products(loops); }, pybind11::arg("loops"),
        "The same with bfloat16 products summed in float32; 0 if the instruction set has none.");
  gensys::bind_stepper(m);
}
