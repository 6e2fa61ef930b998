"""affine_coupling: values, gradients and log-determinants against float64, on every instruction set."""

import numpy as np
import pytest
import torch

from gensys import native
from gensys.kernels.affine_coupling import affine_coupling, examples, reference
from gensys.kernels.dispatch import force

needs_native = pytest.mark.skipif(native.extension is None, reason=f"no compiled kernels: {native.why_missing}")
DIRECTIONS = pytest.mark.parametrize("inverse", [False, True])


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype).unbind()


@pytest.mark.usefixtures("isa")
def test_values_and_gradients(assert_agrees):
    for example in examples():
        assert_agrees(affine_coupling, reference, example)


@DIRECTIONS
def test_the_definition_is_a_map_with_that_determinant(inverse):
    x, s, t = draw(2, 3, 2, dtype=torch.float64)
    y, logdet = affine_coupling(x, s, t, bound=1.3, inverse=inverse)
    for row in range(2):

        def of_row(v, row=row):
            return affine_coupling(v[None], s[row, None], t[row, None], bound=1.3, inverse=inverse)[0][0]

        jacobian = torch.autograd.functional.jacobian(of_row, x[row]).view(6, 6)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], logdet[row])
    back, undone = affine_coupling(y, s, t, bound=1.3, inverse=not inverse)
    torch.testing.assert_close(back, x)
    assert torch.equal(undone, -logdet)


@pytest.mark.usefixtures("isa")
def test_there_and_back():
    for shape in ((65, 32), (3, 12288)):
        x, s, t = draw(*shape)
        y, logdet = affine_coupling(x, 3 * s, t)
        back, undone = affine_coupling(y, 3 * s, t, inverse=True)
        assert torch.equal(undone, -logdet)
        # y was rounded, to 6e-8 of x exp(log_scale) + t; on the way back that is divided by exp(log_scale) > exp(-2)
        assert ((back - x).abs() / (x.abs() + 7.4 * t.abs())).max() < 5e-7
        assert (back - x).norm() / x.norm() < 4e-7


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_determinants_cancel_exactly(dtype):
    for shape in ((7, 1), (33, 31), (5, 4099), (2, 3, 64, 64)):
        x, s, t = draw(*shape, dtype=dtype)
        forward, inverse = (affine_coupling(x, s, t, inverse=inverse)[1] for inverse in (False, True))
        assert torch.equal(forward, -inverse)
        _, with_graph = affine_coupling(x.requires_grad_(), s, t)
        assert torch.equal(with_graph, forward)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_log_determinants_of_long_rows(spread):
    """Equal numbers are the worst case: all roundings of a running sum go the same way."""
    s = 0.3 + spread * torch.rand(16, 12288, generator=torch.Generator().manual_seed(0)) + torch.arange(16)[:, None] / 7
    _, logdet = affine_coupling(s, s, s)
    exact = (2 * torch.tanh(s.double() / 2)).sum(1)
    assert (logdet.double() / exact - 1).abs().max() < 1e-6


def ulps(got, exact):
    """How far float32 numbers are from exact ones, in units of the last place of the latter."""
    return np.abs(got.double().numpy() - exact) / np.spacing(np.abs(exact).astype(np.float32))


def every(step):
    """Every step-th float32 number: all exponents, both signs, subnormals, infinities and NaNs."""
    return torch.from_numpy(np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32).copy())


@pytest.mark.usefixtures("isa")
def test_tanh_over_all_float32_numbers():
    s = torch.cat([every(4999), torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    _, tanh = affine_coupling(torch.ones_like(s), s, s, bound=1.0)  # rows of one number: logdet is tanh s
    assert torch.equal(tanh.isnan(), s.isnan())
    finite = ~s.isnan()
    assert ulps(tanh[finite], np.tanh(s[finite].double().numpy())).max() < 2.6
    assert tanh[finite].abs().max() == 1
    _, mirrored = affine_coupling(torch.ones_like(s), -s, s, bound=1.0)
    assert torch.equal(mirrored[finite], -tanh[finite])


@pytest.mark.usefixtures("isa")
def test_exp_over_all_float32_numbers():
    s = torch.cat([every(4999), torch.linspace(-300, 300, 500_001)])
    for bound in (100.0, 1e30):
        y, log_scale = affine_coupling(torch.ones_like(s), s, torch.zeros_like(s), bound=bound)
        assert torch.equal(y.isnan(), s.isnan())
        log_scale, y = log_scale[~s.isnan()].double().numpy(), y[~s.isnan()]
        with np.errstate(over="ignore", under="ignore"):
            exact = np.exp(log_scale)
            infinite = np.isinf(exact.astype(np.float32))
        assert np.array_equal(np.isinf(y.numpy()), infinite)
        assert ulps(y[~infinite], exact[~infinite]).max() < 1.3  # below 2^-126 too


@pytest.mark.usefixtures("isa")
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_and_missing_numbers(inverse, dtype):
    nan, inf = torch.nan, torch.inf
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0], [nan, 1.0, 2.0, 3.0], [inf, 1.0, 1.0, 1.0], [1.0] * 4], dtype=dtype)
    s = torch.tensor([[1e4, -1e4, inf, -inf], [0.0] * 4, [0.0] * 4, [nan, 0.0, 0.0, 0.0]], dtype=dtype)
    x, s = x.repeat(1, 10), s.repeat(1, 10)
    results = affine_coupling(x, s, torch.zeros_like(x), inverse=inverse)
    for got, expected in zip(results, reference(x, s, torch.zeros_like(x), inverse=inverse), strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)
    assert results[1][:3].eq(0).all()
    assert results[1][3].isnan()
    assert results[0].isnan().sum() == 20


