"""The path-length regulariser: of a linear generator, whose Jacobian is known."""

import math

import pytest
import torch
from torch import nn

from gensys.noise import Noise, Stream
from gensys.objectives.path_length import PathLength, path_lengths

LAYERS, WIDTH, SHAPE = 3, 5, (2, 4, 4)


class Linear(nn.Module):
    """g(w) = A w: its Jacobian is A, and J^T y is A^T y."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Parameter(torch.randn(math.prod(SHAPE), LAYERS * WIDTH))

    def styles(self, z, cond, noise):
        return z[:, None].expand(-1, LAYERS, -1)

    def render(self, w, noise):
        return (w.flatten(1) @ self.a.T).view(-1, *SHAPE)


def wanted_lengths(a, y):
    products = (y.flatten(1) @ a / 4.0).view(-1, LAYERS, WIDTH)  # 4 = the root of 16 pixels
    return products.square().sum(2).mean(1).sqrt()


def test_lengths_of_a_linear_generator():
    torch.manual_seed(1)
    net, z, y = Linear(), torch.randn(6, WIDTH, requires_grad=True), torch.randn(6, *SHAPE)
    w = net.styles(z, {}, None)
    found = path_lengths(net.render(w, None), w, y)
    torch.testing.assert_close(found, wanted_lengths(net.a, y))


def test_penalty_and_mean():
    """Also that the penalty's gradient with respect to A is that of its closed form."""
    net, penalty = Linear(), PathLength(weight=3.0, every=4, decay=0.75)
    noise = Noise(0, torch.arange(6), 8)
    z = nn.Parameter(torch.randn(6, WIDTH))
    penalty.length.fill_(1.5)
    penalty.share.fill_(1.0)
    found = penalty(net, z, z, {}, noise)["penalty"]
    lengths = wanted_lengths(net.a, noise.normal(SHAPE, Stream.PROBE))
    wanted = 12.0 * (lengths - 1.5).square().mean()
    torch.testing.assert_close(found, wanted)
    assert float(penalty.length) == pytest.approx(0.75 * 1.5 + 0.25 * float(lengths.detach().mean()))
    (a,) = torch.autograd.grad(found, net.a)
    torch.testing.assert_close(a, torch.autograd.grad(wanted, net.a)[0])


def test_the_mean_is_one_from_the_start():
    """The first batch is measured and costs nothing; a second one of the same lengths costs their variance alone."""
    net, penalty = Linear(), PathLength(weight=1.0, every=1)
    noise, z = Noise(0, torch.arange(64)), torch.randn(64, WIDTH, requires_grad=True)
    lengths = wanted_lengths(net.a, noise.normal(SHAPE, Stream.PROBE)).detach()
    first, second = (penalty(net, z, z, {}, noise)["penalty"] for _ in range(2))
    assert not any(g.any() for g in torch.autograd.grad(first, net.a))
    assert float(second.detach()) == pytest.approx(float(lengths.var(correction=0)), rel=1e-4)
    assert float(penalty.length / penalty.share) == pytest.approx(float(lengths.mean()), rel=1e-5)


def test_lazy():
    penalty = PathLength(every=4)
    penalty.share.fill_(1.0)
    noise = Noise(0, torch.arange(2))
    z = torch.randn(2, WIDTH, requires_grad=True)
    taken = [float(penalty(Linear(), z, z, {}, noise.at(step))["penalty"].detach()) > 0.0 for step in range(9)]
    assert [step for step, was in enumerate(taken) if was] == [0, 4, 8]


def test_parts_are_the_whole():
    """The mean over the parts of penalties, and of changes of the buffer, is that of the whole batch."""
    net, z, noise = Linear(), torch.randn(8, WIDTH, requires_grad=True), Noise(0, torch.arange(8))
    whole = PathLength()
    whole.length.fill_(2.0)
    whole.share.fill_(1.0)
    total = whole(net, z, z, {}, noise)["penalty"]
    parts, lengths = [], []
    for rows in (slice(0, 4), slice(4, 8)):
        part = PathLength()
        part.length.fill_(2.0)
        part.share.fill_(1.0)
        parts.append(part(net, z[rows], z[rows], {}, Noise(0, noise.ids[rows]))["penalty"])
        lengths.append(part.length)
    torch.testing.assert_close(torch.stack(parts).mean(), total)
    torch.testing.assert_close(torch.stack(lengths).mean(), whole.length)


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"every": 0}])
def test_what_is_refused(options):
    with pytest.raises(ValueError, match="must be positive"):
        PathLength(**options)
