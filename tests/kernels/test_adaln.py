"""adaln: values and gradients against float64, the numbers that are hard, dtypes, compilation, bad arguments."""

import inspect

import pytest
import torch

from gensys import native
from gensys.kernels.adaln import (
    adaln_gate,
    adaln_gate_modulate,
    adaln_modulate,
    examples,
    reference_gate,
    reference_gate_modulate,
    reference_modulate,
)
from gensys.kernels.dispatch import Unavailable, force

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
DEFINITIONS = {
    adaln_modulate: reference_modulate,
    adaln_gate: reference_gate,
    adaln_gate_modulate: reference_gate_modulate,
}
OPS = pytest.mark.parametrize(("op", "definition"), DEFINITIONS.items())
FULL, HALF = torch.float32, torch.bfloat16
PAIRS = pytest.mark.parametrize(("residual", "compute"), [(FULL, FULL), (FULL, HALF), (HALF, HALF)])


def taken(op, example):
    """The part of an example that the op takes."""
    return {name: value for name, value in example.items() if name in inspect.signature(op).parameters}


def draw(b=2, t=70, d=40, residual=FULL, compute=FULL, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, b, t, d, generator=generator)
    gate, shift, scale = torch.randn(3, b, d, generator=generator)
    both = {"x": x.to(residual), "y": y.to(compute), "gate": gate, "shift": shift, "scale": scale}
    return {**both, "dtype": compute}


def wanting(example):
    return {k: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in example.items()}


def gradients(op, example, weights=(1.0, 1.0)):
    """(results, gradients of a nonlinear sum of them) of the op."""
    leaves = wanting(taken(op, example))
    results = op(**leaves)
    results = (results,) if isinstance(results, torch.Tensor) else results
    sum(w * r.to(torch.float64).sin().sum() for w, r in zip(weights, results, strict=False)).backward()
    return [r.detach() for r in results], [v.grad for v in leaves.values() if isinstance(v, torch.Tensor)]


@OPS
@pytest.mark.usefixtures("isa")
def test_values_and_gradients(op, definition, assert_agrees):
    for example in examples():
        if any(v.dtype in (torch.float64, torch.float16) for v in (example["x"], example["y"])):
            continue  # the definition itself: below
        assert_agrees(op, definition, taken(op, example))


@OPS
def test_other_dtypes_are_the_definition(op, definition):
    count = 0
    for example in examples():
        if example["x"].dtype in (torch.float64, torch.float16):
            torch.testing.assert_close(op(**taken(op, example)), definition(**taken(op, example)), rtol=0, atol=0)
            count += 1
    assert count == 2
    example = taken(op, draw())
    for kind in (FULL, HALF, torch.float16):  # a float64 stream through any network
        example["x"] = example["x"].double()
        example |= {"y": example["y"].to(kind)} if "y" in example else {}
        example |= {"dtype": kind} if "dtype" in example else {}
        torch.testing.assert_close(op(**example), definition(**example), rtol=0, atol=0)
    with force("reference"):
        for kind in (FULL, HALF):
            example = taken(op, draw(residual=kind, compute=kind))
            torch.testing.assert_close(op(**example), definition(**example), rtol=0, atol=0)


def test_the_formula():
    e = draw(1, 1, 4)
    x, (shift, scale) = e["x"][0, 0], (e["shift"][0], e["scale"][0])
    var = ((x - x.mean()) ** 2).mean()
    expected = (x - x.mean()) / (var + 0.5).sqrt() * (1 + scale) + shift
    torch.testing.assert_close(adaln_modulate(x[None, None], shift[None], scale[None], eps=0.5)[0, 0], expected)
    torch.testing.assert_close(adaln_gate(e["x"], e["y"], e["gate"])[0, 0], x + e["gate"][0] * e["y"][0, 0])


