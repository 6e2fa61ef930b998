"""The CUDA kernels on the CPU: csrc/cuda compiled by g++ against an emulation, called through their own Python side."""

import copy
import importlib.util
import shlex
import sysconfig
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gensys import native
from gensys.kernels import combine as combine_op
from gensys.kernels import philox_normal as philox_op
from gensys.kernels.cuda import adaln, combine, device, philox_normal
from gensys.noise import Noise, Stream, philox_uniform

ROOT = Path(__file__).parent.parent.parent
FLAGS = (
    "-shared -fPIC -std=c++17 -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing"
    " -Wall -Werror -Wno-unknown-pragmas"
)
ORDERS = [0, 1]  # of the threads and blocks; 0 is ascending


@pytest.fixture(scope="session")
def emulated(build):
    """The module of tests/csrc/emulated.cpp."""
    pybind11 = pytest.importorskip("pybind11")
    folders = [ROOT / "tests/csrc/emulation", pybind11.get_include(), sysconfig.get_path("include")]
    if not Path(folders[-1], "Python.h").exists():
        pytest.skip("there is no Python.h to compile the emulation with")
    sources = {ROOT / "tests/csrc/emulated.cpp": "-O0"} | dict.fromkeys((ROOT / "csrc/cuda").glob("*.cu"), "-O1")
    options = f"{FLAGS} {shlex.join(f'-I{folder}' for folder in folders)}"
    library = build(f"emulated{sysconfig.get_config_var('EXT_SUFFIX')}", sources, options)
    spec = importlib.util.spec_from_file_location("emulated", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=ORDERS, ids=lambda order: f"order{order}")
def on_cpu(request, emulated, monkeypatch):
    """gensys.kernels.cuda takes CPU tensors; its threads run in some order, which must not matter."""
    for module in (adaln, combine, philox_normal):
        monkeypatch.setattr(module, "kernels", lambda: emulated)
        monkeypatch.setattr(module, "stream_of", lambda _: nullcontext(0))
    emulated.order(request.param)
    yield
    emulated.order(0)


def misaligned(x):
    """The same numbers at an address where no 128-bit access may begin."""
    store = torch.empty(x.numel() + 1, dtype=x.dtype)
    return store[1:].view(x.shape).copy_(x)


# ------------------------------------------------------------------------------------------------ combine and its noise


@pytest.mark.usefixtures("on_cpu")
def test_normals_are_the_definition_bit_for_bit():
    for example in philox_op.examples():
        for out in (example["out"], misaligned(example["out"])):
            philox_normal.philox_normal(out, example["noise"], example["stream"])
            expected = philox_op.reference(torch.empty_like(out), example["noise"], example["stream"])
            assert torch.equal(out, expected), tuple(out.shape)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("shape", [(3, 4), (300, 1), (2, 1027)])
def test_uniforms_are_the_definition_bit_for_bit(shape):
    noise = Noise(2**63 + 5, torch.arange(shape[0]) * (2**40 + 1), step=2**32 - 1)
    out = torch.empty(shape)
    philox_normal.philox_uniform(out, noise, Stream.TIME)
    assert torch.equal(out, philox_uniform(noise.seed, noise.ids, noise.step, Stream.TIME, shape[1]))


def combined(out, tensors, coefs, noise_coef=0.0, noise=None, stream=Stream.SOLVER, clip=None):
    combine.combine(out, tensors, coefs, noise_coef, noise, stream, clip)
    return out


@pytest.mark.usefixtures("on_cpu")
def test_combine_is_the_definition_bit_for_bit():
    for i, example in enumerate(combine_op.examples()):
        expected, got = copy.deepcopy(example), copy.deepcopy(example)  # a deep copy keeps who is an alias of whom
        combine_op.reference(**expected)
        combined(**got)
        assert torch.equal(got["out"], expected["out"]), f"example {i}, {tuple(example['out'].shape)}"
        if example["tensors"]:
            apart = [misaligned(example["tensors"][0]), *example["tensors"][1:]]
            got = combined(**{**example, "out": torch.empty_like(example["out"]), "tensors": apart})
            assert torch.equal(got, expected["out"]), f"example {i}, misaligned"


