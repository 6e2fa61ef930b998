"""Scores of features: which there are, that real ones score as their floor, that intervals hold the value."""

import statistics

import pytest
import torch

from gensys.evaluate.distribution import DISTRIBUTION, Seen, evaluate_features
from gensys.evaluate.extractors import Extractor
from gensys.evaluate.kid import kernel_distance, squared_mmd
from gensys.evaluate.metrics import evaluate_copying, evaluate_diversity
from gensys.noise import Noise, Stream

PLAIN = Extractor("my-net", 4, "0" * 64, None, lambda x: x)
PUBLISHED = Extractor("inception", 4, "0" * 64, None, lambda x: x, fid=True)


def seen(n, seed, shift=0.0, logits=True):
    rows = Noise(seed, torch.arange(n)).normal((4,), Stream.PRIOR).double() + shift
    return Seen(rows, rows.repeat(1, 2) if logits else None)


def test_names_say_whose_features_they_are():
    got = evaluate_features(PLAIN, seen(200, 0), seen(200, 1), None)
    assert set(got) == {
        *("fd_my_net_200", "kd_my_net_200", "score_my_net", "precision", "recall", "density", "coverage")
    }
    got = evaluate_features(PUBLISHED, seen(200, 0), seen(200, 1), None)
    assert {"fid_200", "kid_200", "inception_score"} < set(got)
    assert "not" not in "".join(got[name].about for name in ("fid_200", "kid_200", "inception_score"))
    assert set(evaluate_features(PLAIN, seen(200, 0, logits=False), seen(200, 1), None, ("inception_score",))) == set()


@pytest.mark.parametrize("family", DISTRIBUTION)
def test_one_family_alone_has_the_same_numbers(family):
    everything = evaluate_features(PLAIN, seen(200, 0), seen(300, 1), seen(200, 2))
    alone = evaluate_features(PLAIN, seen(200, 0), seen(300, 1), seen(200, 2), (family,))
    assert alone
    assert alone.items() <= everything.items()


def test_real_rows_score_as_their_floor_and_others_do_not():
    real, other = seen(600, 1), seen(400, 2)
    for shift, inside in ((0.0, True), (0.7, False)):
        got = evaluate_features(PLAIN, seen(400, 3, shift), real, other)
        for name in ("fd_my_net_400", "kd_my_net_400"):
            assert (got[name].low <= got[name].floor <= got[name].high) is inside, name
            assert got[name].low < got[name].value < got[name].high


def test_a_floor_is_the_mean_over_all_whole_sets_of_real_rows():
    fake, real, other = seen(100, 3), seen(150, 1), seen(330, 2)
    got = evaluate_features(PLAIN, fake, real, other)
    parts = [
        Seen(other.features[k : k + 100], None if other.logits is None else other.logits[k : k + 100])
        for k in (0, 100, 200)
    ]
    alone = [evaluate_features(PLAIN, fake, real, part) for part in parts]
    assert {"fd_my_net_100", "kd_my_net_100", "precision", "recall", "density", "coverage"} <= got.keys()
    for name, metric in got.items():
        floors = [found[name].floor for found in alone]
        assert metric.floor == pytest.approx(statistics.fmean(floors), rel=1e-12), name
        assert metric.spread == pytest.approx(statistics.stdev(floors), rel=1e-9, abs=1e-12), name
        assert alone[0][name].spread is None
        assert (metric.value, metric.low) == (alone[0][name].value, alone[0][name].low)


def test_the_interval_of_the_kernel_distance_covers_what_other_rows_give():
    """Against the spread over 60 draws of samples and real rows."""
    values = [squared_mmd(seen(200, 100 + k).features, seen(200, 200 + k).features) for k in range(60)]
    spread = float(torch.tensor(values, dtype=torch.float64).std())
    fake, real = seen(200, 0), seen(200, 1)
    found = evaluate_features(PLAIN, fake, real, None, ("kid",))["kd_my_net_200"]
    assert found.high - found.value == pytest.approx(1.96 * spread, rel=0.4)
    assert found.value == kernel_distance(fake.features, real.features, size=100).mean


def images(n, seed, spread):
    noise = Noise(seed, torch.arange(n)).normal((1, 16, 16), Stream.PRIOR)
    centre = torch.linspace(-0.5, 0.5, 16).expand(1, 16, 16)
    return (centre + spread * noise).clamp(-1.0, 1.0)


def test_one_image_a_class_has_no_diversity_and_real_ones_have_that_of_real_ones():
    labels = torch.arange(200) % 4
    real = images(200, 1, 0.3)
    for spread, alike in ((0.3, False), (0.0, True)):
        fake = images(200, 2, spread)
        got = evaluate_diversity(fake, fake.flatten(1), labels, real, real.flatten(1), labels, "net")
        assert set(got) == {"ms_ssim_within", "diversity_net"}
        if alike:
            assert got["ms_ssim_within"].value == pytest.approx(1.0)
            assert got["diversity_net"].value == 0.0
        else:
            for metric in got.values():
                assert metric.low <= metric.floor <= metric.high
    few = images(20, 2, 0.3)  # of which no tenth has two of a class
    got = evaluate_diversity(few, few.flatten(1), labels[:20], real, real.flatten(1), labels, "net")
    assert got["diversity_net"].low is None
    assert got["diversity_net"].about.endswith("; no interval: a class has fewer than 20 samples")
    whole = evaluate_diversity(few, few.flatten(1), None, real, real.flatten(1), None, "net")
    assert whole["diversity_net"].low is not None
    assert "no interval" not in whole["diversity_net"].about


def test_copies_are_not_authentic():
    train, held = images(300, 1, 0.3), images(150, 2, 0.3)
    for samples, low, high in ((train[:100], 0.0, 0.0), (images(100, 3, 0.3), 0.2, 1.0)):
        three = (samples.flatten(1), train.flatten(1), held.flatten(1))
        got = evaluate_copying(samples, train, held, three, "pixel")["authenticity"]
        assert low <= got.value <= high
        assert got.floor > 0.2
    assert "authenticity" not in evaluate_copying(train[:100], train, held)
