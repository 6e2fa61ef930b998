"""The inception score: its bounds, its closed forms and torch-fidelity."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensys.evaluate.inception_score import inception_score


def logits(n, classes, seed=0, scale=1.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_information_is_one():
    found = inception_score(logits(1, 7).expand(50, 7), splits=5)
    assert found.mean == pytest.approx(1.0, abs=1e-14)
    assert found.spread == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("sharp", [50.0, 1e4])
def test_sure_answers_of_equally_many_images_a_class_are_the_number_of_classes(sharp):
    """At 1e4 other classes have the probability 0 in float64, and one that nobody says has so in every row."""
    sure = sharp * torch.nn.functional.one_hot(torch.arange(60) % 6, 7).double()
    assert inception_score(sure, splits=1).mean == pytest.approx(6.0, rel=1e-12)


def test_is_the_exponential_of_the_mutual_information():
    joint = torch.tensor(
        [[0.3, 0.2], [0.05, 0.45]], dtype=torch.float64
    )  # p(x, y) of two images, each half of the rows
    information = float((joint * (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log()).sum())
    found = inception_score((2 * joint).log().repeat(10, 1), splits=1)
    assert found.mean == pytest.approx(math.exp(information), rel=1e-12)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(n=st.integers(3, 60), classes=st.integers(2, 12), scale=st.floats(0, 1000), seed=st.integers(0, 99))
def test_lies_between_one_and_the_number_of_classes(n, classes, scale, seed):
    found = inception_score(logits(n, classes, seed, scale), splits=3)
    assert float(found.values.min()) >= 1.0 - 1e-12
    assert float(found.values.max()) <= classes + 1e-9


def test_a_constant_added_to_a_row_of_logits_changes_nothing():
    x = logits(40, 5)
    assert inception_score(x + logits(40, 1, 1, 100.0)).mean == pytest.approx(inception_score(x).mean, rel=1e-12)


def test_rows_that_are_sorted_by_class_are_shuffled_unless_they_are_not_to_be():
    sure = 50.0 * torch.nn.functional.one_hot(torch.arange(1000) // 100, 10).double()
    assert inception_score(sure, shuffle=False).mean == pytest.approx(1.0)  # each split is one class
    shuffled = inception_score(sure)
    assert shuffled.mean > 9.0
    assert torch.equal(shuffled.values, inception_score(sure).values)
    assert not torch.equal(shuffled.values, inception_score(sure, seed=1).values)


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (103, 10), (64, 1), (7, 7)])
def test_equals_torch_fidelity(fidelity, n, splits):
    x = logits(n, 20, scale=3.0)
    theirs = fidelity("metric_isc").isc_features_to_metric(x, splits=splits, shuffle=False)
    ours = inception_score(x, splits=splits, shuffle=False)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert (ours.spread or 0.0) == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "splits", "match"),
    [
        (torch.zeros(5, 3), 6, "'logits' needs at least 6 rows for 6 splits, got 5"),
        (torch.zeros(5, 3), 0, "'splits' must be at least 1"),
        (torch.zeros(5, 1), 2, "'logits' must have at least 2 columns"),
        (torch.full((5, 2), torch.inf), 2, "'logits' must be finite"),
        (torch.zeros(5), 2, "'logits' must be a floating-point tensor"),
    ],
)
def test_errors_name_the_argument(x, splits, match):
    with pytest.raises(ValueError, match=match):
        inception_score(x, splits=splits)