@pytest.mark.usefixtures("on_cpu")
def test_combine_of_special_numbers():
    x = torch.tensor([[-0.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38, -3.0, 0.5]])
    for clip in (None, (-1.0, 1.0), (0.0, 0.0)):
        for tensors, coefs in (([x], [1.0]), ([x, x], [1.0, -1.0]), ([x, x], [2.0, 0.5])):
            expected = combine_op.reference(torch.empty_like(x), tensors, coefs, clip=clip)
            got = combined(torch.empty_like(x), tensors, coefs, clip=clip)
            number = ~expected.isnan()
            assert torch.equal(got.isnan(), ~number)
            assert torch.equal(got[number].view(torch.int32), expected[number].view(torch.int32))  # the sign of 0 too


# ---------------------------------------------------------------------------------------------------------------- adaln

TYPES = [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)]
SHAPES = [(2, 3, 8), (3, 5, 1), (1, 7, 33), (1, 70, 40)]
WIDE = [((1, 2, 1156), 0), ((1, 1, 4096), 2), ((1, 2, 4100), 1)]  # emulated threads are slow
EPS = 1e-6


def normalised(h):
    centred = h - h.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + EPS)


def modulated(h, shift, scale):
    """The definition."""
    return normalised(h) * (1 + scale[:, None]) + shift[:, None]


def gated(x, y, gate):
    """The definition."""
    return x + gate[:, None] * y


def inputs(shape, types, place=lambda x: x):
    """Random arguments for the ops, each at an address that `place` chooses."""
    generator = torch.Generator().manual_seed(sum(shape))
    (B, T, D), (residual, compute) = shape, types

    def draw(*size, dtype=torch.float32, mean=0.0):
        return place((torch.randn(size, generator=generator) + mean).to(dtype))

    return SimpleNamespace(
        x=draw(B, T, D, dtype=residual, mean=3.0), y=draw(B, T, D, dtype=compute), gate=draw(B, D), shift=draw(B, D),
        scale=draw(B, D), dh=draw(B, T, D, dtype=residual), dout=draw(B, T, D, dtype=compute),
    )  # fmt: skip


def assert_near(got, expected):
    """To the rounding of the result's dtype, and of float32 sums of its length."""
    scale = float(expected.abs().max())
    tolerance = (2**-8 if got.dtype == torch.bfloat16 else 3e-6) * scale
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def gradients(function, arguments, upstream):
    leaves = [x.double().requires_grad_() for x in arguments]
    return torch.autograd.grad(function(*leaves), leaves, upstream.double())


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("place", [lambda x: x, misaligned], ids=["aligned", "misaligned"])
@pytest.mark.parametrize(("shape", "types"), [*product(SHAPES, range(3)), *WIDE], ids=str)
def test_adaln_against_float64(shape, types, place):
    v = inputs(shape, TYPES[types], place)
    zero = torch.zeros_like(v.dh)

    h, out = torch.empty_like(v.x), torch.empty_like(v.y)
    stats = adaln.gate_modulate(v.x, v.y, v.gate, v.shift, v.scale, EPS, h, out)
    assert_near(h, gated(v.x.double(), v.y.double(), v.gate.double()))
    assert_near(out, modulated(h.double(), v.shift.double(), v.scale.double()))
    assert_near(stats[..., 0], h.double().mean(-1))
    assert_near(stats[..., 1], (h.double().var(-1, correction=0) + EPS).rsqrt())

    alone, from_h = torch.empty_like(h), torch.empty_like(out)
    adaln.gate(v.x, v.y, v.gate, alone)
    assert torch.equal(alone, h)
    assert torch.equal(adaln.modulate(h, v.shift, v.scale, EPS, from_h), stats)
    assert torch.equal(from_h, out)

    dh, dshift, dscale = gradients(modulated, (h, v.shift, v.scale), v.dout)
    for extra in (None, v.dh):
        total = dh + (zero if extra is None else extra).double()
        got = adaln.modulate_backward(v.dout, h, v.scale, stats, extra)
        for result, expected in zip(got, (total, dshift, dscale), strict=True):
            assert_near(result, expected)

        _, dy, dgate = gradients(gated, (v.x, v.y, v.gate), total)
        got = adaln.gate_modulate_backward(extra, v.dout, h, v.y, v.gate, v.scale, stats)
        for result, expected in zip(got, (total, dy, dgate, dshift, dscale), strict=True):
            assert_near(result, expected)

    _, dy, dgate = gradients(gated, (v.x, v.y, v.gate), v.dh)
    for result, expected in zip(adaln.gate_backward(v.dh, v.y, v.gate), (dy, dgate), strict=True):
        assert_near(result, expected)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("D", [24, 33])
