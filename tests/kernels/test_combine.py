"""combine and philox_normal: every implementation gives the bits of the definition, for any shape and any threads."""

import copy

import pytest
import torch

from gensys import native
from gensys.kernels.combine import MAX_TERMS, combine
from gensys.kernels.combine import examples as combine_examples
from gensys.kernels.dispatch import force
from gensys.kernels.philox_normal import examples as normal_examples
from gensys.kernels.philox_normal import philox_normal
from gensys.noise import Noise, Stream

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
IDS = torch.arange(3)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("op", "examples"), [(combine, combine_examples), (philox_normal, normal_examples)])
def test_compiled_is_the_definition_bit_for_bit(op, examples):
    for i, example in enumerate(examples()):
        expected, got = copy.deepcopy(example), copy.deepcopy(example)  # a deep copy keeps who is an alias of whom
        with force("reference"):
            op(**expected)
        assert op(**got) is got["out"]
        assert torch.equal(got["out"], expected["out"]), f"example {i}, {tuple(example['out'].shape)}"


def test_the_formula():
    noise = Noise(3, IDS, step=2)
    x, y = torch.randn(2, 3, 4, 5).unbind()
    out = combine(torch.empty_like(x), [x, y], [0.25, -2.0], 0.5, noise, Stream.EPS)
    expected = 0.25 * x.double() - 2 * y.double() + 0.5 * noise.normal((4, 5), Stream.EPS).double()
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


def test_no_terms():
    assert torch.equal(combine(torch.full((3, 5), 7.0), [], []), torch.zeros(3, 5))
    noise = Noise(3, IDS)
    assert torch.equal(combine(torch.empty(3, 5), [], [], 1.0, noise), noise.normal((5,), Stream.SOLVER))


def test_noise_without_a_coefficient_is_not_drawn():
    x = torch.tensor([[-0.0], [1.0], [2.0]])
    out = combine(torch.empty_like(x), [x], [1.0], 0.0, Noise(0, IDS - 5))  # ids that could not be drawn
    assert torch.equal(out.signbit(), x.signbit())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_in_place(place):
    tensors = list(torch.randn(3, 4, 1029).unbind())
    expected = combine(torch.empty(4, 1029), tensors, [0.1, 0.2, 0.3])
    combine(tensors[place], tensors, [0.1, 0.2, 0.3])
    assert torch.equal(tensors[place], expected)


def test_other_dtypes():
    noise = Noise(3, IDS)
    x, y = torch.randn(2, 3, 7, dtype=torch.float64).unbind()
    z = noise.normal((7,), Stream.SOLVER)
    out = combine(torch.empty_like(x), [x, y], [1 / 3, -2 / 3], 0.1, noise)
    assert torch.equal(out, x * (1 / 3) + y * (-2 / 3) + z.double() * 0.1)
    for dtype in (torch.bfloat16, torch.float16):
        a, b = x.to(dtype), y.to(dtype)
        out = combine(torch.empty_like(a), [a, b], [1 / 3, -2 / 3], 0.1, noise)
        assert torch.equal(out, (a.float() * (1 / 3) + b.float() * (-2 / 3) + z * 0.1).to(dtype))


@needs_native
def test_threads_do_not_matter():
    noise, threads = Noise(8, torch.arange(5)), torch.get_num_threads()
    tensors = list(torch.randn(2, 5, 20_011).unbind())
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            plain = combine(torch.empty(5, 20_011), tensors, [0.3, 0.7])
            noisy = combine(torch.empty(5, 20_011), tensors, [0.3, 0.7], 0.1, noise)
            results.append((plain, noisy))
    finally:
        torch.set_num_threads(threads)
    for plain, noisy in results[1:]:
        assert torch.equal(plain, results[0][0])
        assert torch.equal(noisy, results[0][1])


def bad(message, **changes):
    arguments = {"out": torch.zeros(3, 4), "tensors": [torch.zeros(3, 4)], "coefs": [1.0]}
    return pytest.param({**arguments, **changes}, message, id=message[:40])


