"""The optimizer of a player and its learning rate."""

import pytest
import torch

from gensys.engine.optim import Optim, adamw, rate


def test_warmup_is_linear_and_then_the_peak():
    optim = Optim(lr=2.0, warmup=4, decay=0.0)
    assert [rate(optim, step, 0.0) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_warmup_takes_no_more_than_a_tenth_of_a_run():
    optim = Optim(lr=1.0, warmup=100, decay=0.0)
    assert [rate(optim, step, step / 50) for step in (0, 1, 2, 5, 20)] == pytest.approx([0.01, 0.2, 0.4, 1.0, 1.0])
    assert rate(optim, 50, 50 / 100_000) == pytest.approx(0.51)  # of a long run as many steps as it says


def test_decay_falls_linearly_to_zero_over_the_last_part():
    optim = Optim(lr=1.0, warmup=0, decay=0.5)
    assert [rate(optim, 0, p) for p in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0]


def test_without_warmup_and_decay_the_rate_is_constant():
    assert {rate(Optim(lr=0.3, warmup=0, decay=0.0), step, step / 9) for step in range(10)} == {0.3}


def test_the_first_step_has_the_size_of_the_rate():
    """Adam's first step is lr * sign(gradient), whatever the gradient's size."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = adamw([weight], Optim(lr=0.1))
    weight.grad = torch.tensor([1e-3, -5.0, 100.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.1, 0.1, -0.1]), rtol=1e-4, atol=0)


def test_weight_decay_is_decoupled():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = adamw([weight], Optim(lr=0.1, weight_decay=0.5))
    weight.grad = torch.zeros(1)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([2.0 * (1 - 0.1 * 0.5)]))


def test_a_player_without_parameters_is_refused():
    with pytest.raises(ValueError, match="'parameters' is empty"):
        adamw([], Optim())
