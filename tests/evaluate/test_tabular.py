"""Scores of tables: closed forms first, then scipy and sdmetrics, then real tables that get worse, or are copied."""

import itertools
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm, pearsonr, spearmanr
from scipy.stats.contingency import association

from gensys.columns import Column
from gensys.evaluate.metric import area_interval
from gensys.evaluate.tabular import dependence, marginals, privacy, utility
from gensys.evaluate.tabular.rows import features
from gensys.evaluate.tabular.table import evaluate_table

N = 20_000
NUMBER, KIND = Column("x"), Column("kind", ("a", "b", "c"))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def mixed(seed, n=N):
    """Two numbers and two categories that go together: (n, 4)."""
    z = normal(seed, n)
    size = np.digitize(z, [-0.5, 0.8])
    return np.stack([3 * z + 1, z**2 + normal(seed + 1, n), size, (z + normal(seed + 2, n) > 0)], 1).astype(float)


MIXED = (Column("a"), Column("b"), KIND, Column("yes", ("no", "yes")))


# ------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_a_shift_of_a_normal(shift):
    """KS = 2 Phi(shift / 2) - 1 and W_1 = shift; 1.63 of sqrt(2 / n) is passed once in a hundred."""
    samples, real = normal(0, N) + shift, normal(1, N)
    bound = 1.63 * math.sqrt(2 / N)
    assert 1 - marginals.ks_complement(samples, real) == pytest.approx(2 * norm.cdf(shift / 2) - 1, abs=bound)
    assert marginals.wasserstein(samples, real) == pytest.approx(shift, abs=4 * math.sqrt(2 / N))
    assert marginals.wasserstein(7 * samples, 7 * real) == pytest.approx(marginals.wasserstein(samples, real))


def test_shares_by_hand():
    samples, real = np.array([0, 0, 1, 2.0]), np.array([0, 1, 1, 1.0])
    assert marginals.tv_complement(samples, real, 4) == 0.5
    assert marginals.tv_complement(real, samples, 4) == 0.5
    assert marginals.tv_complement(real, real, 4) == 1.0


def test_what_is_told_of_a_column():
    samples, real = normal(0, N, 1) + 1, normal(1, N, 1)
    (told,) = marginals.described(samples, real, [NUMBER])
    for level, found in told["quantiles"].items():
        assert found["real"] == pytest.approx(norm.ppf(float(level)), abs=0.06)
        assert found["samples"] == pytest.approx(norm.ppf(float(level)) + 1, abs=0.06)
    (told,) = marginals.described(np.array([[0.0], [2.0]]), np.array([[1.0], [2.0]]), [KIND])
    assert told["shares"] == {
        "a": {"samples": 0.5, "real": 0.0},
        "b": {"samples": 0.0, "real": 0.5},
        "c": {"samples": 0.5, "real": 0.5},
    }
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_pair_by_hand():
    """Bins are those of the real numbers, and what lies beyond them is in the outermost."""
    real, new = np.linspace(0, 10, 11), np.array([-5, 0.9, 1, 9.1, 50])
    assert dependence.binned(new, real).tolist() == [0, 0, 1, 9, 9]
    assert dependence.binned(real, real).tolist() == [*range(10), 9]
    a, b = np.array([0, 0, 1, 1.0]), np.array([2, 0, 2, 2.0])
    assert dependence.contingency(a, b, (2, 3)).tolist() == [[0.25, 0, 0.25], [0, 0, 0.5]]
    (found,) = dependence.tables(np.stack([a, b], 1), [2, 3])
    assert found.tolist() == [[0.25, 0, 0.25], [0, 0, 0.5]]
    other = np.repeat([[0.0, 2.0], [1.0, 0.0]], [15, 5], 0)  # three quarters and one quarter
    rows = np.repeat(np.stack([a, b], 1), 5, 0)
    columns = [Column("a", ("x", "y")), Column("b", ("x", "y", "z"))]
    got = evaluate_table(torch.tensor(rows), torch.tensor(other), None, None, None, columns, None)
    assert got["contingency_similarity"].value == pytest.approx(1 - 0.5 * (0.25 + 0.5 + 0.25 + 0.5))
    assert got["tv_complement"].value == pytest.approx(1 - 0.5 * (0.25 + 0.0))
    assert got["cramers_v_difference"].value == pytest.approx(1 - dependence.cramers_v(found))


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.6])
def test_correlations_of_normals(rho):
    """Spearman's is 6 / pi asin(rho / 2)."""
    z = normal(0, N, 2)
    x = np.stack([z[:, 0], rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]], 1)
    assert dependence.correlations(x)[0, 1] == pytest.approx(rho, abs=4 / math.sqrt(N))
    ranks = 6 / math.pi * math.asin(rho / 2)
    assert dependence.correlations(np.exp(x), ranks=True)[0, 1] == pytest.approx(ranks, abs=4 / math.sqrt(N))
    assert dependence.correlations(x)[0, 1] == pytest.approx(pearsonr(*x.T).statistic, abs=1e-12)
    tied = x.round()
    assert dependence.correlations(tied, ranks=True)[0, 1] == pytest.approx(spearmanr(*tied.T).statistic, abs=1e-12)