def test_a_sample_has_the_same_bits_in_any_batch(D):
    v = inputs((3, 50, D), TYPES[0])
    h, out = torch.empty_like(v.x), torch.empty_like(v.y)
    stats = adaln.gate_modulate(v.x, v.y, v.gate, v.shift, v.scale, EPS, h, out)
    together = adaln.gate_modulate_backward(v.dh, v.dout, h, v.y, v.gate, v.scale, stats)
    one = [x[1:2].clone() for x in (v.dh, v.dout, h, v.y, v.gate, v.scale, stats)]
    for all_of_them, alone in zip(together, adaln.gate_modulate_backward(*one), strict=True):
        assert torch.equal(all_of_them[1:2], alone)


@pytest.mark.usefixtures("on_cpu")
def test_in_place():
    v = inputs((2, 9, 40), TYPES[0])
    expected = torch.empty_like(v.x)
    adaln.gate(v.x, v.y, v.gate, expected)
    adaln.gate(v.x, v.y, v.gate, v.x)
    assert torch.equal(v.x, expected)


@pytest.mark.usefixtures("on_cpu")
def test_a_large_mean_costs_no_digits():
    x = torch.randn(1, 2, 384, generator=torch.Generator().manual_seed(0)) + 1000
    out, zero = torch.empty_like(x), torch.zeros(1, 384)
    adaln.modulate(x, zero, zero, EPS, out)
    torch.testing.assert_close(out.double(), normalised(x.double()), rtol=0, atol=1e-4)  # half an ulp of 1000 is 3e-5


@pytest.mark.usefixtures("on_cpu")
def test_nan_stays_in_its_row():
    v = inputs((1, 3, 40), TYPES[0])
    v.x[0, 1, 7] = float("nan")
    out = torch.empty_like(v.x)
    adaln.modulate(v.x, v.shift, v.scale, EPS, out)
    assert out[0, 1].isnan().all()
    assert not out[0, 0].isnan().any()
    assert not out[0, 2].isnan().any()


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (2, 3, 0)])
def test_nothing_to_do(shape):
    v = inputs(shape, TYPES[0])
    stats = adaln.modulate(v.x, v.shift, v.scale, EPS, torch.empty_like(v.x))
    assert stats.shape == (*shape[:2], 2)
    for gradient in adaln.gate_modulate_backward(v.dh, v.dout, v.x, v.y, v.gate, v.scale, stats)[2:]:
        assert torch.equal(gradient, torch.zeros(shape[0], shape[2]))


def test_a_refused_launch_raises(emulated):
    """There are no grids of 2^31 blocks; nothing is read or written."""
    with pytest.raises(RuntimeError, match="CUDA refused a kernel of gensys: invalid configuration argument"):
        emulated.adaln_forward(0, 0, 0, 0, 0, 0, 0.0, 0, 8, 0, 2**31, 1, 1, 0)


@pytest.mark.usefixtures("on_cpu")
def test_unknown_dtypes_are_named():
    v = inputs((1, 2, 8), (torch.bfloat16, torch.float32))
    with pytest.raises(ValueError, match=r"must be one of .*got \(torch.bfloat16, torch.float32\)"):
        adaln.modulate(v.x, v.shift, v.scale, EPS, v.y)


# ---------------------------------------------------------------------------------------------------- what is missing


def test_why_missing(monkeypatch, emulated):
    monkeypatch.setattr(native, "extension", None)
    monkeypatch.setattr(native, "why_missing", "no compiler")
    assert device.why_missing() == "no compiler"
    monkeypatch.setattr(native, "extension", SimpleNamespace())
    assert "built without them" in device.why_missing()
    monkeypatch.setattr(native, "extension", SimpleNamespace(cuda=emulated))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device.why_missing() == "this torch was built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in device.why_missing()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.why_missing() == ""


@pytest.mark.skipif(not hasattr(native.extension, "cuda"), reason="gensys was built without nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_launch_raises_and_nothing_else_happens():
    why = native.extension.cuda.why_missing()
    assert why
    x = torch.ones(4)
    with pytest.raises(RuntimeError, match=f"CUDA refused a kernel of gensys: {why}"):
        native.extension.cuda.combine(x.data_ptr(), [x.data_ptr()], [2.0], 0.0, 0, 1, 4, 0, 0, 0, None, 0)
    assert torch.equal(x, torch.ones(4))