STORE = torch.zeros(20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        bad("'coefs' must be as many as 'tensors', 1, got 2", coefs=[1.0, 2.0]),
        bad("'tensors' must be at most 8, got 9", tensors=[torch.zeros(3, 4)] * 9, coefs=[1.0] * 9),
        bad("'out' must be .*floating point.*got .*torch.int64", out=torch.zeros(3, 4, dtype=torch.int64)),
        bad("'out' must be a contiguous.*got .*strides", out=torch.zeros(4, 3).T),
        bad(r"'tensors\[0\]' must be like 'out'.*got \(4, 3\)", tensors=[torch.zeros(4, 3)]),
        bad(r"'tensors\[0\]' must be like .*float64", tensors=[torch.zeros(3, 4, dtype=torch.float64)]),
        bad(r"'tensors\[0\]' must be like .*got .*strides \(1, 3\)", tensors=[torch.zeros(4, 3).T]),
        bad(r"'tensors\[0\]' must be like .*got .*on meta", tensors=[torch.zeros(3, 4, device="meta")]),
        bad(r"'tensors\[0\]' overlaps", out=STORE[:12].view(3, 4), tensors=[STORE[1:13].view(3, 4)]),
        bad(".*must not require a gradient", tensors=[torch.zeros(3, 4, requires_grad=True)]),
        bad("'noise' must be given when 'noise_coef' is not 0, got None with 0.5", noise_coef=0.5),
        bad(r"'noise.ids' must be one id for each row.*got \(2,\)", noise_coef=0.5, noise=Noise(0, IDS[:2])),
        bad(r"'noise.ids' must be .*on meta", noise_coef=0.5, noise=Noise(0, IDS.to("meta"))),
        bad(r"'ids' must lie in \[0, 2\^56\), got -1\.\.1", noise_coef=0.5, noise=Noise(0, IDS - 1)),
        bad(r"'step' must lie in", noise_coef=0.5, noise=Noise(0, IDS, step=-1)),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        combine(**arguments)
    with force("reference"), pytest.raises(ValueError, match=message):
        combine(**arguments)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.float64), "'out' must be contiguous float32, got torch.float64"),
        (torch.zeros(4, 3).T, "'out' must be contiguous float32"),
        (torch.zeros(2, 4), r"'out' must have a row for each of the \(3,\) ids on cpu, got \(2, 4\)"),
        (torch.zeros(3, 4, device="meta"), "ids on cpu, got .* on meta"),
        (torch.zeros(()), "'out' must have a row"),
    ],
)
def test_bad_outputs_for_normals(out, message):
    with pytest.raises(ValueError, match=message):
        philox_normal(out, Noise(0, IDS), Stream.EPS)


def test_a_gradient_that_is_switched_off_is_no_obstacle():
    x = torch.ones(3, 4, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(combine(torch.empty(3, 4), [x], [2.0]), torch.full((3, 4), 2.0))


@needs_native
def test_the_operators_are_proper_torch_operators():
    x = torch.randn(3, 5)
    for ids in (None, IDS):
        arguments = (torch.empty(3, 5), [x, x + 1], [0.1, 0.2], 0.5, ids, 1, 2, 3, [-1.0, 1.0])
        torch.library.opcheck(torch.ops.gensys.combine.default, arguments)
    torch.library.opcheck(torch.ops.gensys.philox_normal.default, (torch.empty(3, 5), IDS, 1, 2, 3))
    torch.library.opcheck(torch.ops.gensys.philox_uniform.default, (torch.empty(3, 5), IDS, 1, 2, 3))


@needs_native
def test_a_direct_call_cannot_leave_its_memory():
    out, x, ops = torch.empty(3, 4), torch.zeros(3, 4), torch.ops.gensys
    with pytest.raises(RuntimeError, match="'tensors' must have the shape of 'out'"):
        ops.combine(out, [x[:2]], [1.0], 0.0, None, 0, 0, 0, [])
    with pytest.raises(RuntimeError, match="'tensors' must be a contiguous CPU tensor of float32"):
        ops.combine(out, [x.double()], [1.0], 0.0, None, 0, 0, 0, [])
    with pytest.raises(RuntimeError, match="at most 8"):
        ops.combine(out, [x] * (MAX_TERMS + 1), [1.0] * (MAX_TERMS + 1), 0.0, None, 0, 0, 0, [])
    with pytest.raises(RuntimeError, match="'out' must have one row for each of the 5 ids"):
        ops.philox_normal(out, torch.arange(5), 0, 0, 0)
    with pytest.raises(RuntimeError, match="'ids' must be a contiguous CPU tensor of int64"):
        ops.philox_normal(out, IDS.int(), 0, 0, 0)