def test_a_constant_column_goes_with_nothing():
    x = np.stack([normal(0, 50), np.full(50, 0.1)], 1)
    for ranks in (False, True):
        np.testing.assert_array_equal(dependence.correlations(x, ranks)[1], 0.0)
    assert dependence.correlation_ratio(x[:, 1], np.arange(50.0) % 2, 2) == 0.0
    assert dependence.cramers_v(np.array([[0.3, 0.0], [0.7, 0.0]])) == 0.0


def test_cramers_v():
    table = np.random.default_rng(0).integers(1, 50, (4, 3))
    assert dependence.cramers_v(table / table.sum()) == pytest.approx(association(table, method="cramer"), rel=1e-12)
    assert dependence.cramers_v(np.eye(3) / 3) == pytest.approx(1.0)
    assert dependence.cramers_v(np.outer([0.2, 0.8], [0.5, 0.1, 0.4])) == pytest.approx(0.0, abs=1e-7)
    wider = np.zeros((6, 3))
    wider[[0, 2, 3, 5]] = table  # values that nobody has
    assert dependence.cramers_v(wider / table.sum()) == pytest.approx(dependence.cramers_v(table / table.sum()))


def test_the_correlation_ratio_of_two_normals_a_distance_apart():
    """Two equal groups at +-m with a variance of 1: eta^2 = m^2 / (m^2 + 1)."""
    kind = np.arange(N) % 2.0
    for m in (0.0, 0.5, 2.0):
        x = m * (2 * kind - 1) + normal(0, N)
        assert dependence.correlation_ratio(x, kind, 3) == pytest.approx(m / math.hypot(m, 1), abs=0.02)


def test_the_area_that_tells_two_normals_apart_is_the_best_there_is():
    """Phi(shift / sqrt 2) is the area of the likelihood ratio, which no classifier can pass."""
    for shift in (0.0, 2.0):
        fake, scores = utility.told_apart(normal(0, 800, 1) + shift, normal(1, 900, 1), [NUMBER])
        assert (fake.sum(), len(fake)) == (800, 1600)
        best = norm.cdf(shift / math.sqrt(2))
        assert utility.area(fake, scores) == pytest.approx(best, abs=0.08)
        assert utility.area(fake, scores) < best + 0.02


