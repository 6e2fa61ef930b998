// The stepper: a solver's program (gensys/solvers/program.py), executed one stage per call, between two network calls.
//
// A class of Python's and no torch operator: a stage of a small batch takes a few microseconds, about what the
// dispatcher takes to call an operator. It holds the tensors that it was given, so their memory lasts while it may be
// read; and it asks Python what they are, so that no call can leave their memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sums.h"

namespace gensys {
namespace {

namespace py = pybind11;

// A Pass and a Stage of program.py, field by field: registers and slots are numbers.
using PassFields = std::tuple<int, std::vector<int>, std::vector<double>, double, int64_t,
                              std::optional<std::pair<double, double>>, bool>;
using StageFields = std::tuple<std::optional<int>, std::vector<PassFields>, int, std::vector<int>>;

struct Pass {
  Sum sum;  // its pointers are set before every use
  int out;
  bool twice;
  int terms[kMaxTerms];
};

struct Stage {
  int output;  // slot of the network's answer; -1: there was no call yet
  std::vector<Pass> passes;
  std::vector<int> released;
};

// Attributes of torch.Tensor, their names made once.
struct Names {
  PyObject *data_ptr, *dtype, *is_cpu, *is_contiguous, *is_neg, *numel;
  PyObject *tensor, *float32, *int64;

