"""Every op on a GPU: each implementation that the table has for one, through the op's public function.

    pytest -m gpu tests/kernels        on a machine with a GPU (for CUDA: with gensys built where nvcc is)

Without a GPU these tests are skipped. The same checks then run on the CPU, of what runs there, so that they do not rot.
"""

import importlib
from dataclasses import replace

import pytest
import torch

from gensys.kernels import combine as combine_op
from gensys.kernels import philox_normal as philox_op
from gensys.kernels.dispatch import KERNELS, OPS, Unavailable, choose, force
from gensys.noise import Noise, Stream

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def gpu(test):
    return pytest.mark.gpu(needs_gpu(test))


def adaln(dtype, *names):
    """Rows that 128-bit accesses fit and that they do not, more than registers hold, slices of one big matrix."""
    for B, T, D in [(3, 70, 384), (2, 5, 33), (1, 3, 1), (2, 300, 1152), (1, 2, 5000), (0, 4, 8), (2, 0, 8)]:
        given = dict(zip(("shift", "scale", "gate"), torch.randn(B, 3 * D).to(dtype).split(D, 1), strict=True))
        given |= {"x": torch.randn(B, T, D).to(dtype) + 2, "y": torch.randn(B, T, D).to(dtype)}
        yield {name: given[name] for name in names}


def mixed(op):
    """The residual stream in float32, the network in bfloat16."""
    for example in EXAMPLES[op][1](torch.float32):
        y = {"y": example["y"].bfloat16()} if "y" in example else {}
        yield {**example, **y, "dtype": torch.bfloat16}


def coupling(dtype):
    for shape in [(300, 32), (4, 3, 7, 5), (2, 20_000), (1, 1), (0, 4)]:
        for inverse in (False, True):
            yield {name: torch.randn(shape).to(dtype) for name in ("x", "s", "t")} | {"inverse": inverse}


def heads(dtype):
    for shape in [(2, 3, 70, 64), (1, 2, 5, 8), (1, 1, 1, 1), (0, 2, 4, 8)]:
        yield {name: torch.randn(shape).to(dtype) for name in ("q", "k", "v")}


EXAMPLES = {  # function -> its op and examples of a dtype; these are compared with float64
    "adaln_modulate": ("adaln", lambda dtype: adaln(dtype, "x", "shift", "scale")),
    "adaln_gate": ("adaln", lambda dtype: adaln(dtype, "x", "y", "gate")),
    "adaln_gate_modulate": ("adaln", lambda dtype: adaln(dtype, "x", "y", "gate", "shift", "scale")),
    "affine_coupling": ("affine_coupling", coupling),
    "attention": ("attention", heads),
}
EXACT = {"combine", "philox_normal", "vq_nearest"}  # tests of their own
ON_GPU = [(kernel, dtype) for kernel in KERNELS if kernel.device == "cuda" for dtype in kernel.dtypes]
ON_CPU = [(kernel, dtype) for kernel in KERNELS if kernel.device == "cpu" for dtype in kernel.dtypes]


def op_of(function):
    return EXAMPLES[function][0] if function in EXAMPLES else function


def cases(table, functions, dtypes=None):
    """Parameters (implementation, function, dtype): those of the table that are for these functions and dtypes."""
    return [
        pytest.param(kernel.implementation, function, dtype, id=f"{kernel.implementation}-{function}-{dtype}")
        for kernel, dtype in table
        for function in sorted(functions)
        if kernel.op == op_of(function) and (dtypes is None or dtype in dtypes)
        if (kernel.implementation, kernel.device) != ("triton", "cpu")  # its interpreter has tests of its own
    ]