def test_the_interval_of_an_area():
    """The example of Hanley and McNeil: a standard error of 0.032 for 0.893 of 51 and 58 rows."""
    low, high = area_interval(0.893, 51, 58)
    assert (high - low) / 2 / 1.96 == pytest.approx(0.0325, abs=0.0005)
    inside = []
    for seed in range(200):  # of the areas of two normals, which are 0.76 on average
        scores = np.concatenate([normal(seed, 60) + 1, normal(1000 + seed, 90)])
        low, high = area_interval(utility.area(np.arange(150) < 60, scores), 60, 90)
        inside.append(low <= norm.cdf(1 / math.sqrt(2)) <= high)
    assert 0.9 <= np.mean(inside) <= 0.995
    assert area_interval(1.0, 5, 5) == (1.0, 1.0)
    for odd in ((1.1, 5, 5), (0.5, 0, 5), (0.5, 5, 0)):
        with pytest.raises(ValueError, match="'area' must lie in"):
            area_interval(*odd)


@pytest.mark.parametrize("kind", ["linear", "trees"])
def test_a_linear_law_is_predicted_as_well_as_it_can_be(kind):
    """y = 2 x + eps: R^2 is 4/5. The sign of y: nothing ranks rows better than x itself."""
    x = normal(0, 3000)
    rows = np.stack([x, 2 * x + normal(1, 3000)], 1)
    columns = [NUMBER, Column("y")]
    found = utility.predicted(rows[:2000], rows[2000:], columns, 1, kind)
    assert utility.score(found, rows[2000:, 1]) == pytest.approx(0.8, abs=0.05)
    rows[:, 1] = rows[:, 1] > 0
    columns = [NUMBER, Column("y", ("no", "yes"))]
    found = utility.predicted(rows[:2000], rows[2000:], columns, 1, kind)
    best = utility.area(rows[2000:, 1] == 1, rows[2000:, 0])
    assert utility.score(found, rows[2000:, 1]) == pytest.approx(best, abs=0.05)


def test_a_model_that_forgot_a_category_predicts_the_others():
    train, test = mixed(0, 3000), mixed(9, 1000)
    whole = utility.score(utility.predicted(train, test, MIXED, 2, "linear"), test[:, 2])
    two = utility.predicted(train[train[:, 2] != 1], test, MIXED, 2, "linear")
    one = utility.predicted(train[train[:, 2] == 1], test, MIXED, 2, "trees")
    assert (two[:, 1] == 0).all()
    assert 0.5 < utility.score(two, test[:, 2]) < whole
    assert utility.score(one, test[:, 2]) == 0.5
    with pytest.raises(ValueError, match="'truth' must have different values"):
        utility.score(one[:5], np.ones(5))


def test_what_a_model_sees():
    assert features(np.array([[7.0, 2.0]]), [NUMBER, KIND]).tolist() == [[7, 0, 0, 1]]


# ------------------------------------------------------------------------------------------------------------ distances


def test_gowers_distance_by_hand(monkeypatch):
    columns = [NUMBER, KIND, Column("y"), Column("constant")]
    train = np.array([[0, 0, 10, 5], [4, 1, 30, 5], [2, 2, 10, 5.0]])
    widths = privacy.ranges(train, columns)
    assert widths.tolist() == [4, 0, 20, 0]
    rows = np.array([[1, 0, 10, 5], [100, 1, 20, 6.0]])
    # of the first to the first: a quarter; of the second, which is beyond the range: 1, 0, 1/2, and another constant
    expected = [[0.25, 0.75 + 1 + 1, 0.25 + 1], [1 + 1 + 0.5 + 1, 1 + 0.5 + 1, 1 + 1 + 0.5 + 1]]
    for block in (1, 1 << 20):
        monkeypatch.setattr(privacy, "_BLOCK", block)
        of_rows, of_train = privacy.nearest(rows, train, widths)
        np.testing.assert_allclose(of_rows, np.min(expected, 1) / 4)
        np.testing.assert_allclose(of_train, np.min(expected, 0) / 4)


def test_identical_rows():
    train = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert privacy.identical(np.array([[-0.0, 1.0], [0.0, 3.0], [2.0, 3.0]]), train).tolist() == [True, False, True]


# ------------------------------------------------------------------------------------------------------------ sdmetrics


