from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensys.data import order
from gensys.data.buckets import Plan, assign, cropped, shapes


@pytest.mark.parametrize(("side", "step", "ratio"), [(32, 8, 2.0), (512, 64, 2.0), (1024, 64, 4.0), (64, 64, 1.0)])
def test_shapes_fill_the_area(side, step, ratio):
    found = shapes(side, step, ratio)
    assert (side, side) in found
    assert len(set(found)) == len(found)
    for height, width in found:
        assert height % step == width % step == 0
        assert max(height, width) <= ratio * min(height, width)
        assert height * width <= side * side < height * (width + step)
    assert sorted(found, key=lambda s: s[1] / s[0]) == list(found)
    # turned by 90 degrees there is as good a shape
    assert all(any(w2 >= w and h2 <= h for h2, w2 in [(w, h) for h, w in found]) for h, w in found)


def test_images_go_to_the_nearest_ratio():
    buckets = ((64, 16), (32, 32), (16, 64))
    sizes = np.array([[100, 100], [300, 80], [80, 300], [120, 100], [90, 170]])
    assert assign(sizes, buckets).tolist() == [1, 0, 2, 1, 1]
    assert np.allclose(cropped(sizes[:2], (32, 32)), [0.0, 1 - 80 / 300])


def test_small_buckets_are_closed():
    buckets = ((64, 16), (32, 32), (16, 64))
    sizes = np.array([[100, 100]] * 10 + [[300, 80]] * 2 + [[80, 300]] * 5)
    assert Counter(assign(sizes, buckets, least=3).tolist()) == {1: 12, 2: 5}
    assert Counter(assign(sizes, buckets, least=6).tolist()) == {1: 17}
    assert Counter(assign(sizes, buckets, least=100).tolist()) == {1: 17}, "the last one stays open"


def test_one_bucket_gives_the_batches_of_the_plain_order():
    plan = Plan(7, 8, (37,))
    batches = Counter(tuple(plan.at(step)[1].tolist()) for step in range(37))  # eight cycles, 37 batches of 8
    assert batches == Counter(tuple(order.rows(7, step, 8, 37).tolist()) for step in range(37))


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any), batch=st.integers(1, 9))
def test_every_image_is_seen_equally_often(counts, batch):
    """Nothing dropped, nothing padded: each bucket's stream is whole epochs, and the streams keep pace."""
    plan, cycles = Plan(3, batch, tuple(counts)), 3 * batch  # after which all have given whole epochs
    steps = sum(cycles * n // batch for n in counts)
    seen = [Counter() for _ in counts]
    for step in range(steps):
        bucket, places = plan.at(step)
        seen[bucket].update(places.tolist())
    for count, visits in zip(counts, seen, strict=True):
        assert visits == dict.fromkeys(range(count), cycles)


def test_buckets_alternate():
    plan = Plan(0, 4, (400, 100))
    buckets = [plan.at(step)[0] for step in range(1000)]
    assert abs(buckets.count(1) - 200) <= 2
    assert buckets[:125] != buckets[125:250], "another order in the next cycle"
    assert sum(a != b for a, b in pairwise(buckets)) > 200, "and not one bucket after the other"


def test_far_steps_cost_no_more_and_agree():
    plan = Plan(1, 256, (10**9, 3 * 10**8, 77))
    bucket, places = plan.at(10**12)
    assert int(places.max()) < plan.counts[bucket]
    again = Plan(1, 256, (10**9, 3 * 10**8, 77)).at(10**12)
    assert again[0] == bucket
    assert torch.equal(again[1], places)


@pytest.mark.parametrize(
    "call",
    [
        lambda: shapes(30, 8),
        lambda: shapes(32, 8, 0.5),
        lambda: assign(np.array([[0, 3]]), ((8, 8),)),
        lambda: Plan(0, 8, (0, 0)),
        lambda: Plan(0, 0, (4,)),
        lambda: Plan(0, 8, (4,)).at(-1),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