def moved(value, device, dtype=None, memo=None):
    """A copy of an example on the device, its numbers in the dtype; what was one tensor twice is so again."""
    memo = {} if memo is None else memo
    if isinstance(value, torch.Tensor):
        if id(value) not in memo:
            to = dtype if dtype and value.is_floating_point() else value.dtype
            copy = torch.empty_strided(value.shape, value.stride(), dtype=to, device=device)
            memo[id(value)] = copy.copy_(value)
        return memo[id(value)]
    if isinstance(value, Noise):
        return replace(value, ids=moved(value.ids, device, None, memo))
    if isinstance(value, dict):
        return {key: moved(item, device, dtype, memo) for key, item in value.items()}
    return [moved(item, device, dtype, memo) for item in value] if isinstance(value, list) else value


def require(implementation, op, dtype, device):
    """Skip where this machine has not what the table has, with its reason."""
    try:
        with force(implementation):
            choose(op_of(op), device, dtype)
    except Unavailable as error:
        pytest.skip(str(error))


def agrees(implementation, op, examples, device, assert_agrees):
    """Values and gradients of a forced implementation against the definition in float64."""
    function = getattr(importlib.import_module(f"gensys.kernels.{EXAMPLES[op][0]}"), op)

    def definition(**arguments):
        with force("reference"):
            return function(**arguments)

    torch.manual_seed(0)
    for example in examples:
        with force(implementation):
            assert_agrees(function, definition, moved(example, device), float32=1e-5, bfloat16=2e-2)


def is_the_definition(implementation, op, dtype, device):
    """The bits of the reference on a CPU; Triton promises those of the random integers, and rounding to nearest."""
    module, function = (combine_op, combine_op.combine) if op == "combine" else (philox_op, philox_op.philox_normal)
    for i, example in enumerate(module.examples()):
        expected, got = moved(example, "cpu", dtype), moved(example, device, dtype)
        with force("reference"):
            function(**expected)
        with force(implementation):
            function(**got)
        exact = implementation != "triton"
        y, reference = got["out"].cpu(), expected["out"]
        tolerance = 0 if exact else 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(y, reference, rtol=tolerance, atol=tolerance, msg=lambda m, i=i: f"example {i}: {m}")


def finds_the_nearest(implementation, dtype, device):
    """No code is nearer, in float64, than the one that was found, but for rounding; equal codes: the lowest index."""
    vq_nearest = importlib.import_module("gensys.kernels.vq_nearest").vq_nearest
    torch.manual_seed(0)
    for N, K, D in [(1000, 512, 8), (300, 1000, 40), (77, 3, 64), (5, 1, 3), (64, 129, 256)]:
        x, codebook = torch.randn(N, D).to(dtype).to(device), torch.randn(K, D).to(dtype).to(device)
        codebook[K - K // 2 :] = codebook[: K // 2]  # the second half repeats the first
        with force(implementation):
            index, distance = vq_nearest(x, codebook, distances=True)
        exact = torch.cdist(x.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
        best = exact.min(1).values
        assert ((index >= 0) & (index < K - K // 2)).all()
        tolerance = 1e-4 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(exact.gather(1, index[:, None])[:, 0], best, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(distance.double(), best, rtol=tolerance, atol=tolerance)


def test_every_op_with_a_gpu_kernel_is_tested_here():
    assert {kernel.op for kernel, _ in ON_GPU} <= {op for op, _ in EXAMPLES.values()} | EXACT


# ------------------------------------------------------------------------------------------------------------ on a GPU


@gpu
@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_GPU, EXAMPLES))
def test_values_and_gradients(implementation, op, dtype, assert_agrees):
    require(implementation, op, dtype, "cuda")
    agrees(implementation, op, EXAMPLES[op][1](dtype), "cuda", assert_agrees)


@gpu
@pytest.mark.parametrize(
    ("implementation", "op", "dtype"), cases(ON_GPU, {"adaln_modulate", "adaln_gate_modulate"}, {torch.float32})
)
def test_a_float32_residual_stream_in_a_bfloat16_network(implementation, op, dtype, assert_agrees):
    require(implementation, op, dtype, "cuda")
    agrees(implementation, op, mixed(op), "cuda", assert_agrees)


@gpu
@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_GPU, {"combine", "philox_normal"}))
def test_exact_ops(implementation, op, dtype):
    require(implementation, op, dtype, "cuda")
    is_the_definition(implementation, op, dtype, "cuda")


@gpu
@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_GPU, {"vq_nearest"}))
def test_vq_nearest(implementation, op, dtype):
    require(implementation, op, dtype, "cuda")
    finds_the_nearest(implementation, dtype, "cuda")