@pytest.mark.usefixtures("isa")
@DIRECTIONS
def test_rows_that_lie_apart_give_the_same_bits(inverse):
    (parameters, x, _) = draw(5, 6, 4, 9)
    s, t = parameters.chunk(2, dim=1)
    x = x[:, ::2][:, 1:, ::2]  # its axes in strides: this one is copied
    s, t = s[:, :2, :2], t[:, :2, 2:]
    results = affine_coupling(x, s, t, inverse=inverse)
    expected = affine_coupling(x.contiguous(), s.contiguous(), t.contiguous(), inverse=inverse)
    assert torch.equal(results[0], expected[0])
    assert torch.equal(results[1], expected[1])


@pytest.mark.usefixtures("isa")
@DIRECTIONS
def test_out(inverse):
    for n in (7, 32, 300):
        x, s, t = draw(6, n)
        y, logdet = affine_coupling(x, s, t, inverse=inverse)
        for place in range(3):
            arguments = [x.clone(), s.clone(), t.clone()]
            out = arguments[place]
            got, same = affine_coupling(*arguments, inverse=inverse, out=out)
            assert got is out
            assert torch.equal(got, y)
            assert torch.equal(same, logdet)
        wide = torch.full((6, 2 * n), 7.0)
        affine_coupling(x, s, t, inverse=inverse, out=wide[:, n:])
        assert torch.equal(wide[:, n:], y)
        assert (wide[:, :n] == 7).all()


def run(rows, inverse):
    """The results and the gradients of three tensors of such rows."""
    leaves = [a.detach().requires_grad_() for a in rows]
    y, logdet = affine_coupling(*leaves, inverse=inverse)
    return y, logdet, *torch.autograd.grad((y, logdet), leaves, (torch.ones_like(y), torch.ones_like(logdet)))


