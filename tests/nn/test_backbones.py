"""Networks: shapes, conditioning, gradients. They know no path and no loss."""

from functools import partial

import pytest
import torch
from torch import nn

from gensys.engine.recompute import recompute_blocks
from gensys.nn.autoencoder import Decoder, Encoder
from gensys.nn.dit import SIZES, DiT
from gensys.nn.embed import LabelEmbedding, TimeEmbedding, grid_positions, sinusoid
from gensys.nn.mlp import MLP
from gensys.nn.unet import UNet

SHAPE = (3, 8, 4)


def dit(classes=5, **options):
    torch.manual_seed(0)
    return DiT(SHAPE, **{"patch": 2, "width": 32, "depth": 2, "heads": 4, "classes": classes} | options)


def unet(classes=5, **options):
    torch.manual_seed(0)
    return UNet(3, **{"width": 8, "multipliers": (1, 2), "attention": (1,), "head": 8, "classes": classes} | options)


def mlp(classes=5, **options):
    torch.manual_seed(0)
    return MLP(6, width=32, classes=classes, **options)


NETS = [dit, unet, mlp]


def shape_of(net):
    return (6,) if isinstance(net, MLP) else SHAPE


def awake(net):
    """The same network with no zero in it, so that every input can be seen in the output."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(batch=4, shape=SHAPE):
    torch.manual_seed(1)
    return torch.randn(batch, *shape), torch.rand(batch)


@pytest.mark.parametrize(("shape", "patch"), [((3, 8, 4), 1), ((3, 8, 4), 2), ((3, 8, 4), 4), ((1, 6, 6), 3)])
def test_patches_are_taken_apart_and_put_together(shape, patch):
    net = DiT(shape, patch=patch, width=8, depth=1, heads=2)
    x = torch.arange(2.0 * shape[0] * shape[1] * shape[2]).view(2, *shape)
    tokens = net.tokens(x)
    assert tokens.shape == (2, shape[1] * shape[2] // patch**2, shape[0] * patch**2)
    assert torch.equal(net.image(tokens, *shape[1:]), x)
    corner = x[0, :, :patch, :patch]
    assert torch.equal(tokens[0, 0], corner.flatten())
    right = x[0, :, :patch, patch : 2 * patch] if shape[2] > patch else x[0, :, patch : 2 * patch, :patch]
    assert torch.equal(tokens[0, 1], right.flatten())


def test_another_grid_is_that_of_a_network_built_for_it():
    net = awake(dit())
    wide = DiT((3, 4, 12), patch=2, width=32, depth=2, heads=4, classes=5)
    wide.load_state_dict(net.state_dict())
    x, t = inputs(4, (3, 4, 12))
    assert torch.equal(net(x, t, {}), wide(x, t, {}))
    with pytest.raises(ValueError, match="'patch' must divide the sides of 5 x 4"):
        net(torch.zeros(1, 3, 5, 4), t[:1], {})


@pytest.mark.parametrize("net", [dit, unet])
def test_an_untrained_network_returns_zero_of_as_many_channels_as_asked(net):
    x, t = inputs()
    assert torch.equal(net()(x, t, {"label": torch.arange(4)}), torch.zeros_like(x))
    assert net(outputs=6)(x, t, {}).shape == (4, 6, *SHAPE[1:])


def test_a_unet_computes_any_size_that_it_can_halve():
    net = awake(unet(multipliers=(1, 1, 2), attention=(0, 2)))
    x, t = inputs(2, (3, 8, 12))
    assert net(x, t, {}).shape == x.shape
    with pytest.raises(ValueError, match="'x_t' must have sides that are multiples of 4"):
        net(torch.zeros(1, 3, 8, 6), t[:1], {})
    with pytest.raises(ValueError, match="'attention' must name levels"):
        unet(attention=(2,))
    with pytest.raises(ValueError, match="'head' must divide"):
        unet(head=5)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_a_dit_has_the_published_number_of_parameters(size, millions):
    """Peebles and Xie, 2022, table 4, in latents of 4 x 32 x 32 with 1,000 classes and a learned variance."""
    width, depth, heads = SIZES[size]
    with torch.device("meta"):
        net = DiT((4, 32, 32), patch=2, width=width, depth=depth, heads=heads, classes=1000, outputs=8)
    assert round(count(net) / 1e6) == millions


def test_a_unet_has_the_published_number_of_parameters():
    """Ho et al., 2020, appendix B: 35.7 million on CIFAR-10, 35,746,307 in the released weights, of the same layout but
    with a plain convolution for a resampling block, a shift without a scale, and no classes."""
    with torch.device("meta"):
        net = UNet(3, width=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(1,))
    theirs = count(net) - count(net.condition.label)
    for block in net.blocks:
        d = block.conv_in.in_channels
        theirs -= count(block.modulation) // 2 if block.resample == 1.0 else count(block) - (9 * d * d + d)
    assert theirs == 35_746_307


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (256, 32), (64, 16), (32, 8), (20, 5), (6, 1), (2, 1)])
def test_a_group_of_a_norm_has_four_channels_at_least(channels, groups):
    norm = UNet(1, width=channels, multipliers=(1,), blocks=1, attention=(), head=channels).norm
    assert norm.num_groups == groups


COMPILED = {
    "mlp": (partial(mlp, depth=2), True),
    "dit": (partial(dit, width=8, depth=1, heads=2), True),
    "unet": (partial(unet, multipliers=(1, 1), blocks=1, attention=()), False),  # its gradients take seconds to trace
}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch's tracer makes its own autograd functions
@pytest.mark.parametrize("name", COMPILED)
def test_a_network_is_one_graph(name):
    build, gradients = COMPILED[name]
    net = awake(build(vector=2)).requires_grad_(gradients)
    x, t = inputs(2, shape_of(net))
    cond = {"label": torch.tensor([1, -1]), "vector": torch.tensor([[0.1, 0.2], [torch.nan, 0.0]])}
    found = []
    for f in (net, torch.compile(net, fullgraph=True, backend="aot_eager")):
        out = f(x, t, cond)
        inner = torch.autograd.grad(out.square().sum(), [*net.parameters()], allow_unused=True) if gradients else ()
        found.append([out.detach(), *(g for g in inner if g is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", [dit, unet])
def test_recomputed_blocks_give_the_same_bits(net):
    x, t = inputs()
    found = []
    for recompute in (False, True):
        model = awake(net())
        names = list(model.state_dict())
        if recompute:
            recompute_blocks(model)
        assert list(model.state_dict()) == names
        (model(x, t, {"label": torch.arange(4)}) - x).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("net", NETS)
def test_label_time_and_input_matter_row_by_row(net):
    net = awake(net())
    shape = shape_of(net)
    x, t = inputs(4, shape)
    label = torch.tensor([0, 1, 2, -1])
    out = net(x, t, {"label": label})
    assert out.shape == x.shape
    other = net(x, t, {"label": torch.tensor([0, 3, 2, -1])})
    assert [torch.equal(a, b) for a, b in zip(out, other, strict=True)] == [True, False, True, True]
    other = net(x, t + torch.tensor([0.0, 0.0, 0.1, 0.0]), {"label": label})
    assert [torch.equal(a, b) for a, b in zip(out, other, strict=True)] == [True, True, False, True]
    other = net(torch.cat([x[:3], x[3:] + 1]), t, {"label": label})
    assert [torch.equal(a, b) for a, b in zip(out, other, strict=True)] == [True, True, True, False]


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("net", NETS)
def test_no_label_is_the_label_minus_one(net, classes):
    net = awake(net(classes=classes))
    x, t = inputs(4, shape_of(net))
    assert torch.equal(net(x, t, {}), net(x, t, {"label": torch.full((4,), -1)}))


@pytest.mark.parametrize("net", NETS)
def test_a_vector_matters_row_by_row_and_nan_is_none(net):
    net = awake(net(vector=2))
    x, t = inputs(3, shape_of(net))
    nan = float("nan")
    out = net(x, t, {"vector": torch.tensor([[0.1, 0.2], [0.3, 0.4], [nan, nan]])})
    other = net(x, t, {"vector": torch.tensor([[0.1, 0.2], [0.3, 0.5], [nan, nan]])})
    assert out.isfinite().all()
    assert [torch.equal(a, b) for a, b in zip(out, other, strict=True)] == [True, False, True]
    assert torch.equal(net(x, t, {}), net(x, t, {"vector": torch.full((3, 2), nan)}))
    with pytest.raises(ValueError, match=r"cond\['vector'\] must be \(3, 2\), got \(3, 5\)"):
        net(x, t, {"vector": torch.zeros(3, 5)})


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(IndexError):
        LabelEmbedding(3, 8)({"label": torch.tensor([4])}, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 3}, "'patch' must divide the sides"),
        ({"heads": 5}, "'width' must be a multiple of 'heads'"),
        ({"width": 6, "heads": 2}, "'width' must be a multiple of 4"),
        ({"heads": 0}, "'patch', 'width' and 'heads' must be at least 1"),
        ({"patch": 0}, "'patch', 'width' and 'heads' must be at least 1"),
        ({"depth": -1}, "'depth' 0, got .* -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        dit(**options)


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 8, "multipliers": (1, 0)}])
def test_a_unet_without_channels_is_refused(options):
    with pytest.raises(ValueError, match="'width' and 'multipliers' must be at least 1"):
        UNet(1, **options)


@pytest.mark.parametrize("outputs", [3, 6])
def test_a_folded_unet_is_a_plain_one_on_squares_of_pixels(outputs):
    net = awake(unet(fold=2, outputs=outputs))
    plain = UNet(12, width=8, multipliers=(1, 2), attention=(1,), head=8, classes=5, outputs=4 * outputs)
    plain.load_state_dict(net.state_dict())
    x, t = inputs()
    cond = {"label": torch.tensor([0, 1, 2, -1])}
    squares = x.view(4, 3, 4, 2, 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(4, 12, 4, 2)
    y = plain(squares, t, cond).view(4, outputs, 2, 2, 4, 2).permute(0, 1, 4, 2, 5, 3).reshape(4, outputs, 8, 4)
    assert torch.equal(net(x, t, cond), y)


def test_sides_that_do_not_fold_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        unet(fold=2)(torch.zeros(1, 3, 8, 6), torch.zeros(1), {})
    with pytest.raises(ValueError, match="'fold' must be at least 1"):
        unet(fold=0)


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 0}])
def test_a_perceptron_without_layers_is_refused(options):
    with pytest.raises(ValueError, match="'width' and 'depth' must be at least 1"):
        MLP(2, **options)


@pytest.mark.parametrize("build", [*NETS, *(partial(net, vector=3) for net in NETS)])
def test_every_parameter_learns_after_one_step(build):
    """The zeros at the start hide the inner layers for one step and no longer."""
    net = build()
    x, t = inputs(6, shape_of(net))
    cond = {"label": torch.tensor([0, 1, 2, 3, 4, -1])}
    if net.condition.vector is not None:
        cond["vector"] = torch.randn(6, 3).index_fill(0, torch.tensor([2]), torch.nan)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(1 if isinstance(net, MLP) else 2):
        (net(x, t, cond) - x.flip(0)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    (net(x, t, cond) - x.flip(0)).square().mean().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_the_first_step_reaches_what_starts_at_zero():
    net = dit()
    x, t = inputs()
    (net(x, t, {}) - x).square().mean().backward()
    assert net.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", NETS)
def test_output_has_the_type_of_the_input_under_autocast(make):
    net = awake(make())
    x, t = inputs(shape=shape_of(net))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x, t, {}).dtype == torch.float32


@pytest.mark.parametrize("build", NETS)
def test_a_network_in_double_precision_computes_in_it(build):
    net = awake(build())
    x, t = inputs(shape=shape_of(net))
    wanted = net(x, t, {})
    got = net.double()(x.double(), t.double(), {})
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), wanted, rtol=1e-3, atol=1e-3)
    later = net(x.double(), t.double() + 1e-9, {})  # float32 cannot tell these times
    assert 0.0 < float((later - got).abs().max().detach()) < 1e-3


def test_positions_are_no_parameters_and_stay_out_of_checkpoints():
    net = dit()
    assert "positions" not in net.state_dict()
    table = grid_positions(4, 3, 16)
    assert table.shape == (12, 16)
    assert len({tuple(row.tolist()) for row in table}) == 12
    with pytest.raises(ValueError, match="multiple of 4"):
        grid_positions(4, 3, 6)


def test_sinusoids_are_on_the_unit_circle():
    x = torch.linspace(0, 5, 7)
    table = sinusoid(x, 8)
    torch.testing.assert_close(table[:, :4] ** 2 + table[:, 4:] ** 2, torch.ones(7, 4))
    torch.testing.assert_close(table[:, 4], x.sin())
    assert TimeEmbedding(8)(torch.rand(5)).shape == (5, 8)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("widths", [(8,), (8, 16), (16, 24, 32)])
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_and_decoder_are_mirror_images(size, widths, patch, channels):
    factor = patch * 2 ** (len(widths) - 1)
    x = torch.randn(2, channels, size, 2 * size)
    z = Encoder(channels, 6, widths, patch)(x)
    assert z.shape == (2, 6, size // factor, 2 * size // factor)
    assert Decoder(channels, 6, widths, patch)(z).shape == x.shape


def test_rows_of_an_autoencoder_are_independent():
    torch.manual_seed(0)
    encoder = Encoder(1, 4, (8, 16), 2)
    x = torch.randn(5, 1, 16, 16)
    torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_an_autoencoder_gets_a_gradient():
    net = nn.Sequential(Encoder(1, 4, (8, 16), 2), Decoder(1, 4, (8, 16), 2))
    net(torch.randn(4, 1, 16, 16)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if not p.grad.abs().sum() > 0] == []
