"""Dormand-Prince: its order, its error against its tolerance, rows that know nothing of each other, another library."""

import math

import pytest
import torch
from gaussian import exact, flow, no_noise

from gensys.paths import EDM, Linear
from gensys.solvers.dopri5 import _A, _C, _ERROR, dopri5, integrate


def spiral(x, t):
    """A nonautonomous, nonlinear field, elementwise in rows."""
    a, b = x.unbind(1)
    r = 1.0 - a * a - b * b
    return torch.stack([r * a - (1 + t) * b, r * b + (1 + t) * a], 1)


START = torch.tensor([[2.0, 0.0], [0.1, -0.1], [-1.0, 3.0], [0.0, 1.0], [20.0, 20.0]], dtype=torch.float64)


def solved(x, t):
    """In polar coordinates: r' = r (1 - r^2), and the angle grows by t + t^2 / 2."""
    r0, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0]) + t + t * t / 2
    r = 1 / (1 + (r0**-2 - 1) * math.exp(-2 * t)).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin()], 1)


def test_the_coefficients_satisfy_the_conditions_of_order_5():
    """Those of quadrature, sum b c^k = 1 / (k + 1), of both formulae, and the row sums."""
    c = (0.0, *_C[:-1])
    for row, at in zip(_A, _C, strict=True):
        assert sum(row) == pytest.approx(at, abs=1e-15)
    b = _A[-1]
    for k in range(5):
        assert sum(w * at**k for w, at in zip(b, c, strict=True)) == pytest.approx(1 / (k + 1), abs=1e-14)
    fourth = [w - e for w, e in zip((*b, 0.0), _ERROR, strict=True)]
    for k in range(4):
        assert sum(w * at**k for w, at in zip(fourth, (*c, 1.0), strict=True)) == pytest.approx(1 / (k + 1), abs=1e-14)


def test_order_5():
    """Steps that are all accepted and may not grow: a huge tolerance, and one step at a time."""
    x = START[[1, 3]]

    def error(n):
        y = x
        for k in range(n):
            y = integrate(spiral, y, k / n, (k + 1) / n, rtol=0, atol=1e9, first=1 / n).x
        return float((y - solved(x, 1.0)).abs().max())

    errors = [error(n) for n in (40, 80, 160)]
    assert [math.log2(errors[k] / errors[k + 1]) for k in range(2)] == pytest.approx([5, 5], abs=0.45)


def test_the_error_is_proportional_to_the_tolerance():
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8, 1e-10):
        got = integrate(spiral, START, 0.0, 2.0, rtol=tolerance, atol=tolerance).x
        errors.append(float((got - solved(START, 2.0)).abs().max()))
        assert errors[-1] < 10 * tolerance
    ratios = [errors[k] / errors[k + 1] for k in range(3)]
    assert all(20 < r < 500 for r in ratios), ratios


def test_backwards_is_the_way_back():
    there = integrate(spiral, START, 0.0, 1.0, rtol=1e-11, atol=1e-11).x
    back = integrate(spiral, there, 1.0, 0.0, rtol=1e-11, atol=1e-11).x
    torch.testing.assert_close(back, START, rtol=1e-6, atol=1e-8)  # r' pulls rows together: errors grow on the way back


def test_a_row_depends_on_itself_alone():
    whole = integrate(spiral, START, 0.0, 2.0)
    for k in range(len(START)):
        alone = integrate(spiral, START[k : k + 1], 0.0, 2.0)
        for one, all_ in zip(alone, whole, strict=True):
            assert torch.equal(one[0], all_[k])
    assert len(set(whole.steps.tolist())) > 1, "rows take steps of their own"