def check_large(rows, inverse):
    x = torch.linspace(-4, 4, rows * 65536).view(rows, 65536)
    tensors = (x, x.flip(0), x.flip(1))
    pieces = [run(few, inverse) for few in zip(*(a.split(22) for a in tensors), strict=True)]
    for whole, parts in zip(run(tensors, inverse), zip(*pieces, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


@pytest.mark.usefixtures("isa")
@DIRECTIONS
def test_results_written_past_the_caches_have_the_same_bits(inverse):
    check_large(66, inverse)  # 17 MB


@needs_native
def test_results_on_large_pages_have_the_same_bits():
    check_large(132, False)  # 34 MB


@needs_native
@DIRECTIONS
def test_threads_do_not_matter(inverse):
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaves = [a.requires_grad_() for a in draw(37, 5000)]
            y, logdet = affine_coupling(*leaves, inverse=inverse)
            (y.sum() + logdet.square().sum()).backward()
            results.append([y, logdet, *(a.grad for a in leaves)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@needs_native
@DIRECTIONS
@pytest.mark.parametrize("used", [0, 1])
def test_one_result_may_be_unused(inverse, used):
    gradients = []
    for function in (affine_coupling, reference):
        leaves = [a.requires_grad_() for a in draw(3, 5)]
        result = function(*leaves, inverse=inverse)[used]
        gradients.append(torch.autograd.grad(result.square().sum(), leaves, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*gradients)


@needs_native
@DIRECTIONS
def test_second_derivatives(inverse):
    def penalty(function, dtype):
        leaves = [a.to(dtype).requires_grad_() for a in draw(4, 6)]
        y, logdet = function(*leaves, inverse=inverse)
        gradients = torch.autograd.grad(y.pow(3).sum() + logdet.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)

    for got, expected in zip(penalty(affine_coupling, torch.float32), penalty(reference, torch.float64), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)


def test_other_dtypes_are_the_definition():
    for dtype in (torch.float64, torch.float16):
        x, s, t = draw(3, 4, dtype=dtype)
        y, logdet = affine_coupling(x, s, t)
        assert torch.equal(y, reference(x, s, t)[0])
        assert y.dtype == dtype
        assert logdet.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@needs_native
@DIRECTIONS
def test_compiles_whole(inverse):
    def loss(x, s, t):
        y, logdet = affine_coupling(x, s, t, bound=1.5, inverse=inverse)
        return y.square().sum() - logdet.sum()

    leaves = [[a.requires_grad_() for a in draw(6, 10)] for _ in range(2)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves[0]), loss(*leaves[1]))
    for function, arguments in zip((compiled, loss), leaves, strict=True):
        function(*arguments).backward()
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*leaves[0]), loss(*leaves[1]))


@needs_native
@DIRECTIONS
def test_the_operators_are_proper_torch_operators(inverse):
    x, s, t = draw(3, 5)
    numbers, ops = torch.empty(3), torch.ops.gensys
    torch.library.opcheck(ops.affine_coupling.default, (torch.empty(3, 5), numbers, x, s, t, 2.0, inverse))
    dx, ds, dt = torch.empty(3, 3, 5).unbind()
    arguments = (dx, ds, dt if inverse else None, x, torch.zeros(3), s, t, 2.0, inverse)
    torch.library.opcheck(ops.affine_coupling_backward.default, arguments)


@needs_native
def test_a_direct_call_cannot_leave_its_memory():
    x, numbers, ops = torch.zeros(3, 4), torch.zeros(3), torch.ops.gensys
    for bad in (x[:2], x[:, :3], torch.zeros(4, 3).t(), x.double(), x.bfloat16(), torch.zeros(12)):
        with pytest.raises(RuntimeError, match="'x' must be a CPU tensor of the shape and dtype of 's'"):
            ops.affine_coupling(x, numbers, bad, x, x, 2.0, False)
    with pytest.raises(RuntimeError, match="'y' must be a CPU tensor of the shape and dtype of 's'"):
        ops.affine_coupling(x[:2], numbers, x, x, x, 2.0, False)
    with pytest.raises(RuntimeError, match="'s' must have a dimension of rows and be float32 or bfloat16"):
        ops.affine_coupling(x, numbers, x, x.double(), x, 2.0, False)
    for bad in (torch.zeros(2), torch.zeros(3, 1), torch.zeros(3).double()):
        with pytest.raises(RuntimeError, match="'logdet' must be"):
            ops.affine_coupling(x, bad, x, x, x, 2.0, False)
        with pytest.raises(RuntimeError, match="'dlogdet' must be"):
            ops.affine_coupling_backward(x, x, None, x, bad, x, x, 2.0, False)
    for dt, inverse in ((x, False), (None, True)):
        with pytest.raises(RuntimeError, match="'dt' must be given for the inverse"):
            ops.affine_coupling_backward(x, x, dt, x, numbers, x, x, 2.0, inverse)


X, STORE = torch.zeros(3, 4), torch.zeros(20)


def bad(message, **changes):
    return pytest.param({"x": X, "s": X, "t": X, **changes}, message, id=message[:40])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        bad(r"'x' must be \(B, \*S\), floating point, got \(\) torch.float32", x=torch.tensor(1.0)),
        bad(r"'x' must be .*got \(3, 4\) torch.int64", x=X.long()),
        bad(r"'s' must be like 'x', \(3, 4\) torch.float32 on cpu, got \(3, 5\)", s=torch.zeros(3, 5)),
        bad(r"'s' must be like 'x', .*got .*bfloat16", s=X.bfloat16()),
        bad(r"'t' must be like 'x', .*on meta", t=X.to("meta")),
        bad(r"'out' must be like 'x', .*got \(4, 3\)", out=torch.zeros(4, 3)),
        bad(r"'bound' must lie in \[1e-30, 1e30\], got 0.0", bound=0.0),
        bad(r"'bound' must lie in .* got -2.0", bound=-2.0),
        bad(r"'bound' must lie in .* got nan", bound=float("nan")),
        bad("'out' cannot be given where a gradient is wanted", out=X.clone(), s=X.clone().requires_grad_()),
        bad(r"'out' must have rows of numbers that follow .*strides \(1, 3\)", out=torch.zeros(4, 3).t()),
        bad(r"'out' must have rows .*strides \(0, 1\)", out=torch.zeros(1, 4).expand(3, 4)),
        bad("'out' overlaps 't' in part", t=STORE[1:13].view(3, 4), out=STORE[:12].view(3, 4)),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        affine_coupling(**arguments)
    with force("reference"), pytest.raises(ValueError, match=message):
        affine_coupling(**arguments)