@pytest.mark.usefixtures("isa")
def test_the_mean_is_subtracted_before_squaring():
    """A small spread on a large offset: mean(x^2) - mean(x)^2 would be all rounding errors."""
    spread = torch.linspace(-1, 1, 257)[None, None]  # exact on these offsets
    spread = (spread * 256).round() / 256
    zero = torch.zeros(1, 257)
    for offset in (1.0, 100.0, 4096.0):
        got = adaln_modulate(spread + offset, zero, zero)
        torch.testing.assert_close(
            got.double(), reference_modulate(spread.double(), zero, zero), rtol=0, atol=4e-7 * offset
        )


@OPS
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stay_in_their_row(op, definition, bad):
    for d in (40, 3, 64):
        example = draw(2, 6, d)
        example["x"][1, 4, d // 2] = bad
        expected, got = definition(**taken(op, example)), op(**taken(op, example))
        torch.testing.assert_close(got, expected, equal_nan=True, rtol=2e-6, atol=2e-6)
        results, (dx, *_) = gradients(op, example)
        assert not all(r[1, 4].isfinite().all() for r in results)
        assert dx[0].isfinite().all()
        assert dx[1, :4].isfinite().all()
        assert dx[1, 5].isfinite().all()


def test_the_variance_overflows_to_shift():
    e = draw(1, 3, 40)
    assert torch.equal(adaln_modulate(e["x"] * 1e30, e["shift"], e["scale"]), e["shift"][:, None].expand(1, 3, 40))


@OPS
@PAIRS
@needs_native
def test_threads_and_company_do_not_matter(op, definition, residual, compute):
    """The same bits with any number of threads, and for a sample alone as in its batch."""
    example = draw(3, 333, 96, residual, compute)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(gradients(op, example))
    finally:
        torch.set_num_threads(threads)
    alone = {k: v[1:2] if isinstance(v, torch.Tensor) else v for k, v in example.items()}
    for got in results[1:]:
        torch.testing.assert_close(got, results[0], rtol=0, atol=0)
    part = [[v[1:2] for v in group] for group in results[0]]
    torch.testing.assert_close([*map(list, gradients(op, alone))], part, rtol=0, atol=0)


@OPS
@PAIRS
def test_out(op, definition, residual, compute):
    e = taken(op, draw(residual=residual, compute=compute))
    expected = op(**e)
    one = isinstance(expected, torch.Tensor)
    out = torch.empty_like(expected) if one else tuple(map(torch.empty_like, expected))
    got = op(**e, out=out)
    assert got is out if one else all(a is b for a, b in zip(got, out, strict=True))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    with force("reference"):
        torch.testing.assert_close(op(**e, out=out), expected, rtol=2e-2, atol=2e-2)
    if residual == compute or not one or op is adaln_gate:  # in place
        x = e["x"].clone()
        got = op(**{**e, "x": x}, out=x if one else (x, out[1]))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="is for calls without a gradient"):
        op(**wanting(e), out=out)
    with torch.no_grad():
        op(**wanting(e), out=out)


