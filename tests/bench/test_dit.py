"""diffusers' transformer with our weights is our transformer."""

import pytest
import torch

from gensys.bench.dit import Size, network, of_diffusers, of_gensys
from gensys.bench.row import deviation
from gensys.kernels.dispatch import force

SIZE = Size.of(quick=True)


@pytest.fixture
def both():
    pytest.importorskip("diffusers")
    net = network(of_gensys(SIZE)).eval()
    return net, of_diffusers(net, SIZE).eval()


def outputs(net, peer):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, *SIZE.shape, generator=generator)
    t, label = torch.tensor([0.02, 0.5, 0.97]), torch.tensor([4, -1, 0])
    theirs = peer(x, 1000.0 * t, torch.where(label < 0, SIZE.classes, label), return_dict=False)[0]
    return net(x, t, {"label": label}), theirs


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_the_same_weights_give_the_same_outputs(both):
    ours, theirs = outputs(*both)
    assert ours.abs().mean() > 0.05, "a network that returns nothing would prove nothing"
    assert deviation(ours)(theirs) < 1e-5


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_every_weight_of_ours_is_in_theirs(both):
    net, peer = both
    for name, weight in net.named_parameters():
        kept = weight.clone()
        weight.mul_(1.5).add_(0.1)
        ours, _ = outputs(net, peer)
        _, theirs = outputs(net, of_diffusers(net, SIZE).eval())
        assert deviation(ours)(theirs) < 1e-5, name
        weight.copy_(kept)


def test_our_model_is_random_everywhere():
    assert all(parameter.any() for parameter in of_gensys(SIZE).parameters())


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.parametrize("grad", [False, True])
def test_the_compiler_sees_our_model_as_one_graph(grad):
    """A piece that it did not see would be run eagerly, in the row that is called torch.compile."""
    net = network(of_gensys(SIZE))
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    x, t = torch.randn(2, *SIZE.shape), torch.rand(2)
    with force("reference"), torch.set_grad_enabled(grad):
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                cond = {"label": torch.tensor([1, -1])}
                assert deviation(net(x, t, cond))(compiled(x, t, cond)) < 1e-2
