"""Networks of translators: what a score looks at, and that every row goes through the network of its label."""

import pytest
import torch
from torch import nn

from gensys.nn.translator import PerLabel, Translator, patch_critic, residual_generator
from gensys.noise import Noise


@pytest.mark.parametrize(("halvings", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_score_is_of_one_patch(halvings, side):
    """The paper's 70 x 70 for three halvings: no pixel outside it has a gradient, but for the means of whole images."""
    critic = patch_critic((1, 96, 96), width=2, halvings=halvings)
    for module in list(critic):
        if isinstance(module, nn.GroupNorm):
            critic[list(critic).index(module)] = nn.Identity()
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    scores = critic(x)
    assert scores.shape == (1, 1, 96 // 2**halvings - 2, 96 // 2**halvings - 2)
    middle = scores.shape[-1] // 2
    (gradient,) = torch.autograd.grad(scores[0, 0, middle, middle], x)
    for axis in (2, 3):
        rows = gradient.abs().sum((0, 1, 5 - axis)).nonzero()[:, 0]
        assert int(rows[-1] - rows[0] + 1) == side


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12)])
@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_a_generator_gives_images_of_the_same_shape(shape, halvings):
    net = residual_generator(shape, width=4, halvings=halvings, blocks=2)
    x = torch.rand(5, *shape) * 2 - 1
    made = net(x)
    assert made.shape == x.shape
    assert made.abs().max() <= 1.0
    torch.testing.assert_close(net(x[2:3]), made[2:3], msg="a row does not see the others")
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_borders_are_no_edges():
    """Reflected, a constant image has none, so what is made of it is constant as well; with zeros around, it is not."""
    net = residual_generator((1, 8, 8), width=4, halvings=0, blocks=2)
    with torch.no_grad():
        made = net(torch.full((1, 1, 8, 8), 0.7))
    torch.testing.assert_close(made, made[..., :1, :1].expand_as(made))


def test_rows_go_through_the_network_of_their_label():
    nets = [nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)]
    both, x, label = PerLabel(nets), torch.randn(7, 3), torch.tensor([2, 0, 2, 2, 0, 0, 2])
    made = both(x, {"label": label})
    for k, row in enumerate(label.tolist()):
        torch.testing.assert_close(made[k], nets[row](x[k]))
    made.sum().backward()
    assert nets[2].weight.grad.any()
    assert torch.equal(nets[1].weight.grad, torch.zeros(3, 3)), "none of the rows, and a gradient all the same"
    translator = Translator(nets)
    z, noise = torch.empty(7, 0), Noise(0, torch.arange(7))
    assert torch.equal(translator(z, {"label": label, "image": x}, noise), made)
    assert (translator.taken, both.taken) == ({"image", "label"}, {"label"})


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (None, "nothing"),
        (torch.tensor([0, -1]), r"\(2,\), \[-1, 0\]"),
        (torch.tensor([0, 2]), r"\(2,\), \[0, 2\]"),
        (torch.tensor([0]), r"\(1,\), \[0\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(label, told):
    cond = {} if label is None else {"label": label}
    with pytest.raises(ValueError, match=rf"cond\['label'\] must be 2 numbers in \[0, 2\), got {told}"):
        PerLabel([nn.Identity(), nn.Identity()])(torch.zeros(2, 3), cond)


def test_there_must_be_an_image_for_every_row():
    z, noise = torch.empty(2, 0), Noise(0, torch.arange(2))
    for cond, told in (({}, "nothing"), ({"image": torch.zeros(3, 1, 8, 8)}, "3")):
        with pytest.raises(ValueError, match=rf"cond\['image'\] must be 2 images, which are translated, got {told}"):
            Translator([nn.Identity()])(z, cond, noise)


def test_images_that_do_not_fit_are_refused():
    for shape in ((1, 18, 16), (1, 4, 4), (16,)):
        with pytest.raises(ValueError, match="cannot be halved 2 times: their sides must be multiples of 4"):
            residual_generator(shape, halvings=2)
    with pytest.raises(ValueError, match="'width' must be at least 1"):
        residual_generator((1, 8, 8), width=0)
    for shape, halvings in (((1, 15, 16), 2), ((1, 8, 8), 0)):
        with pytest.raises(ValueError, match=f"too small for a critic that halves them {halvings} times"):
            patch_critic(shape, halvings=halvings)
