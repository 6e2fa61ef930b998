"""The Frechet distance against its closed forms, its axioms and the textbook formula."""

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensys.evaluate import frechet as module
from gensys.evaluate.frechet import Moments, frechet, frechet_distance


def rows(n, d, seed=0, scale=1.0):
    """n rows with correlated columns, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix


def gaussian(mean, covariance):
    """Moments whose unbiased covariance is exactly `covariance`."""
    return Moments(101, torch.as_tensor(mean, dtype=torch.float64), 100.0 * covariance)


@pytest.mark.parametrize(("n", "d"), [(200, 5), (200, 64), (20, 64), (2, 64), (1000, 1)])
def test_of_a_set_from_itself_is_zero_at_any_rank(n, d):
    x = rows(n, d)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(300, 16), (10, 64)])
def test_of_a_shift_is_its_squared_length(n, d):
    x, c = rows(n, d), torch.linspace(-2.0, 3.0, d, dtype=torch.float64)
    assert frechet_distance(x + c, x) == pytest.approx(float(c.square().sum()), rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(300, 16), (10, 64)])
def test_of_a_scaling_about_the_mean_is_closed(n, d):
    x = rows(n, d)
    x = x - x.mean(0)  # then only covariances differ: (s - 1)^2 tr A
    trace = float(x.T.cov().trace())
    assert frechet_distance(1.7 * x, x) == pytest.approx(0.49 * trace, rel=1e-10)


def test_of_diagonal_gaussians_is_closed():
    a, b = torch.tensor([1.0, 4.0, 0.0, 9.0]).double(), torch.tensor([4.0, 1.0, 5.0, 0.0]).double()
    got = frechet(gaussian([0.0] * 4, a.diag()), gaussian([1.0, 0.0, 0.0, 2.0], b.diag()))
    assert got == pytest.approx(5.0 + float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)


def test_is_unchanged_by_a_rotation_and_symmetric():
    x, y = rows(300, 12, 1), rows(200, 12, 2) + 0.3
    turn = torch.linalg.qr(rows(12, 12, 3)).Q
    there = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(there, rel=1e-12)
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(there, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("d", [1, 3, 40])
def test_equals_the_formula_with_scipys_matrix_root(d, seed):
    x, y = rows(500, d, seed), rows(400, d, seed + 100, 1.5) + 0.2
    a, b = (torch.atleast_2d(z.T.cov()).numpy() for z in (x, y))
    root = scipy.linalg.sqrtm(a @ b).real
    wanted = float((x.mean(0) - y.mean(0)).square().sum()) + (a + b - 2.0 * root).trace()
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-9)


def test_a_rank_deficient_pair_equals_the_limit_of_full_rank_ones():
    x, y = rows(10, 30, 1), rows(12, 30, 2)
    near = []
    for ridge in (1e-8, 1e-10):
        eye = ridge * torch.eye(30).double()
        a, b = Moments.of(x), Moments.of(y)
        near.append(frechet(gaussian(a.mean, a.covariance() + eye), gaussian(b.mean, b.covariance() + eye)))
    # The limit is approached as the root of the ridge.
    exact = frechet_distance(x, y)
    assert abs(near[1] - exact) < abs(near[0] - exact) / 5
    assert near[1] == pytest.approx(exact, rel=1e-3)


def test_equal_rows_have_rank_zero_and_a_distance():
    x, y = torch.ones(5, 3).double(), rows(50, 3)
    y = y - y.mean(0)
    assert frechet_distance(x, y) == pytest.approx(3.0 + float(y.T.cov().trace()), rel=1e-12)


def test_moments_survive_a_large_mean():
    x = rows(1000, 8)
    far = Moments.of(x + 1e6)  # a sum of squares would keep 4 digits here
    assert torch.allclose(far.covariance(), x.T.cov(), rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    d=st.integers(1, 6),
    offset=st.floats(-100, 100),
    seed=st.integers(0, 1000),
)
def test_merged_parts_are_the_whole(sizes, d, offset, seed):
    x = rows(sum(sizes), d, seed) + offset
    parts, whole = Moments.fold(Moments.of(part) for part in x.split(sizes)), Moments.of(x)
    assert parts.n == whole.n == len(x)
    torch.testing.assert_close(parts.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    if whole.n > 1:
        torch.testing.assert_close(parts.covariance(), x.T.cov().reshape(d, d), rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing_but_rounding(monkeypatch):
    x, y = rows(1000, 8, 1), rows(1000, 8, 2)
    whole = frechet_distance(x, y)
    monkeypatch.setattr(module, "_CHUNK", 7)
    assert frechet_distance(x, y) == pytest.approx(whole, rel=1e-10)
    assert frechet_distance(x, y) == frechet_distance(x.clone(), y.clone())


@pytest.mark.parametrize(
    ("samples", "reference", "match"),
    [
        (torch.zeros(0, 3), torch.zeros(5, 3), "'samples' needs at least 2 rows for a covariance, got 0"),
        (torch.zeros(1, 3), torch.zeros(5, 3), "'samples' needs at least 2 rows for a covariance, got 1"),
        (torch.zeros(5, 3), torch.zeros(1, 3), "'reference' needs at least 2 rows"),
        (torch.zeros(5, 3), torch.zeros(5, 4), "'reference' must have 3 columns"),
        (torch.zeros(5, 3, 1), torch.zeros(5, 3), "'samples' must be a floating-point tensor"),
        (torch.zeros(5, 3).long(), torch.zeros(5, 3), "'samples' must be a floating-point tensor"),
        (torch.tensor([[0.0], [float("nan")]]), torch.zeros(5, 1), "'samples' must be finite.* 1 of 2 rows"),
        (torch.zeros(5, 1), torch.tensor([[0.0], [float("inf")]]), "'reference' must be finite"),
    ],
)
def test_errors_name_the_argument(samples, reference, match):
    with pytest.raises(ValueError, match=match):
        frechet_distance(samples, reference)


def test_moments_say_what_they_lack():
    one, two = Moments.of(torch.zeros(1, 3)), Moments.of(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="'n' must be at least 2"):
        one.covariance()
    with pytest.raises(ValueError, match="'other' must have 3 features, got 2"):
        one.merge(two)
    with pytest.raises(ValueError, match="'b' must have 2 features"):
        frechet(two, one)
    with pytest.raises(ValueError, match="'parts' must hold at least one"):
        Moments.fold([])


def test_parts_are_merged_along_a_tree():
    """((a + b) + (c + d)) + e; another order gives the same to rounding only."""
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3.0 + 1e3
    a, b, c, d, e = parts = [Moments.of(part) for part in x.split([9, 11, 10, 3, 17])]
    tree, line = a.merge(b).merge(c.merge(d)).merge(e), a.merge(b).merge(c).merge(d).merge(e)
    folded = Moments.fold(iter(parts))
    assert torch.equal(folded.scatter, tree.scatter)
    assert torch.equal(folded.mean, tree.mean)
    assert not torch.equal(folded.scatter, line.scatter)
    torch.testing.assert_close(folded.scatter, line.scatter, rtol=1e-11, atol=1e-11)
    assert torch.equal(Moments.fold([a]).scatter, a.scatter)


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 3), (500, 450, 64), (900, 700, 200)])
def test_equals_torch_fidelity(fidelity, n, m, d):
    fid = fidelity("metric_fid")
    x, y = rows(n, d, 1), rows(m, d, 2, 1.3) + 0.1
    theirs = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(z) for z in (x, y)), verbose=False)
    assert frechet_distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)