@needs_native
@PAIRS
@pytest.mark.parametrize("d", [64, 384, 40, 7])
def test_large_results_are_the_same_bits(residual, compute, d):
    """Results of 4 MB and more are written past the caches, if they are aligned; a slice of them alone is not."""
    t = 2**21 // d  # 4 MB in bfloat16
    e = draw(1, t, d, residual, compute)
    h, out = adaln_gate_modulate(**e)
    some = slice(t // 2, t // 2 + 9)
    part = {k: v[:, some] if k in "xy" else v for k, v in e.items()}
    torch.testing.assert_close((h[:, some], out[:, some]), adaln_gate_modulate(**part), rtol=0, atol=0)
    unaligned = torch.empty(t * d + 1, dtype=compute)[1:].view(1, t, d)
    other = torch.empty(t * d + 1, dtype=residual)[1:].view(1, t, d)
    torch.testing.assert_close(adaln_gate_modulate(**e, out=(other, unaligned)), (h, out), rtol=0, atol=0)


def test_a_result_of_another_dtype_takes_two_passes():
    e = draw()
    h, out = adaln_gate_modulate(**{**e, "dtype": HALF})
    assert torch.equal(h, adaln_gate(e["x"], e["y"], e["gate"]))
    assert torch.equal(out, adaln_modulate(h, e["shift"], e["scale"], dtype=HALF))
    h, out = adaln_gate_modulate(**{**e, "y": e["y"].bfloat16()})
    assert out.dtype == FULL


@OPS
@PAIRS
def test_autocast_changes_nothing(op, definition, residual, compute):
    for implementation in ("reference", "native") if native.extension else ("reference",):
        example = draw(residual=residual, compute=compute)
        with force(implementation):
            expected = gradients(op, example)
            with torch.autocast("cpu", torch.bfloat16):
                got = gradients(op, example)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@OPS
def test_gradients_of_some_arguments(op, definition):
    example = taken(op, draw(1, 5, 6))
    expected = dict(zip(example, gradients(op, example)[1], strict=False))
    for name in [k for k, v in example.items() if isinstance(v, torch.Tensor)]:
        leaf = example[name].clone().requires_grad_()
        results = op(**{**example, name: leaf})
        results = (results,) if isinstance(results, torch.Tensor) else results
        sum(r.double().sin().sum() for r in results).backward()
        torch.testing.assert_close(leaf.grad, expected[name])


@pytest.mark.parametrize("unused", [0, 1])
def test_one_of_two_results_is_used(unused):
    example, weights = draw(), [1.0, 1.0]
    weights[unused] = 0.0
    expected = gradients(adaln_gate_modulate, example, weights)[1]
    leaves = wanting(example)
    adaln_gate_modulate(**leaves)[1 - unused].double().sin().sum().backward()
    for name, gradient in zip(example, expected, strict=False):
        got = leaves[name].grad
        assert torch.equal(torch.zeros_like(gradient) if got is None else got, gradient), name


@OPS
def test_second_derivatives(op, definition):
    """A gradient penalty: the derivative of a gradient's norm, by the op and by the definition in float64."""
    found = []
    for function, kind in ((op, FULL), (definition, torch.float64)):
        e = {k: v.to(kind) if isinstance(v, torch.Tensor) else kind for k, v in draw(1, 3, 5).items()}
        leaves = wanting(taken(op, e))
        results = function(**leaves)
        results = (results,) if isinstance(results, torch.Tensor) else results
        tensors = [v for v in leaves.values() if isinstance(v, torch.Tensor)]
        first = torch.autograd.grad(sum(r.sin().sum() for r in results), tensors, create_graph=True)
        sum(g.square().sum() for g in first).backward()
        found.append([v.grad.double() for v in tensors])
    torch.testing.assert_close(*found, rtol=2e-4, atol=2e-5)


@OPS
@PAIRS
@needs_native
def test_compiles_whole(op, definition, residual, compute):
    example = draw(residual=residual, compute=compute)
    expected = gradients(op, example)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, example), expected)
    with torch.no_grad():
        results = compiled(**taken(op, example))
        torch.testing.assert_close([results] if isinstance(results, torch.Tensor) else [*results], expected[0])


@needs_native
def test_the_operators_are_proper_torch_operators():
    ops, e = torch.ops.gensys, draw(2, 9, 21, FULL, HALF)
    x, y, gate, shift, scale, _ = e.values()
    h, out, stats = torch.empty_like(x), torch.empty_like(y), torch.empty(2, 9, 2)
    dx, dy, sums = torch.empty_like(x), torch.empty_like(y), torch.empty_like(shift)
    for arguments in (
        (x, None, None, shift, scale, 1e-6, None, out, stats),
        (x, y, gate, None, None, 0.0, h, None, None),
        (x, y, gate, shift, scale, 1e-6, h, out, stats),
    ):
        torch.library.opcheck(ops.adaln.default, arguments)
    for arguments in (
        (None, y, x, None, None, scale, stats, dx, None, sums, sums.clone(), None),
        (x, None, None, y, gate, None, None, None, dy, None, None, sums),
        (x, y, x, y, gate, scale, stats, dx, dy, sums, sums.clone(), sums.clone()),
    ):
        torch.library.opcheck(ops.adaln_backward.default, arguments)


