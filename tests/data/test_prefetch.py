import threading

import pytest
import torch

from gensys.data.prefetch import prefetch


def test_the_order_is_kept_and_nothing_is_made_twice():
    made = []

    def batch(step):
        made.append(step)
        return step * 10

    ahead = prefetch(batch, 3)
    assert [ahead(step) for step in range(5, 25)] == [10 * step for step in range(5, 25)]
    assert made[:20] == list(range(5, 25))
    assert len(made) == len(set(made)) <= 23
    assert ahead(2) == 20  # a jump
    assert ahead(2) == 20
    assert ahead(3) == 30


def test_it_is_ahead():
    """While the caller is busy with a step, the next ones are made, and no more than asked for."""
    made, ready = [], threading.Event()

    def batch(step):
        made.append(step)
        if step == 2:
            ready.set()
        return step

    prefetch(batch, 2)(0)
    assert ready.wait(20)
    assert made == [0, 1, 2]


def test_errors_come_at_their_step():
    def batch(step):
        if step % 3 == 2:
            raise ValueError(f"step {step}")
        return step

    ahead = prefetch(batch, 4)
    for step in range(12):
        if step % 3 == 2:
            with pytest.raises(ValueError, match=f"step {step}"):
                ahead(step)
        else:
            assert ahead(step) == step


def test_it_computes_on_as_many_threads_as_its_maker():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert prefetch(lambda step: (step, torch.get_num_threads(), threading.current_thread().name), 1)(0) == (
            0,
            1,
            "prefetch_0",
        )
    finally:
        torch.set_num_threads(before)


def test_depths():
    assert prefetch(lambda step: threading.current_thread().name, 0)(0) == threading.current_thread().name
    with pytest.raises(ValueError, match="'depth' must be at least 0, got -1"):
        prefetch(lambda step: step, -1)
