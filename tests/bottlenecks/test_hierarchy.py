"""Two grids of codes, or three: what each is of, and that codes decode to what was quantised."""

import pytest
import torch
from torch import nn

from gensys.bottlenecks.ema import EmaQuantiser
from gensys.bottlenecks.fsq import ScalarQuantiser
from gensys.bottlenecks.hierarchy import HierarchicalQuantiser
from gensys.bottlenecks.residual import ResidualQuantiser
from gensys.bottlenecks.vq import VectorQuantiser
from gensys.nn.autoencoder import Decoder, Encoder


def hierarchy(bottom, top, grid=(4, 6), dim=5, given=None):
    """top: a quantiser of half the grid; given: the channels that it makes of its `dim`, if they are others."""
    coarse = (grid[0] // 2, grid[1] // 2)
    return HierarchicalQuantiser(
        dim,
        grid,
        coarse,
        down=Encoder(dim, top.dim, (8, 8)),
        top=top,
        up=Decoder(dim, given or top.dim, (8, 8)),
        join=nn.Conv2d(2 * dim, bottom.dim, 1),
        bottom=bottom,
    )


MADE = {
    "two": lambda: hierarchy(EmaQuantiser(8, 3), EmaQuantiser(8, 4)),
    "two of gradients": lambda: hierarchy(VectorQuantiser(8, 3), VectorQuantiser(8, 4)),
    "residual bottom": lambda: hierarchy(
        ResidualQuantiser([EmaQuantiser(8, 3) for _ in range(2)]), ScalarQuantiser((2, 4))
    ),
    "three": lambda: hierarchy(
        EmaQuantiser(8, 3), hierarchy(EmaQuantiser(8, 3), EmaQuantiser(8, 2), (2, 4)), (4, 8), given=5 + 3
    ),
}
GRIDS = {
    "two": ((2, 3), (4, 6)),
    "two of gradients": ((2, 3), (4, 6)),
    "residual bottom": ((2, 3), (4, 6), (4, 6)),
    "three": ((1, 2), (2, 4), (4, 8)),
}


@pytest.mark.parametrize("kind", MADE)
def test_codes_stand_for_what_was_quantised(kind):
    torch.manual_seed(0)
    made = MADE[kind]()
    z = torch.randn(7, made.dim, *made.grid)
    made(z)
    made.eval()
    out = made(z)
    counts = [a * b for a, b in GRIDS[kind]]
    assert made.grids(made.grid) == GRIDS[kind]
    assert out.codes.shape == (7, sum(counts)) == (7, *made.shape(made.grid))
    torch.testing.assert_close(made.lookup(out.codes), out.z)
    top = out.codes[:, : counts[0]].clone()
    assert torch.equal(top, MADE_TOP[kind](made, z))
    changed = out.codes.clone()
    changed[:, 0] = (changed[:, 0] + 1) % made.size  # a code of the top: what the decoder gets changes beside it
    difference = (made.lookup(changed) - out.z).abs().amax(1).flatten(1)
    assert (difference > 1e-6).sum(1).min() > 1
    last = out.codes.clone()
    last[:, -1] = (last[:, -1] + 1) % made.size  # of the last one of the bottom: at its own place alone
    difference = (made.lookup(last) - out.z).abs().amax(1).flatten(1)
    assert (difference[:, -1] > 1e-6).all()
    assert (difference[:, :-1] == 0).all()


MADE_TOP = {
    **dict.fromkeys(("two", "two of gradients", "residual bottom"), lambda m, z: m.top(m.down(z)).codes.flatten(1)),
    "three": lambda m, z: m.top.top(m.top.down(m.down(z))).codes.flatten(1),
}


def test_the_loss_is_the_sum_over_levels_and_every_part_learns():
    torch.manual_seed(0)
    made = MADE["two of gradients"]()
    z = torch.randn(7, made.dim, *made.grid, requires_grad=True)
    out = made(z)
    top = made.top(made.down(z))
    bottom = made.bottom(made.join(torch.cat([z, made.up(top.z)], 1)))
    torch.testing.assert_close(out.loss(), top.loss() + bottom.loss())
    (out.z.square().sum() + out.loss()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
    assert z.grad.abs().sum() > 0


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="'top' and 'bottom' must have as many codes, got 8 and 9"):
        hierarchy(VectorQuantiser(9, 3), VectorQuantiser(8, 3))
    with pytest.raises(ValueError, match=r"'grid' must be \(4, 6\)"):
        MADE["two"]().shape((4, 4))