  Names() {
    for (auto [name, text] : {std::pair{&data_ptr, "data_ptr"}, {&dtype, "dtype"}, {&is_cpu, "is_cpu"},
                              {&is_contiguous, "is_contiguous"}, {&is_neg, "is_neg"}, {&numel, "numel"}})
      *name = PyUnicode_InternFromString(text);
    const py::module_ torch = py::module_::import("torch");
    for (auto [object, text] : {std::pair{&tensor, "Tensor"}, {&float32, "float32"}, {&int64, "int64"}})
      *object = py::object(torch.attr(text)).release().ptr();
  }
};

const Names& names() {
  static const Names* const made = new Names;  // never freed: Python may be gone by then
  return *made;
}

py::object call(py::handle object, PyObject* method) {
  PyObject* const result = PyObject_CallMethodNoArgs(object.ptr(), method);
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

bool is(py::handle object, PyObject* attribute, PyObject* value) {
  PyObject* const found = PyObject_GetAttr(object.ptr(), attribute);
  if (!found) throw py::error_already_set();
  Py_DECREF(found);
  return found == value;
}

// The first element and the number of elements of a tensor, if it is what this file can read.
std::pair<void*, int64_t> memory(py::handle tensor, PyObject* dtype) {
  const Names& n = names();
  const bool good = PyObject_IsInstance(tensor.ptr(), n.tensor) == 1 && is(tensor, n.dtype, dtype) &&
                    is(tensor, n.is_cpu, Py_True) && call(tensor, n.is_contiguous).is(py::handle(Py_True)) &&
                    call(tensor, n.is_neg).is(py::handle(Py_False));
  if (!good) throw std::invalid_argument("a tensor of the stepper must be contiguous, on the CPU and of its dtype");
  return {reinterpret_cast<void*>(call(tensor, n.data_ptr).cast<uintptr_t>()), call(tensor, n.numel).cast<int64_t>()};
}

class Stepper {
 public:
  // scratch: for every slot, whether it is the scratch of sums.h (the others get a tensor each, by `hold`).
  Stepper(const std::vector<StageFields>& stages, const std::vector<bool>& scratch, int64_t numel, py::object ids,
          int64_t seed, int stream)
      : numel_(numel), scratch_(scratch), slots_(scratch.size()), ids_(std::move(ids)) {
    const auto [data, rows] = memory(ids_, names().int64);
    const int64_t n = rows ? numel / rows : 0;
    if (rows * n != numel || n > kLongestRow)
      throw std::invalid_argument("'numel' must be a multiple of the number of ids, and a row at most 2^34 elements");
    draws_ = {static_cast<const int64_t*>(data), rows, n, uint64_t(seed), uint32_t(stream)};
    for (const auto& [output, passes, state, released] : stages) {
      Stage& stage = stages_.emplace_back(Stage{output.value_or(-1), {}, released});
      for (const PassFields& fields : passes) stage.passes.push_back(pass_of(fields));
      if (output) slot(*output);
      for (const int s : released) slot(s);
    }
  }

  // Put a tensor of `numel` elements, or of twice as many, into a slot.
  void hold(int s, py::object tensor) {
    if (busy_) throw std::runtime_error("this stepper is in use by another thread");
    const auto [data, length] = memory(tensor, names().float32);
    if (length != numel_ && length != 2 * numel_)
      throw std::invalid_argument("a slot takes " + std::to_string(numel_) + " elements or twice as many, got " +
                                  std::to_string(length));
    Slot& place = slot(s);
    const Slot filled{std::move(tensor), static_cast<float*>(data), length};
    for (const Slot& other : slots_)
      if (&other != &place && other.data < filled.data + length && filled.data < other.data + other.length)
        throw std::invalid_argument("the solver still needs what this tensor shares memory with: return a new tensor");
    place = filled;
  }

  // The next stage, given what the network returned (None in the first stage).
  void advance(py::object output) {
    if (busy_) throw std::runtime_error("this stepper is in use by another thread");
    if (next_ == stages_.size()) throw std::runtime_error("this stepper has done all of its stages");
    Stage& stage = stages_[next_];
    if (stage.output >= 0) hold(stage.output, std::move(output));
    std::vector<Sum>& sums = sums_;
    sums.clear();
    for (const Pass& pass : stage.passes) {
      Sum& sum = sums.emplace_back(pass.sum);
      sum.out = at(pass.out);
      sum.copy = pass.twice ? at(pass.out + 1) : nullptr;
      for (int j = 0; j < sum.count; ++j) sum.terms[j] = at(pass.terms[j]);
    }
    if (numel_ && !sums.empty()) {
      const Busy busy(busy_);
      const py::gil_scoped_release others_may_run;
      compute(sums.data(), int(sums.size()), numel_, draws_);
    }
    for (const int s : stage.released) slot(s) = {};
    ++next_;
  }

 private:
  struct Slot {
    py::object tensor;
    float* data = nullptr;
    int64_t length = 0;
  };

  Slot& slot(int s) {
    if (s < 0 || size_t(s) >= slots_.size()) throw std::invalid_argument("there is no slot " + std::to_string(s));
    return slots_[size_t(s)];
  }

  // While the sums run, nobody may change what the slots hold.
  struct Busy {
    bool& flag;
    explicit Busy(bool& f) : flag(f) { flag = true; }
    ~Busy() { flag = false; }
  };

  // A register's first element: half of a slot (program.py).
  float* at(int reg) {
    if (reg < 0) throw std::invalid_argument("there is no register " + std::to_string(reg));
    const Slot& held = slot(reg / 2);
    if (scratch_[size_t(reg / 2)]) return nullptr;
    const int64_t first = reg % 2 * numel_;
    if (first + numel_ > held.length)
      throw std::invalid_argument("register " + std::to_string(reg) + " holds nothing: was the call guided?");
    return held.data + first;
  }

  Pass pass_of(const PassFields& fields) {
    const auto& [out, terms, coefs, noise_coef, step, clip, twice] = fields;
    if (terms.size() > size_t(kMaxTerms) || coefs.size() != terms.size())
      throw std::invalid_argument("a pass takes at most 8 terms, and as many coefficients");
    Pass pass{.sum = {.count = int(terms.size()), .noisy = noise_coef != 0, .step = uint32_t(step)},
              .out = out,
              .twice = twice};
    std::copy(terms.begin(), terms.end(), pass.terms);
    std::copy(coefs.begin(), coefs.end(), pass.sum.coefs);
    pass.sum.coefs[terms.size()] = float(noise_coef);
    if (clip) pass.sum.clip = {true, float(clip->first), float(clip->second)};
    return pass;
  }

  int64_t numel_;
  std::vector<bool> scratch_;
  std::vector<Slot> slots_;
  py::object ids_;
  Draws draws_;
  std::vector<Stage> stages_;
  std::vector<Sum> sums_;
  size_t next_ = 0;
  bool busy_ = false;
};

}  // namespace

void bind_stepper(pybind11::module_& m) {
  py::class_<Stepper>(m, "Stepper", "Executes a program of gensys/solvers/program.py, a stage at a time.")
      .def(py::init<const std::vector<StageFields>&, const std::vector<bool>&, int64_t, py::object, int64_t, int>(),
           py::arg("stages"), py::arg("scratch"), py::arg("numel"), py::arg("ids"), py::arg("seed"), py::arg("stream"))
      .def("hold", &Stepper::hold, py::arg("slot"), py::arg("tensor"), "Put a tensor into a slot.")
      .def("advance", &Stepper::advance, py::arg("output"), "The next stage; output: what the network returned, or None.");
}

}  // namespace gensys
