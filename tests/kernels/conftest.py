"""What the tests of all kernels share: every instruction set that this machine has, and the comparison with float64."""

import copy
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from gensys.kernels.dispatch import Unavailable, force


@pytest.fixture(params=["baseline", "avx2", "avx512", "avx512_bf16"])
def isa(request):
    """The compiled kernels, on each instruction set that this CPU has."""
    try:
        with force("native", isa=request.param):
            yield request.param
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """build(name, {source: options}, options) -> path: g++ compiles C++ sources side by side and links them."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("these tests are compiled by g++ on Linux")

    def run(name, sources, options):
        folder = tmp_path_factory.mktemp("build")
        objects = [folder / f"{i}.o" for i in range(len(sources))]
        running = [
            subprocess.Popen([compiler, *shlex.split(f"{options} {own}"), "-x", "c++", "-c", source, "-o", target])
            for (source, own), target in zip(sources.items(), objects, strict=True)
        ]
        assert [process.wait() for process in running] == [0] * len(running)
        subprocess.run([compiler, *shlex.split(options), *objects, "-o", folder / name], check=True)
        return folder / name

    return run


def tensors_of(value):
    return [value] if isinstance(value, torch.Tensor) else list(value or ())


def run(op, arguments, seed):
    """(results, gradients by argument) of op(**arguments), for the same random gradient of every result."""
    leaves = {
        name: x.detach().requires_grad_() if x.is_floating_point() else x
        for name, x in arguments.items()
        if isinstance(x, torch.Tensor)
    }
    results = tensors_of(op(**{**arguments, **leaves}))
    generator = torch.Generator().manual_seed(seed)
    differentiable = [y for y in results if y.requires_grad]
    # rounded to bfloat16: the same in any dtype
    upstream = [torch.randn(y.shape, generator=generator).bfloat16().to(y.device, y.dtype) for y in differentiable]
    if differentiable:
        torch.autograd.backward(differentiable, upstream)
    return [y.detach() for y in results], {name: x.grad for name, x in leaves.items() if x.grad is not None}


@pytest.fixture
def assert_agrees():
    """assert_agrees(op, reference, example): values and gradients of op equal those of the reference in float64.

    The tolerance is relative to the largest number of each result: `float32`, unless one of the tensors is bfloat16.
    """

    def check(op, reference, example, *, float32=2e-6, bfloat16=1e-2):
        wide = {
            name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for name, x in copy.deepcopy(example).items()
            if name not in ("out", "dtype")
        }
        narrow = any(isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 for x in example.values())
        tolerance = bfloat16 if narrow or example.get("dtype") == torch.bfloat16 else float32
        expected, expected_gradients = run(reference, wide, 0)
        got, gradients = run(op, example, 0)
        pairs = [*zip(got, expected, strict=True)]
        assert gradients.keys() == expected_gradients.keys()
        pairs += [(gradients[name], expected_gradients[name]) for name in gradients]
        for y, y64 in pairs:
            scale = max(1.0, float(y64.abs().max())) if y64.numel() and y64.is_floating_point() else 1.0
            torch.testing.assert_close(y.double() / scale, y64.double() / scale, rtol=0, atol=tolerance)

    return check