@gpu
@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_GPU, set(EXAMPLES) - {"affine_coupling"}))
def test_the_same_bits_every_time(implementation, op, dtype):
    """No atomics: gradients too are the same, run after run."""
    require(implementation, op, dtype, "cuda")
    function = getattr(importlib.import_module(f"gensys.kernels.{EXAMPLES[op][0]}"), op)
    torch.manual_seed(0)
    example = moved(next(iter(EXAMPLES[op][1](dtype))), "cuda")
    first = None
    for _ in range(3):
        leaves = {name: x.detach().clone().requires_grad_() for name, x in example.items()}
        with force(implementation):
            results = function(**leaves)
            results = [results] if isinstance(results, torch.Tensor) else list(results)
            torch.autograd.backward(results, [torch.ones_like(y) for y in results])
        bits = [*(y.detach() for y in results), *(x.grad for x in leaves.values())]
        first = first or bits
        assert all(torch.equal(a, b) for a, b in zip(bits, first, strict=True))


@gpu
@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_GPU, {"combine"}))
def test_streams_and_graphs(implementation, op, dtype):
    """A kernel runs on torch's current stream: after what was queued there before, and as a part of a CUDA graph."""
    require(implementation, op, dtype, "cuda")
    x, out = torch.zeros(4, 1 << 20, device="cuda", dtype=dtype), torch.empty(4, 1 << 20, device="cuda", dtype=dtype)
    noise = Noise(3, torch.arange(4, device="cuda"), step=1)

    def step():
        with force(implementation):
            combine_op.combine(out, [x], [2.0], 0.5, noise, Stream.SOLVER)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # Triton compiles at the first call, which no graph may see
        torch.cuda._sleep(100_000_000)  # cycles: a kernel on another stream would run before the next line's
        x.fill_(1.0)
        step()
    torch.cuda.current_stream().wait_stream(side)
    expected = 2.0 + 0.5 * noise.normal((1 << 20,), Stream.SOLVER)
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    x.fill_(3.0)
    graph.replay()
    torch.testing.assert_close(out.float(), expected + 4.0, rtol=2e-2, atol=2e-2)


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_GPU, {"philox_normal"}))
def test_a_gpu_that_is_not_the_current_one(implementation, op, dtype):
    require(implementation, op, dtype, "cuda")
    outs = [torch.empty(3, 1000, device=f"cuda:{i}") for i in range(2)]
    for out in outs:
        with force(implementation):
            philox_op.philox_normal(out, Noise(1, torch.arange(3, device=out.device)), Stream.EPS)
    assert torch.equal(outs[0].cpu(), outs[1].cpu())
    assert torch.cuda.current_device() == 0


# --------------------------------------------------------------------------------------- the same checks, on the CPU


@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_CPU, {"combine", "philox_normal"}))
def test_exact_ops_on_the_cpu(implementation, op, dtype):
    require(implementation, op, dtype, "cpu")
    is_the_definition(implementation, op, dtype, "cpu")


@pytest.mark.parametrize("op", [function for function, (op, _) in EXAMPLES.items() if op in OPS])
def test_values_and_gradients_on_the_cpu(op, assert_agrees):
    agrees("reference", op, EXAMPLES[op][1](torch.float32), "cpu", assert_agrees)


@pytest.mark.parametrize(("implementation", "op", "dtype"), cases(ON_CPU, {"vq_nearest"}))
def test_vq_nearest_on_the_cpu(implementation, op, dtype):
    require(implementation, op, dtype, "cpu")
    finds_the_nearest(implementation, dtype, "cpu")
