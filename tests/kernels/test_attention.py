"""attention: values and gradients against float64 on every instruction set, extreme numbers, autocast, compilation."""

import pytest
import torch
from torch.nn import functional as F

from gensys import native
from gensys.kernels.attention import (
    attention,
    attention_qkv,
    examples,
    examples_qkv,
    reference,
    reference_qkv,
)
from gensys.kernels.dispatch import choose, force

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
OPS = pytest.mark.parametrize(
    ("op", "definition", "cases"), [(attention, reference, examples), (attention_qkv, reference_qkv, examples_qkv)]
)


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@OPS
@pytest.mark.usefixtures("isa")
def test_values_and_gradients(op, definition, cases, assert_agrees):
    for example in cases():
        assert_agrees(op, definition, example, float32=4e-6, bfloat16=1.5e-2)


@OPS
def test_values_without_gradients(op, definition, cases):
    for example in cases():
        expected = definition(**{name: x.double() for name, x in example.items()})
        got = op(**example)
        assert got.dtype == next(iter(example.values())).dtype
        scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        tolerance = 2e-6 if got.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [(7, 7), (129, 40), (130, 300)])
def test_it_is_that_of_torch(dtype, tokens):
    q, k, v = (draw(2, 3, n, 8, dtype=dtype, seed=i) for i, n in enumerate((tokens[0], tokens[1], tokens[1])))
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    theirs = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention(q, k, v), theirs, rtol=0, atol=tolerance)
    qkv = torch.stack([q, q + 1, q - 1], 1).permute(0, 3, 1, 2, 4)
    theirs = F.scaled_dot_product_attention(q, q + 1, q - 1)
    torch.testing.assert_close(attention_qkv(qkv), theirs.transpose(1, 2), rtol=0, atol=2 * tolerance)