@pytest.fixture(scope="module")
def sdmetrics():
    """The package's scores. It wants a pandas below 3, so it is in no requirement of gensys."""
    reason = "needs sdmetrics: pip install --target DIR sdmetrics, and DIR on PYTHONPATH"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sdmetrics", reason=reason)
        from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity
        from sdmetrics.single_column import KSComplement, TVComplement
        from sdmetrics.single_table.privacy.dcr_utils import calculate_dcr
    return SimpleNamespace(
        ks=KSComplement.compute,
        tv=TVComplement.compute,
        correlation=CorrelationSimilarity.compute,
        contingency=ContingencySimilarity.compute,
        dcr=calculate_dcr,
    )


def frame(rows):
    pandas = pytest.importorskip("pandas", reason="comes with sdmetrics")
    return pandas.DataFrame(rows, columns=[column.name for column in MIXED])


@pytest.mark.filterwarnings("ignore")  # of pandas, about how sdmetrics uses it
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_those_of_sdmetrics(sdmetrics, seed):
    samples, real = mixed(10 * seed, 400), mixed(10 * seed + 5, 300)
    samples[:, 0] *= 1.3
    samples[:50, 2] = 0
    fake, true = frame(samples), frame(real)
    metrics = evaluate_table(*map(torch.tensor, (samples, real)), None, None, None, MIXED, None)
    for k in (0, 1):
        expected = sdmetrics.ks(true.iloc[:, k], fake.iloc[:, k])
        assert marginals.ks_complement(samples[:, k], real[:, k]) == pytest.approx(expected, abs=1e-15)
    for k, values in ((2, 3), (3, 2)):
        expected = sdmetrics.tv(true.iloc[:, k], fake.iloc[:, k])
        assert marginals.tv_complement(samples[:, k], real[:, k], values) == pytest.approx(expected, abs=1e-15)
    for name, coefficient in (("pearson", "Pearson"), ("spearman", "Spearman")):
        expected = sdmetrics.correlation(true[["a", "b"]], fake[["a", "b"]], coefficient=coefficient)
        assert metrics[f"{name}_similarity"].value == pytest.approx(expected, abs=1e-14)
    expected = sdmetrics.contingency(true[["kind", "yes"]], fake[["kind", "yes"]])
    assert metrics["contingency_similarity"].value == pytest.approx(expected, abs=1e-14)
    pairs = [[number, kind] for number, kind in itertools.product(("a", "b"), ("kind", "yes"))]
    found = [
        sdmetrics.contingency(true[pair].copy(), fake[pair].copy(), continuous_column_names=pair[:1]) for pair in pairs
    ]
    assert metrics["mixed_similarity"].value == pytest.approx(np.mean(found), abs=1e-14)


@pytest.mark.filterwarnings("ignore")
def test_distances_equal_those_of_sdmetrics(sdmetrics):
    samples, train = mixed(0, 70), mixed(5, 60)
    kinds = {c.name: {"sdtype": "categorical" if c.categories else "numerical"} for c in MIXED}
    expected = sdmetrics.dcr(frame(samples), frame(train), {"columns": kinds})
    found, _ = privacy.nearest(samples, train, privacy.ranges(train, MIXED))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------- one call


NAMES = {
    *("ks_complement", "wasserstein_1", "tv_complement", "pearson_similarity", "spearman_similarity"),
    *("contingency_similarity", "mixed_similarity", "cramers_v_difference", "correlation_ratio_difference"),
    *("c2st_auc", "tstr_linear", "tstr_trees", "closest_record_ratio", "identical_rows", "membership_auc"),
}


