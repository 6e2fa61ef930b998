"""linear and linear_gelu: values and gradients against float64, autocast, compilation, bad arguments."""

import pytest
import torch
from torch.nn import functional as F

from gensys import native
from gensys.kernels.linear import examples, frozen, linear, linear_gelu, reference, reference_gelu

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
OPS = pytest.mark.parametrize(("op", "definition"), [(linear, reference), (linear_gelu, reference_gelu)])


@OPS
@pytest.mark.usefixtures("isa")
def test_values_and_gradients(op, definition, assert_agrees):
    for example in examples():
        assert_agrees(op, definition, example, bfloat16=2e-2)  # as F.linear and F.gelu themselves


@OPS
def test_other_dtypes_are_the_definition(op, definition):
    for dtype in (torch.float64, torch.float16):
        x, w = torch.randn(3, 4, dtype=dtype), torch.randn(5, 4, dtype=dtype)
        assert torch.equal(op(x, w), definition(x, w))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_and_its_slope_everywhere(dtype):
    """On a line through all magnitudes, by way of a product with the identity."""
    u = torch.cat([torch.linspace(-30, 30, 100_001), torch.tensor([1e4, -1e4, 1e30, -1e30, 0.0, -0.0])]).to(dtype)
    x = u[:, None].requires_grad_()
    y = linear_gelu(x, torch.ones(1, 1, dtype=dtype))
    y.sum().backward()
    exact = u.double().requires_grad_()
    expected = F.gelu(exact, approximate="tanh")
    expected.sum().backward()
    (slope,) = torch.autograd.grad(F.gelu(exact, approximate="tanh").sum(), exact)
    slope = torch.where(exact.abs() > 100, (exact > 0).double(), slope)  # at 1e30 the definition overflows to NaN
    tolerance = 4e-3 if dtype == torch.bfloat16 else 3e-7
    torch.testing.assert_close(y[:, 0].double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad[:, 0].double(), slope, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("isa")
def test_nan_and_infinity_propagate():
    x = torch.tensor([[float("nan")], [float("inf")], [1.0]])
    y = linear_gelu(x, torch.ones(1, 1))
    assert y[0].isnan()
    assert y[1] == float("inf")
    assert y[2].isfinite()
    x.requires_grad_()
    linear_gelu(x, torch.ones(1, 1)).sum().backward()
    assert x.grad[0].isnan()


@needs_native
@OPS
def test_autocast(op, definition):
    x, w, b = torch.randn(2, 9, 16), torch.randn(8, 16), torch.randn(8)
    gradients = []
    for function in (op, definition):
        leaf = w.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x, leaf, b)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        gradients.append(leaf.grad)
    assert gradients[0].dtype == torch.float32
    assert (gradients[0] - gradients[1]).abs().max() < 2e-2 * gradients[1].abs().max()


@needs_native
def test_frozen_weights_are_cast_once():
    x, w = torch.randn(3, 4), torch.nn.Parameter(torch.randn(5, 4))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with frozen():
            expected = linear(x, w)
            w.mul_(2)  # the promise is broken: the old cast is used, which shows that it was kept
            assert torch.equal(linear(x, w), expected)
        assert not torch.equal(linear(x, w), expected)
    with frozen(), torch.autocast("cpu", torch.bfloat16):
        linear(x, w).float().sum().backward()
    assert w.grad is not None


@needs_native
@OPS
def test_compiles_whole(op, definition):
    def loss(x, w, b):
        return op(x, w, b).square().sum()

    example = next(examples())
    leaves = [[x.clone().requires_grad_() for x in example.values()] for _ in range(2)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled(*leaves[0]).backward()
    loss(*leaves[1]).backward()
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@needs_native
def test_the_operators_are_proper_torch_operators():
    x = torch.randn(3, 5)
    torch.library.opcheck(torch.ops.gensys.gelu.default, (torch.empty(3, 5), x))
    torch.library.opcheck(torch.ops.gensys.gelu_backward.default, (torch.empty(3, 5), x, x))
    for bad in (torch.empty(4), torch.empty(3, 5).bfloat16(), torch.empty(5, 3).t()):
        with pytest.raises(RuntimeError, match="'out' must"):
            torch.ops.gensys.gelu(bad, x)


@needs_native
@OPS
def test_threads_do_not_matter(op, definition):
    threads, results = torch.get_num_threads(), []
    generator = torch.Generator().manual_seed(1)
    x, w = torch.randn(600, 64, generator=generator), torch.randn(96, 64, generator=generator).requires_grad_()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            w.grad = None
            y = op(x, w)
            y.square().sum().backward()
            results.append((y.detach(), w.grad))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-3)  # a library's sums: close, not equal


X, WEIGHT = torch.zeros(3, 4), torch.zeros(5, 4)


@OPS
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, WEIGHT.t()), r"'x' must be \(\*, K\) and 'weight' \(N, K\).*got \(3, 4\) and \(4, 5\)"),
        ((torch.tensor(1.0), WEIGHT), "'x' must be"),
        ((X, torch.zeros(4)), "'x' must be"),
        ((X, WEIGHT, torch.zeros(4)), r"'bias' must be \(5,\), as 'weight' has rows, got \(4,\)"),
        ((X, WEIGHT.double()), "'weight' must be torch.float32 on cpu as 'x' is, got torch.float64"),
        ((X, WEIGHT, torch.zeros(5, device="meta")), "'bias' must be .* got torch.float32 on meta"),
    ],
)
def test_bad_arguments(op, definition, arguments, message):
    with pytest.raises(ValueError, match=message):
        op(*arguments)


@needs_native
@OPS
def test_second_derivatives(op, definition):
    def penalty(function, dtype):
        generator = torch.Generator().manual_seed(3)
        x, w, b = (torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in ((7, 4), (5, 4), (5,)))
        (dx,) = torch.autograd.grad(function(x, w, b).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), (x, w, b))

    for got, expected in zip(penalty(op, torch.float32), penalty(definition, torch.float64), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


@OPS
def test_autocast_leaves_float64_alone(op, definition):
    x, w = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(op(x, w), definition(x, w))
        assert op(x, w).dtype == torch.float64


def test_the_gradient_of_a_sum_which_is_one_number_everywhere():
    x, w = torch.randn(200, 17, requires_grad=True), torch.randn(33, 17, requires_grad=True)
    linear(x, w).sum().backward()
    torch.testing.assert_close(x.grad, w.detach().sum(0).expand(200, 17))
    torch.testing.assert_close(w.grad, x.detach().sum(0).expand(33, 17), atol=1e-4, rtol=1e-5)


def test_frozen_casts_a_parameter_once_for_each_dtype_and_never_what_is_made_anew():
    x, weight = torch.randn(3, 4), torch.nn.Parameter(torch.randn(5, 4), requires_grad=False)
    with torch.no_grad(), frozen():
        for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                assert torch.equal(linear(x, weight), F.linear(x, weight))
        with torch.autocast("cpu", torch.bfloat16):
            for _ in range(3):
                made = weight * 2.0
                assert torch.equal(linear(x, made), F.linear(x, made))


def test_bfloat16_is_left_to_torch_where_onednn_has_none(monkeypatch):
    from gensys.kernels import dispatch

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    dispatch._choose.cache_clear()
    try:
        implementation, why = dispatch.choose("linear", "cpu", torch.bfloat16)
        assert (implementation, "oneDNN multiplies no bfloat16" in why) == ("reference", True)
        assert dispatch.choose("adaln", "cpu", torch.bfloat16).implementation != "reference" or native.extension is None
    finally:
        monkeypatch.undo()
        dispatch._choose.cache_clear()