@needs_native
def test_where_the_kernel_does_not_run():
    assert choose("attention", "cpu", torch.float64).implementation == "torch"
    assert choose("attention", "cuda", torch.bfloat16).implementation == "torch"
    assert choose("attention", "meta", torch.float32).implementation == "reference"


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_scores_choose_one_key(dtype):
    """Scores of +-1e4: the result is the value of the best key, and nothing overflows on the way."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.eye(40, dtype=dtype)[torch.randperm(40, generator=generator)]
    best = torch.randint(0, 40, (21,), generator=generator)
    q, k = 1e4 * (2 * keys[best] - 1)[None, None], keys[None, None].clone()
    v = torch.randn(1, 1, 40, 40, generator=generator).to(dtype)
    for x in (q, k, v):
        x.requires_grad_()
    out = attention(q, k, v)
    torch.testing.assert_close(out[0, 0], v[0, 0, best], rtol=3e-7 if dtype == torch.float32 else 0, atol=0)
    out.sum().backward()
    assert q.grad.abs().max() < 1e-5
    torch.testing.assert_close(v.grad[0, 0, :, 0], torch.bincount(best, minlength=40).to(dtype), rtol=3e-7, atol=0)
    assert k.grad.isfinite().all()


@pytest.mark.usefixtures("isa")
def test_a_constant_added_to_all_scores_changes_nothing():
    """Over several blocks of keys, with the largest scores in the first, in the last and in the middle one."""
    q, v = draw(1, 1, 9, 8), draw(1, 1, 1500, 8, seed=1)
    k = draw(1, 1, 1500, 8, seed=2)
    k[..., 0] += 12 * torch.sin(torch.arange(1500) / 200)
    expected = reference(q.double(), k.double(), v.double())
    for shift in (0.0, 50.0, -50.0):
        moved_q, moved_k = (
            torch.cat([q, torch.ones(1, 1, 9, 1)], 3),
            torch.cat([k, torch.full((1, 1, 1500, 1), shift)], 3),
        )
        got = attention(moved_q * (9 / 8) ** 0.5, moved_k, torch.cat([v, v[..., :1]], 3))
        torch.testing.assert_close(got[..., :8].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_nan_and_infinity_go_where_the_definition_sends_them(dtype, bad, place):
    x = {name: draw(1, 2, 21, 24, dtype=dtype, seed=i) for i, name in enumerate("qkv")}
    x[place][0, 1, 5, 3] = bad
    got, expected = attention(**x), reference(**x)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isposinf(), expected.isposinf())
    assert torch.equal(got.isneginf(), expected.isneginf())
    assert got[0, 0].isfinite().all()


@pytest.mark.usefixtures("isa")
def test_a_key_of_minus_infinity_gets_no_weight():
    q, k, v = torch.ones(1, 1, 3, 1), draw(1, 1, 700, 1), draw(1, 1, 700, 1, seed=1)
    k[0, 0, :600] = -float("inf")  # more than a block of keys
    expected = attention(q, k[:, :, 600:], v[:, :, 600:])
    torch.testing.assert_close(attention(q, k, v), expected, rtol=0, atol=1e-6)
    assert attention(q, k[:, :, :600], v[:, :, :600]).isnan().all()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_faithful_to_the_weights(dtype):
    """Values of one: the weights sum to one, and their gradient vanishes."""
    q, k = draw(2, 2, 50, 16, dtype=dtype).requires_grad_(), draw(2, 2, 70, 16, dtype=dtype, seed=1)
    out = attention(q, k, torch.ones(2, 2, 70, 16, dtype=dtype))
    assert (out.float() - 1).abs().max() <= (4e-3 if dtype == torch.bfloat16 else 1e-6)
    out.sum().backward()
    assert q.grad.float().abs().max() < (4e-2 if dtype == torch.bfloat16 else 1e-5)


@needs_native
def test_memory_layouts():
    qkv = draw(2, 9, 3, 4, 8).requires_grad_()
    out = attention_qkv(qkv)
    assert out.is_contiguous()
    out.sum().backward()  # a gradient that is one number, expanded
    assert qkv.grad.is_contiguous()
    q, k, v = qkv.detach().permute(2, 0, 3, 1, 4)
    assert torch.equal(attention(q, k, v), out.transpose(1, 2))
    assert attention(q, k, v).transpose(1, 2).is_contiguous()


@needs_native
@pytest.mark.parametrize("wanted", ["q", "k", "v", "qv"])
def test_only_the_gradients_that_are_needed(wanted):
    x = {name: draw(1, 2, 5, 4, seed=i).requires_grad_(name in wanted) for i, name in enumerate("qkv")}
    attention(**x).square().sum().backward()
    y = {name: z.detach().double().requires_grad_(name in wanted) for name, z in x.items()}
    reference(**y).square().sum().backward()
    for name in "qkv":
        assert (x[name].grad is not None) == (name in wanted)
        if name in wanted:
            torch.testing.assert_close(x[name].grad.double(), y[name].grad, rtol=1e-5, atol=1e-5)


@needs_native
@OPS
def test_autocast(op, definition, cases):
    example = {name: x.float().requires_grad_() for name, x in next(iter(cases())).items()}
    with torch.autocast("cpu", torch.bfloat16):
        out = op(**example)
        assert out.dtype == torch.bfloat16
        assert op(**{name: x.double() for name, x in example.items()}).dtype == torch.float64
    out.float().sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in example.values())
    expected = op(**{name: x.detach().bfloat16() for name, x in example.items()})
    assert torch.equal(out, expected)


@needs_native
@OPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_whole(op, definition, cases, dtype):
    example = next(x for x in cases() if min(next(iter(x.values())).shape) > 1)
    leaves = [{name: x.to(dtype).requires_grad_() for name, x in example.items()} for _ in range(2)]
    compiled = torch.compile(lambda **x: op(**x).float().square().sum(), fullgraph=True, backend="aot_eager")
    compiled(**leaves[0]).backward()
    op(**leaves[1]).float().square().sum().backward()
    for name in example:
        torch.testing.assert_close(leaves[0][name].grad, leaves[1][name].grad, rtol=0, atol=0)


@needs_native
@OPS
def test_second_derivatives(op, definition, cases):
    def penalty(function, dtype):
        x = {name: y[:1].detach().to(dtype).requires_grad_() for name, y in next(iter(cases())).items()}
        out = function(**x)
        (first, *_) = torch.autograd.grad(out.square().sum(), list(x.values()), create_graph=True)
        return torch.autograd.grad(first.square().sum(), list(x.values()), allow_unused=True)

    for got, expected in zip(penalty(op, torch.float32), penalty(definition, torch.float64), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("isa")
def test_threads_do_not_matter():
    threads, results = torch.get_num_threads(), []
    qkv = draw(8, 70, 3, 3, 24).requires_grad_()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = attention_qkv(qkv)
            results.append((out, *torch.autograd.grad(out.square().sum(), qkv)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_are_proper_torch_operators(dtype):
    q, k, v, g = (draw(2, 3, n, 4, dtype=dtype) for n in (5, 6, 6, 5))
    out, stats = torch.empty_like(q), torch.empty(2, 3, 2, 5)
    torch.library.opcheck(torch.ops.gensys.attention.default, (q, k, v, out, None))
    torch.library.opcheck(torch.ops.gensys.attention.default, (q, k, v, out, stats))
    torch.ops.gensys.attention(q, k, v, out, stats)
    gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    torch.library.opcheck(torch.ops.gensys.attention_backward.default, (g, q, k, v, out, stats, *gradients))


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 3, 5, 4).double()}, "'q' must be float32 or bfloat16"),
        ({"q": torch.zeros(3, 5, 4)}, "'q' and 'k' must have four dimensions"),
        ({"k": torch.zeros(2, 3, 0, 4)}, "'k' must have at least one token"),
        ({"k": torch.zeros(2, 2, 6, 4)}, "'k' must have 3 in dimension 1, got 2"),
        ({"v": torch.zeros(2, 3, 5, 4)}, "'v' must have 6 in dimension 2, got 5"),
        ({"v": torch.zeros(2, 3, 6, 4).bfloat16()}, "'v' must be a CPU tensor of float32"),
        ({"out": torch.zeros(2, 3, 5, 8)[..., ::2]}, "'out' must not have gaps"),
        ({"stats": torch.zeros(2, 3, 5)}, "'stats' must be"),
        ({"stats": torch.zeros(2, 3, 2, 5).double()}, "'stats' must be"),
        ({"dk": torch.zeros(2, 3, 5, 4)}, "'dk' must have 6 in dimension 2"),
        ({"dout": torch.zeros(2, 3, 1, 1).expand(2, 3, 5, 4)}, "'dout' must not have gaps"),
    ],
)
def test_a_direct_call_cannot_leave_its_memory(change, message):
    shapes = {name: torch.zeros(2, 3, n, 4) for name, n in (("dout", 5), ("q", 5), ("k", 6), ("v", 6), ("out", 5))}
    x = {**shapes, "stats": torch.zeros(2, 3, 2, 5), "dq": shapes["q"], "dk": shapes["k"], "dv": shapes["v"], **change}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.gensys.attention_backward(*x.values())


def bad(message, **changes):
    shapes = {"q": torch.zeros(2, 3, 5, 4), "k": torch.zeros(2, 3, 6, 4), "v": torch.zeros(2, 3, 6, 4)}
    return pytest.param({**shapes, **changes}, message, id=message[:40])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        bad(r"'q' must be \(B, H, T, d\), d >= 1, got \(3, 5, 4\)", q=torch.zeros(3, 5, 4)),
        bad(r"'q' must be .* got \(2, 3, 5, 0\)", q=torch.zeros(2, 3, 5, 0)),
        bad(r"'k' must be \(2, 3, S, 4\), S >= 1, as 'q' is, got \(2, 1, 6, 4\)", k=torch.zeros(2, 1, 6, 4)),
        bad(r"'k' must be .* got \(2, 3, 6, 5\)", k=torch.zeros(2, 3, 6, 5)),
        bad(r"'k' must be .* got \(2, 3, 0, 4\)", k=torch.zeros(2, 3, 0, 4)),
        bad(r"'v' must be \(2, 3, 6, 4\) as 'k' is, got \(2, 3, 6, 8\)", v=torch.zeros(2, 3, 6, 8)),
        bad("'k' must be torch.float32 on cpu as 'q' is, got torch.float64", k=torch.zeros(2, 3, 6, 4).double()),
        bad("'v' must be .* got torch.float32 on meta", v=torch.zeros(2, 3, 6, 4, device="meta")),
        bad("'dtype' of attention must be one of", **{n: torch.zeros(1, 1, 2, 2).int() for n in "qkv"}),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        attention(**arguments)
    with force("reference"), pytest.raises(ValueError, match=message):
        attention(**arguments)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 5, 2, 3, 4), (2, 5, 3, 3, 0)])
def test_bad_qkv(shape):
    with pytest.raises(ValueError, match=r"'qkv' must be \(B, T, 3, H, d\), d >= 1, got \(2, 5, "):
        attention_qkv(torch.zeros(shape))


@OPS
def test_a_gradient_that_nobody_gives_is_none(op, definition, cases):
    class Deaf(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return None

    example = next(iter(cases()))
    leaves = {name: x.detach().clone().requires_grad_() for name, x in example.items()}
    Deaf.apply(op(**leaves)).sum().backward()
    assert all(x.grad is None or not x.grad.any() for x in leaves.values())
