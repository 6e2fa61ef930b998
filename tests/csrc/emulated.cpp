// The Python module `emulated`: what gensys._native.cuda is, on the CPU. It is linked with csrc/cuda/*.cu, all of it
// compiled unmodified against the headers of emulation/.
#include <cuda_runtime.h>

#include "../../csrc/cuda/bind.cpp"

PYBIND11_MODULE(emulated, m) {
  gensys::bind_cuda(m);
  m.def("order", [](unsigned seed) { emulation::state().order = seed; },
        "In which order threads and blocks run from now on: 0 for ascending, any other number for a shuffle.");
}
