"""The perceptual distance: what it is 0 for, what it forgives, and what its filters are."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from gensys.nn.features import TrainedFeatures, Wavelets
from gensys.nn.lenet import LeNet
from gensys.noise import Noise, Stream
from gensys.objectives.perceptual import perceptual_distance

IDS = torch.arange(6)


def pictures(channels=1, side=32):
    """Strokes: a few blurred lines on a plain ground, in [-1, 1]."""
    u = Noise(4, IDS).uniform((3, 2), Stream.EPS)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    angle, offset = 3.1416 * u[..., 0, None, None], 1.2 * u[..., 1, None, None] - 0.6
    away = x * angle.cos() + y * angle.sin() - offset
    return (2 * torch.exp(-((away / 0.08) ** 2)).amax(1, keepdim=True) - 1).repeat(1, channels, 1, 1)


def trained():
    torch.manual_seed(0)
    return TrainedFeatures(LeNet(1, 3))


FEATURES = {"fixed": lambda: Wavelets(1), "trained": trained}


@pytest.mark.parametrize("kind", FEATURES)
def test_equal_images_are_at_no_distance_and_all_others_within_its_range(kind):
    features, x = FEATURES[kind](), pictures()
    assert torch.equal(perceptual_distance(features, x, x), torch.zeros(6))
    y = x.clone()
    y[:, :, 9, 20] += 0.02  # one pixel, by a hundredth of the range
    assert (perceptual_distance(features, x, y) > 0).all()
    other = x.flip(2)
    far = perceptual_distance(features, x, other)
    assert ((far > 0.005) & (far <= 2.0)).all()
    torch.testing.assert_close(perceptual_distance(features, other, x), far)
    for row in range(6):
        alone = perceptual_distance(features, x[row : row + 1], other[row : row + 1])
        torch.testing.assert_close(alone, far[row : row + 1])


def test_it_is_the_squared_distance_of_nearly_unit_vectors():
    def features(x):
        return [torch.cat([x, 2 * x], 1), avg_pool2d(x, 2)]

    x, y = torch.full((1, 1, 4, 4), 0.6), torch.full((1, 1, 4, 4), -0.3)
    first = [v * torch.tensor([1.0, 2.0]) / (5 * v * v + 0.01 * 2) ** 0.5 for v in (0.6, -0.3)]
    second = [v / (v * v + 0.01) ** 0.5 for v in (0.6, -0.3)]
    wanted = 0.25 * ((first[0] - first[1]).square().sum() + (second[0] - second[1]) ** 2)
    torch.testing.assert_close(perceptual_distance(features, x, y), wanted[None])


@pytest.mark.parametrize("kind", FEATURES)
def test_its_gradient_fits_finite_differences(kind):
    features, (x, y) = FEATURES[kind](), pictures().split(3)
    x = (x + 0.3 * Noise(1, IDS[:3]).normal((1, 32, 32), Stream.EPS)).requires_grad_()
    (gradient,) = torch.autograd.grad(perceptual_distance(features, x, y).sum(), x)
    direction = gradient.sign()  # so many pixels change that float32 can tell the difference
    step = 2e-3
    with torch.no_grad():
        ends = [perceptual_distance(features, x + side * step * direction, y).double().sum() for side in (1, -1)]
    assert float(gradient.abs().sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=0.02)
    assert all(p.grad is None and not p.requires_grad for p in features.parameters())


def test_a_shift_costs_less_than_a_blur_of_the_same_squared_error():
    """The reason for it. The squared error cannot tell them apart."""
    features, x = Wavelets(1), pictures()
    moved = x.roll(1, dims=3)
    error = (moved - x).square().flatten(1).mean(1)
    blurred = avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    share = (error / (blurred - x).square().flatten(1).mean(1)).sqrt()[:, None, None, None]
    blurred = x + share * (blurred - x)
    torch.testing.assert_close((blurred - x).square().flatten(1).mean(1), error)
    shifted, washed = (perceptual_distance(features, y, x) for y in (moved, blurred))
    assert shifted.mean() < 0.6 * washed.mean()  # 0.51; by the digits of MNIST 0.15


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"'y' must be shaped like 'x', \(6, 1, 32, 32\), got \(6, 1, 16, 16\)"):
        perceptual_distance(Wavelets(1), pictures(), pictures(side=16))
