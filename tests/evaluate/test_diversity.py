"""Diversity within classes: collapsed classes, expectations and the protocol."""

import pytest
import torch

from gensys.evaluate.diversity import beside_real, diversity, feature_distance, similarity
from gensys.evaluate.ssim import ms_ssim


def cloud(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(60) % 3


def test_one_image_a_class_has_none():
    prototypes = cloud(3, 5)
    assert diversity(prototypes[LABELS], LABELS, feature_distance).mean == 0.0
    assert diversity(prototypes[LABELS], None, feature_distance).mean > 1.0  # between classes there is
    shades = (torch.arange(3).float() / 2 - 0.5)[:, None, None, None].expand(3, 1, 24, 24)
    assert diversity(shades[LABELS], LABELS, similarity(2)).mean == pytest.approx(1.0, abs=1e-12)
    assert diversity(shades[LABELS], None, similarity(2)).mean < 0.9


def test_all_pairs_are_taken_if_they_are_few():
    rows = cloud(60, 4)
    found = diversity(rows, LABELS, feature_distance, pairs=190)  # 20 * 19 / 2
    assert (found.classes, found.pairs) == ((0, 1, 2), 570)
    for label in range(3):
        wanted = torch.pdist(rows[label::3]).mean()
        assert float(found.per_class[label]) == pytest.approx(float(wanted), rel=1e-12)
    assert found.mean == pytest.approx(float(found.per_class.mean()))


def test_drawn_pairs_expect_what_all_pairs_have_and_never_pair_a_row_with_itself():
    rows = cloud(40, 4)
    smallest = []

    def watch(a, b):
        values = feature_distance(a, b)
        smallest.append(float(values.min()))
        return values

    exact = float(torch.pdist(rows).mean())
    found = diversity(rows, None, watch, pairs=700).mean
    assert found == pytest.approx(exact, abs=4 * float(torch.pdist(rows).std()) / 700**0.5)
    assert min(smallest) > 0.0


def test_pairs_of_a_class_depend_on_seed_and_class_alone():
    rows = cloud(60, 4)
    whole = diversity(rows, LABELS, feature_distance, pairs=30)
    torch.manual_seed(3)
    alone = diversity(rows[LABELS == 2], LABELS[LABELS == 2], feature_distance, pairs=30)
    assert float(whole.per_class[2]) == float(alone.per_class[0])
    assert diversity(rows, LABELS, feature_distance, pairs=30, seed=1).mean != whole.mean
    other = diversity(rows[LABELS == 2], torch.full((20,), 3), feature_distance, pairs=30)
    assert other.mean != alone.mean  # every class has pairs of its own


def test_ms_ssim_is_what_compares_images():
    images = torch.rand(3, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = diversity(images, None, similarity(2))
    i, j = torch.triu_indices(3, 3, 1)
    assert found.mean == pytest.approx(float(ms_ssim(images[i], images[j], scales=2).values.mean()), rel=1e-12)


def test_samples_stand_beside_real_rows_over_the_classes_that_both_have():
    rows = cloud(60, 4)
    labels = LABELS.clone()
    labels[labels == 1] = 7
    found, wanted = beside_real(0.5 * rows, LABELS, rows, labels, feature_distance)
    assert found.classes == wanted.classes == (0, 2)
    torch.testing.assert_close(found.per_class, 0.5 * wanted.per_class)
    unlabelled = beside_real(0.5 * rows, None, rows, None, feature_distance)
    assert unlabelled[0].mean == pytest.approx(0.5 * unlabelled[1].mean)


def test_a_class_of_one_row_is_left_out():
    labels = torch.tensor([0, 0, 5, 0])
    assert diversity(cloud(4, 2), labels, feature_distance).classes == (0,)


def test_errors_name_the_argument():
    rows = cloud(4, 2)
    with pytest.raises(ValueError, match="'pairs' must be at least 1"):
        diversity(rows, None, feature_distance, pairs=0)
    with pytest.raises(ValueError, match=r"'labels' must be \(4,\) int64"):
        diversity(rows, torch.zeros(3).long(), feature_distance)
    with pytest.raises(ValueError, match="'rows' must have two of one class"):
        diversity(rows, torch.arange(4), feature_distance)
    with pytest.raises(ValueError, match="both be given or both be None"):
        beside_real(rows, None, rows, torch.zeros(4).long(), feature_distance)
    with pytest.raises(ValueError, match="'real_labels' must share a class"):
        beside_real(rows, torch.zeros(4).long(), rows, torch.ones(4).long(), feature_distance)