def test_evaluations_are_counted_and_finished_rows_cost_none():
    called = []

    def f(x, t, rates):
        called.append(len(x))
        assert x.shape[0] == t.shape[0] == rates.shape[0]
        return -rates[:, None] * x

    rates = torch.tensor([0.0, 1.0, 300.0], dtype=torch.float64)
    got = integrate(f, torch.ones(3, 4, dtype=torch.float64), 0.0, 1.0, given=(rates,))
    torch.testing.assert_close(got.x, torch.exp(-rates)[:, None].expand(3, 4), rtol=0, atol=1e-4)
    assert sum(called) == int(got.evaluations.sum())
    assert len(called) == int(got.evaluations.max())
    assert got.evaluations.tolist() == (2 + 6 * (got.steps + got.rejected)).tolist()
    assert int(got.steps[2]) > 2 * int(got.steps[1])


def test_gradients_are_those_of_the_solution():
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    got = integrate(lambda y, t: -rate * y, x, 0.0, 2.0, rtol=1e-10, atol=1e-10)
    by_x, by_rate = torch.autograd.grad(got.x.sum(), [x, rate])
    torch.testing.assert_close(by_x, torch.full_like(x, math.exp(-1.4)), rtol=1e-8, atol=0)
    assert float(by_rate) == pytest.approx(-2.0 * 3.0 * math.exp(-1.4), rel=1e-8)


def test_nothing_to_do():
    assert torch.equal(integrate(spiral, START, 1.0, 1.0).x, START)
    assert integrate(spiral, START[:0], 0.0, 1.0).x.shape == (0, 2)
    assert torch.equal(integrate(lambda x, t: 0 * x, START, 0.0, 1.0).x, START)


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (lambda x, t: x * x, {}, r"the step size underflows, .*in 1 of 1 rows, the first of them row 1 at t = 0.5"),
        (lambda x, t: x / 0, {}, "the step size underflows, at nan, in 2 of 2 rows"),
        (lambda x, t: torch.where(t[:, None] > 0.3, torch.nan, x), {}, "underflows.*row . at t = 0.3"),
        (lambda x, t: torch.cos(3000 * t)[:, None] * x, {"limit": 300}, "more than 'limit' = 300 evaluations"),
    ],
    ids=["blows up", "infinite", "nan", "limit"],
)
def test_failure_is_told(f, options, message):
    with pytest.raises(ArithmeticError, match=f"dopri5: .*{message}"):
        integrate(f, torch.tensor([[0.1], [2.0]], dtype=torch.float64), 0.0, 1.0, **options)


def test_bad_arguments():
    with pytest.raises(ValueError, match="'rtol' and 'atol' must be 0 or more, one of them positive"):
        integrate(spiral, START, 0.0, 1.0, rtol=0.0, atol=0.0)
    with pytest.raises(ValueError, match=r"'x' must be floating point, got torch\.int64"):
        integrate(spiral, START.long(), 0.0, 1.0)
    with pytest.raises(ValueError, match="'steps' must be 2 or more: the last step of the grid is Euler's"):
        dopri5(lambda x, t: exact(Linear(), x, t), Linear(), START, [1.0, 0.0], no_noise)


@pytest.mark.parametrize("path", [Linear(), EDM()], ids=repr)
def test_as_a_solver_it_follows_the_flow(path):
    high = path.span[1]
    x = high * torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    times = [high, 1e-4 * high, 0.0]
    got = dopri5(lambda y, t: exact(path, y, t), path, x, times, no_noise, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got, flow(path, x, high, 0.0), rtol=0, atol=2e-4 if high > 1 else 1e-6)
    short = dopri5(lambda y, t: exact(path, y, t), path, x, [high, 0.1 * high], no_noise, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(short, flow(path, x, high, 0.1 * high), rtol=0, atol=1e-7)


def test_torchdiffeq_solves_the_same():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    for row in START:
        options = {"rtol": 1e-9, "atol": 1e-9}
        theirs = torchdiffeq.odeint(
            lambda t, y: spiral(y, t),
            row[None],
            torch.tensor([0.0, 2.0], dtype=torch.float64),
            method="dopri5",
            **options,
        )[-1]
        ours = integrate(spiral, row[None], 0.0, 2.0, **options)
        torch.testing.assert_close(ours.x, theirs, rtol=0, atol=1e-8)
        torch.testing.assert_close(ours.x, solved(row[None], 2.0), rtol=0, atol=1e-8)