@pytest.fixture(scope="module")
def clinic():
    """(rows in a random order, columns): the breast cancer data of scikit-learn, two of its numbers cut into words."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn: pip install 'gensys[tabular]'")
    data = datasets.load_breast_cancer()
    x = data.data[:, :8].copy()
    x[:, 2] = np.digitize(x[:, 2], np.quantile(x[:, 2], [1 / 3, 2 / 3]))
    x[:, 5] = x[:, 5] > np.median(x[:, 5])
    kinds = {2: ("small", "medium", "large"), 5: ("no", "yes")}
    columns = [Column(str(data.feature_names[k]), kinds.get(k, ())) for k in range(8)]
    rows = np.concatenate([x, data.target[:, None]], 1)[np.random.default_rng(0).permutation(len(x))]
    return torch.tensor(rows), [*columns, Column("diagnosis", tuple(map(str, data.target_names)))]


@pytest.fixture(scope="module")
def parts(clinic):
    """(unseen rows as samples, reference, floor, training rows, held-out rows) of 110 to 119 rows each."""
    return clinic[0].split([110, 110, 110, 120, 119])


def test_other_real_rows_score_as_their_floor(clinic, parts):
    samples, reference, floor, train, held = parts
    got = evaluate_table(samples, reference, floor, train, held, clinic[1], "diagnosis")
    assert set(got) == NAMES
    for name, metric in got.items():
        assert metric.low <= metric.value <= metric.high, name
        assert metric.about
        assert json.loads(json.dumps(metric.to_json(), allow_nan=False)) == metric.to_json()
        # twice the interval: the floor is a draw as well
        width = metric.high - metric.low
        assert abs(metric.value - metric.floor) <= width + 0.02, name
    assert got["tstr_linear"].value > 0.9
    assert got == evaluate_table(samples, reference, floor, train, held, clinic[1], "diagnosis")


def test_copies_of_training_rows_are_flagged_by_privacy_alone(clinic, parts):
    _, reference, floor, train, held = parts
    got = evaluate_table(train, reference, None, train, held, clinic[1], "diagnosis")
    assert got["closest_record_ratio"].value == 0.0
    assert got["identical_rows"].value == 1.0
    assert got["membership_auc"].value > 0.99
    assert got["membership_auc"].low > 0.9
    assert got["c2st_auc"].value < 0.65
    half = evaluate_table(torch.cat([train[:60], floor[:60]]), reference, None, train, held, clinic[1], None)
    # half of the members are copied, the others are as near as anyone: 1/2 + 1/2 x 1/2
    assert half["membership_auc"].value == pytest.approx(0.75, abs=0.08)
    assert half["identical_rows"].value == 0.5


def test_what_must_get_worse_does(clinic, parts):
    samples, reference, _, train, held = parts
    columns = clinic[1]
    numbers = [k for k, column in enumerate(columns) if not column.categories]
    noise = torch.tensor(normal(0, *samples.shape)) * samples.std(0)

    def scored(rows, target=None):
        unseen = (train, held) if target else (None, None)
        return evaluate_table(rows, reference, None, *unseen, columns, target)

    noisy = []
    for scale in (0.0, 0.5, 2.0):
        rows = samples.clone()
        rows[:, numbers] += scale * noise[:, numbers]
        noisy.append(scored(rows))
    for name in ("ks_complement", "wasserstein_1", "pearson_similarity", "spearman_similarity", "mixed_similarity"):
        values = [got[name].value for got in noisy]
        assert values == sorted(values, reverse=name != "wasserstein_1"), name
    assert noisy[2]["c2st_auc"].value > 0.9
    assert noisy[0]["tv_complement"] == noisy[2]["tv_complement"]

    generator = torch.Generator().manual_seed(0)
    apart = torch.stack([column[torch.randperm(len(column), generator=generator)] for column in samples.T], 1)
    got = scored(apart, "diagnosis")  # columns as they were, and nothing goes together
    for name in ("ks_complement", "wasserstein_1", "tv_complement"):
        assert got[name].value == pytest.approx(noisy[0][name].value, abs=1e-12), name
    for name in ("pearson_similarity", "spearman_similarity", "contingency_similarity", "mixed_similarity"):
        assert got[name].value < noisy[0][name].low, name
    for name in ("cramers_v_difference", "correlation_ratio_difference", "c2st_auc"):
        assert got[name].value > noisy[0][name].high, name
    assert got["tstr_linear"].value < got["tstr_linear"].floor - 0.03


def test_a_number_is_predicted(clinic, parts):
    samples, reference, floor, train, held = parts
    got = evaluate_table(samples, reference, floor, train, held, clinic[1], "mean area")
    assert got["tstr_linear"].value > 0.9
    assert got["tstr_linear"].about.startswith("R^2 of 'mean area' by linear trained on samples")


def test_only_what_the_columns_have_is_scored():
    x = torch.tensor(mixed(0, 60))
    names = {
        (0,): {"ks_complement", "wasserstein_1"},
        (2,): {"tv_complement"},
        (0, 2): {*("ks_complement", "wasserstein_1", "tv_complement"), "mixed_similarity"}
        | {"correlation_ratio_difference"},
    }
    for chosen, wanted in names.items():
        rows = x[:, list(chosen)]
        got = evaluate_table(rows[:30], rows[30:], None, None, None, [MIXED[k] for k in chosen], None)
        assert set(got) == wanted | {"c2st_auc"}
        assert all(metric.floor is None for metric in got.values())


def test_rows_that_occur_again_and_again_have_no_ratio_of_distances():
    kinds = torch.tensor(mixed(0, 200))[:, 2:]
    got = evaluate_table(kinds[:50], kinds[50:100], None, kinds[100:150], kinds[150:], MIXED[2:], None)
    assert "closest_record_ratio" not in got
    assert min(got["identical_rows"].value, got["identical_rows"].floor) > 0.9


def changed(rows, row, column, value):
    rows = rows.clone()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": lambda x: x[:19]}, r"'samples' needs at least 20 rows to be scored, got 19"),
        ({"reference": lambda x: x[:5]}, r"'reference' needs at least 20 rows"),
        ({"held_out": lambda x: x[:19]}, r"'held_out' needs at least 20 rows"),
        ({"floor": lambda x: x[:20]}, r"'floor' needs at least 40 rows"),
        ({"samples": lambda x: changed(x, 3, 1, math.nan)}, r"'samples' must be finite, got NaN .* in 1 of 40 rows"),
        ({"train": lambda x: changed(x, 3, 1, math.inf)}, r"'train' must be finite"),
        ({"samples": lambda x: x[:, :3]}, r"'samples' must have 4 columns"),
        ({"samples": lambda x: changed(x, 3, 2, 0.5)}, r"'samples' must hold whole numbers from 0 to 2 in .* 'kind'"),
        ({"samples": lambda x: changed(x, 3, 2, 3.0)}, r"got 3 in 1 of 40 rows: sample a model of categories"),
        ({"reference": lambda x: changed(x, slice(None), 0, 7.0)}, r"'reference' must have different .* 'a', got 7"),
        ({"held_out": lambda x: changed(x, slice(None), 3, 1.0)}, r"'held_out' must have different .* 'yes'"),
        ({"target": lambda _: "no"}, r"'target' must be one of the columns a, b, kind, yes, got 'no'"),
    ],
)
def test_what_cannot_be_scored_says_why(change, message):
    rows = torch.tensor(mixed(0, 200)).split(40)
    names = ("samples", "reference", "floor", "train", "held_out")
    given = dict(zip(names, rows, strict=True)) | {"target": "yes"}
    given |= {name: make(given[name]) for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        evaluate_table(**given, columns=MIXED)


def test_a_single_column_predicts_nothing():
    x = torch.tensor(mixed(0, 200))[:, :1].split(40)
    with pytest.raises(ValueError, match="'target' is 'a', the only column"):
        evaluate_table(*x, [MIXED[0]], "a")


def test_samples_of_one_row_are_scored():
    """A model that collapsed: the worst scores, and no error."""
    x = torch.tensor(mixed(0, 200)).split(40)
    got = evaluate_table(x[0][:1].expand(40, 4), *x[1:], MIXED, "yes")
    assert set(got) == NAMES
    assert got["tstr_linear"].value == got["tstr_trees"].value == 0.5
    assert got["c2st_auc"].value > 0.95