@needs_native
def test_a_direct_call_cannot_leave_its_memory():
    x, y, gate, shift, scale, _ = draw(2, 9, 21).values()
    h, out, stats = torch.empty_like(x), torch.empty_like(y), torch.empty(2, 9, 2)
    good = (x, y, gate, shift, scale, 1e-6, h, out, stats)
    names = ("x", "y", "gate", "shift", "scale", "eps", "h", "out", "stats")
    for i, name in enumerate(names):
        if name in ("x", "eps"):
            continue
        for bad in (good[i][1:], good[i].double(), good[i].transpose(0, 1)):
            with pytest.raises(RuntimeError, match=f"'{name}' must|float32 or bfloat16"):
                torch.ops.gensys.adaln(*good[:i], bad, *good[i + 1 :])
        with pytest.raises(RuntimeError, match="goes with"):
            torch.ops.gensys.adaln(*good[:i], None, *good[i + 1 :])
    with pytest.raises(RuntimeError, match=r"must be \(B, T, D\)"):
        torch.ops.gensys.adaln(x[0], *good[1:])
    with pytest.raises(RuntimeError, match="'y' or 'out' must be given"):
        torch.ops.gensys.adaln(x, None, None, None, None, 0.0, None, None, None)
    good = (x, y, x, y, gate, scale, stats, h, out, shift, shift.clone(), shift.clone())
    for i in range(1, len(good)):
        for bad in (good[i][1:], good[i].double(), good[i].transpose(0, 1), None):
            with pytest.raises(RuntimeError, match=r"must be|must have|goes with"):
                torch.ops.gensys.adaln_backward(*good[:i], bad, *good[i + 1 :])


def bad(message, **changes):
    return pytest.param(changes, message, id=message[:40])


V = torch.zeros(2, 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        bad(r"'x' must be \(B, T, D\), got \(70, 40\)", x=torch.zeros(70, 40)),
        bad(r"'y' must be like 'x', \(2, 70, 40\) on cpu, got \(2, 1, 40\)", y=torch.zeros(2, 1, 40)),
        bad("'y' must be like 'x'.* on meta", y=torch.zeros(2, 70, 40, device="meta")),
        bad("'y' must be torch.float32 as 'x' is, or narrower, got torch.float64", y=torch.zeros(2, 70, 40).double()),
        bad("'y' must be torch.float32 as 'x' is, or narrower, got torch.int64", y=torch.zeros(2, 70, 40).long()),
        bad("'dtype' must be torch.float32 as 'x' is, or narrower, got torch.float64", dtype=torch.float64),
        bad("'dtype' must be torch.float32 as 'x' is, or narrower, got torch.int32", dtype=torch.int32),
        bad(r"'gate' must be floating point \(2, 40\) on cpu.*got torch.float32 \(40,\)", gate=V[0]),
        bad(r"'shift' must be floating point \(2, 40\).*got torch.float32 \(2, 1, 40\)", shift=V[:, None]),
        bad("'scale' must be floating point.*got torch.int64", scale=V.long()),
        bad("'scale' must be floating point.*on meta", scale=V.to("meta")),
        bad(r"'out\[0\]' must be contiguous torch.float32", out=(V, torch.zeros(2, 70, 40))),
        bad(
            r"'out\[1\]' must be contiguous.*got torch.bfloat16",
            out=(torch.zeros(2, 70, 40), torch.zeros(2, 70, 40).bfloat16()),
        ),
        bad(r"'out\[1\]' must be contiguous.*strides", out=(torch.zeros(2, 70, 40), torch.zeros(2, 40, 70).mT)),
    ],
)
def test_bad_arguments(changes, message):
    for implementation in ("reference", "native") if native.extension else ("reference",):
        with force(implementation), pytest.raises(ValueError, match=message):
            adaln_gate_modulate(**{**draw(), **changes})


@needs_native
def test_forced_but_not_for_this_dtype():
    e = draw(residual=torch.float16, compute=torch.float16)
    with force("native"), pytest.raises(Unavailable, match="native takes float32, bfloat16, not float16"):
        adaln_gate(e["x"], e["y"], e["gate"])
