"""The power-function average against its closed forms."""

import math

import pytest
import torch
from torch import nn

from gensys.engine import ema


class Value(nn.Module):
    def __init__(self, size=1):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))


@pytest.mark.parametrize("width", [0.01, 0.05, 0.07, 0.1, 0.2, 0.279])
def test_the_exponent_solves_its_equation(width):
    gamma = ema.exponent(width)
    assert gamma > 0
    assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(width, rel=1e-9)


def test_the_published_exponents():
    """Karras et al., 2023, table 5 and the text of section 3: widths 0.05 and 0.10 belong to 16.97 and 6.94."""
    assert ema.exponent(0.05) == pytest.approx(16.97, abs=5e-3)
    assert ema.exponent(0.10) == pytest.approx(6.94, abs=5e-3)


@pytest.mark.parametrize("width", [-0.1, 0.0, 0.28, 1.0, math.nan])
def test_a_width_out_of_range_is_refused(width):
    with pytest.raises(ValueError, match="'width' must lie in"):
        ema.exponent(width)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94])
def test_the_weight_of_every_step(gamma):
    """Step i of n has the weight (i / n)^(gamma + 1) - ((i - 1) / n)^(gamma + 1)."""
    n = 12
    model = Value(n)
    average = ema.shadow(model)
    for step in range(1, n + 1):
        with torch.no_grad():
            model.value.zero_()
            model.value[step - 1] = 1.0
        ema.update(average, model, step, gamma)
    edges = (torch.arange(n + 1, dtype=torch.float64) / n) ** (gamma + 1)
    torch.testing.assert_close(average.value.detach(), edges.diff(), rtol=1e-12, atol=1e-15)


def test_the_average_of_a_ramp_lies_where_the_exponent_says():
    """The mean of t under t^gamma on (0, T) is (gamma + 1) / (gamma + 2) T; its spread is the width times T."""
    width, n = 0.1, 4000
    gamma = ema.exponent(width)
    model = Value(2)
    average = ema.shadow(model)
    for step in range(1, n + 1):
        with torch.no_grad():
            model.value[0], model.value[1] = step / n, (step / n) ** 2
        ema.update(average, model, step, gamma)
    mean, square = average.value.tolist()
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)
    assert math.sqrt(square - mean**2) == pytest.approx(width, abs=1e-3)


def test_the_first_step_copies_and_constant_weights_stay():
    model = Value()
    average = ema.shadow(model)
    for step in range(1, 9):
        with torch.no_grad():
            model.value.fill_(3.0)
        ema.update(average, model, step, 5.0)
        assert average.value.item() == pytest.approx(3.0, rel=1e-12)


def test_the_shadow_has_no_gradients_and_its_own_memory():
    model = Value()
    average = ema.shadow(model)
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())
    assert model.value.requires_grad
    assert average.value.data_ptr() != model.value.data_ptr()
