"""Style-based networks: layers against their definitions, and the statistics that their scales promise."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gensys.evaluate.equivariance import (
    rotation_equivariance,
    rotations,
    translation_equivariance,
    translations,
)
from gensys.nn.equalised import EqualConv, EqualLinear, leaky
from gensys.nn.mapping import Mapping, StyleGenerator, unit
from gensys.nn.residual_critic import ResidualCritic, group_deviation
from gensys.nn.stylegan import AdaptiveLayer, Constant, ModulatedLayer, StyleSynthesis, levels_of, modulated, pyramid
from gensys.nn.stylegan3 import AliasFreeLayer, AliasFreeSynthesis, Band, FourierInput, bands
from gensys.noise import Noise, Stream

WIDTH = 8


def synthesis(version, side=16, seed=0):
    torch.manual_seed(seed)
    shape = (1, side, side)
    if version in ("3t", "3r"):
        return AliasFreeSynthesis(shape, WIDTH, layers=5, base=8 * side, most=8, rotations=version == "3r")
    options = {"layer": AdaptiveLayer, "skip": False} if version == "1" else {"texture": version != "2 smooth"}
    return StyleSynthesis(shape, WIDTH, pyramid(shape, 4, 8), **options)


def generator(version="2", classes=0, **options):
    torch.manual_seed(1)
    return StyleGenerator(Mapping(6, WIDTH, depth=2, classes=classes), synthesis(version), **options)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [True, False])
def test_modulation_is_a_convolution_of_each_row_with_its_own_weights(up, demodulate):
    torch.manual_seed(0)
    x, weight, style = torch.randn(3, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.randn(3, 4)
    rows = []
    for k in range(3):
        own = weight * style[k][None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        row = x[k : k + 1]
        rows.append(F.conv_transpose2d(row, own.transpose(0, 1), stride=2) if up else F.conv2d(row, own, padding=1))
    found = modulated(x, weight, style, demodulate=demodulate, up=up)
    torch.testing.assert_close(found, torch.cat(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_demodulated_outputs_are_of_unit_variance_whatever_the_style(scale):
    torch.manual_seed(0)
    x, style = torch.randn(64, 32, 8, 8), scale * torch.randn(64, 32)
    y = modulated(x, torch.randn(48, 32, 3, 3), style)[..., 1:-1, 1:-1]
    assert float(y.var()) == pytest.approx(1.0, abs=0.02)


def test_doubling_keeps_the_variance_of_a_slow_signal():
    """A transposed convolution and the blur: the gain 4 stands for the zeros that were put in."""
    torch.manual_seed(0)
    layer = ModulatedLayer(64, 64, 16, WIDTH, up=True)
    x = torch.randn(16, 64, 1, 1).expand(-1, -1, 8, 8)
    with torch.no_grad():
        y = layer.blur(modulated(x, layer.weight, torch.ones(16, 64), up=True))[..., 4:-4, 4:-4]
    # of 9 taps, 1 sees an even place, 2 or 4 others: by interpolation, 9 / 4 of each of 4 phases
    assert 0.5 < float(y.var()) < 1.5


@torch.no_grad()
def test_the_critics_stages_are_those_of_the_paper():
    """Gains of rectifiers are had by the layers before them: here they are where the paper's code has them."""
    torch.manual_seed(0)
    stage = ResidualCritic((1, 8, 8), (16, 8)).stages[0]
    for conv in (stage.first, stage.second):
        torch.nn.init.normal_(conv.bias)
    x = torch.randn(3, 8, 8, 8)
    y = leaky(F.conv2d(x, stage.first.weight / math.sqrt(8 * 9), stage.first.bias, padding=1))
    y = leaky(F.conv2d(stage.blur(y), stage.second.weight / math.sqrt(8 * 9), stage.second.bias, stride=2))
    y = (y + F.conv2d(stage.halve(x), stage.skip.weight / math.sqrt(8))) / math.sqrt(2.0)
    torch.testing.assert_close(stage(x), y, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("up", [True, False])
def test_a_modulated_layer_is_that_of_the_paper(up):
    torch.manual_seed(0)
    layer = ModulatedLayer(5, 6, 8, WIDTH, up=up)
    torch.nn.init.normal_(layer.bias)
    layer.strength.fill_(0.7)
    x, w, eps = torch.randn(3, 5, 4 if up else 8, 4 if up else 8), torch.randn(3, WIDTH), torch.randn(3, 64)
    y = modulated(x, layer.weight, layer.affine(w), up=up)
    y = layer.blur(y) if up else y
    wanted = leaky(y + 0.7 * eps.view(3, 1, 8, 8) + layer.bias[:, None, None])
    torch.testing.assert_close(layer(x, w, eps), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_equalised_layers():
    """Unit variance in, unit variance out, whatever the rate; a gradient step of Adam changes outputs by rate."""
    torch.manual_seed(0)
    x = torch.randn(512, 200)
    for rate in (0.01, 1.0):
        layer = EqualLinear(200, 300, rate=rate, bias=2.0)
        y = layer(x)
        assert float(y.var()) == pytest.approx(1.0, abs=0.05)
        assert float(y.mean()) == pytest.approx(2.0, abs=0.05)
        layer.weight += 0.5
        moved = (layer(x) - y) / (0.5 * x.sum(1, keepdim=True) / math.sqrt(200))
        torch.testing.assert_close(moved, torch.full_like(moved, rate), atol=1e-2, rtol=1e-2)
    conv = EqualConv(32, 64, 3, padding=1)
    assert float(conv(torch.randn(16, 32, 8, 8))[..., 1:-1, 1:-1].var()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "build", [partial(Mapping, 16, 16, classes=10), partial(ResidualCritic, (1, 8, 8), (16, 8), classes=10)]
)
def test_labels_are_still_told_apart_when_all_of_them_were_pulled_one_way(build):
    """A hundred of Adam's steps along what labels have in common, the score of the real: they are normalised, and what
    is far below 1 at first would all point there."""
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.Adam(net.label.parameters(), lr=2e-3, betas=(0.0, 0.99))
    for _ in range(100):
        for p in net.label.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    labels = unit(net.label({"label": torch.arange(10)}, 10).detach())
    cosines = (labels @ labels.T / labels.shape[1])[~torch.eye(10, dtype=torch.bool)]
    assert abs(float(cosines.mean())) < 0.2


def test_bounded_images_lie_in_the_range_of_pixels():
    noise = Noise(3, torch.arange(8))
    z = 3.0 * noise.normal((6,), Stream.INITIAL)
    linear, bounded = generator("2").eval(), generator("2", bounded=True).eval()
    torch.testing.assert_close(bounded(z, {}, noise), torch.tanh(linear(z, {}, noise)))
    assert float(linear(z, {}, noise).detach().abs().max()) > 1.0


def test_group_deviation():
    torch.manual_seed(0)
    x = torch.randn(10, 3, 4, 4)
    found = group_deviation(x, 4)
    assert found.shape == (10, 1, 4, 4)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        wanted = x[rows].std(0, correction=0).mean()
        torch.testing.assert_close(found[rows], wanted.expand_as(found[rows]), atol=1e-6, rtol=1e-5)
    halves = torch.cat([group_deviation(part, 4) for part in (x[:4], x[4:])])
    assert torch.equal(halves, found)


@pytest.mark.parametrize("version", ["1", "2", "2 smooth", "3t", "3r"])
@pytest.mark.parametrize("side", [16, 32])
def test_doubling_the_resolution_changes_only_configuration(version, side):
    net = synthesis(version, side)
    w = torch.randn(3, net.layers, WIDTH)
    eps = torch.randn(3, net.noises) if net.noises else None
    image = net(w, eps)
    assert image.shape == (3, 1, side, side)
    image.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())] == []
    critic = ResidualCritic((1, side, side), pyramid((1, side, side), 4, 8))
    assert critic(image.detach(), {}).shape == (3,)


@pytest.mark.parametrize("version", ["1", "2", "3t"])
def test_a_row_is_its_own(version):
    """Where nothing is trained, and in training: also the noise inputs and the mixing of styles."""
    net = generator(version, classes=3)
    noise, cond = Noise(4, torch.arange(5)), {"label": torch.tensor([0, 1, 2, -1, 1])}
    one = Noise(4, torch.tensor([3]))
    for mode in (True, False):
        net.train(mode)
        z = noise.normal((6,), Stream.INITIAL)
        alone = net(z[3:4], {"label": cond["label"][3:4]}, one) if not mode else None
        whole = net(z, cond, noise)
        if alone is not None:
            torch.testing.assert_close(whole[3:4], alone, atol=1e-5, rtol=1e-5)
    assert not torch.equal(whole[1], whole[4])


def test_mixing_and_truncation():
    net = generator(mixing=1.0, truncation=0.5)
    noise = Noise(0, torch.arange(200))
    z = noise.normal((6,), Stream.INITIAL)
    net.train()
    w = net.styles(z, {}, noise)
    other = net.mapping.eval()(noise.normal((6,), Stream.STYLE), {})
    first = net.mapping(z, {})
    net.mapping.train()
    own, mixed = (torch.isclose(w, part[:, None], atol=1e-6).all(2) for part in (first, other))
    assert bool((own ^ mixed).all())
    assert bool(own[:, 0].all())  # a sample begins with its own style
    assert bool(mixed[:, -1].all())  # and here ends with the other
    begins = own.sum(1)
    assert set(begins.tolist()) == set(range(1, net.synthesis.layers))
    net.eval()
    mean = net.mapping.mean
    assert float(mean.abs().max()) > 0.0
    torch.testing.assert_close(net.styles(z, {}, noise)[:, 0], mean + 0.5 * (first - mean))


def test_the_mean_style_of_parts_is_that_of_the_whole():
    z, mapping = torch.randn(8, 6), Mapping(6, WIDTH, depth=2, decay=0.9)
    mapping(z, {})
    whole, changes = mapping.mean.clone(), []
    for part in z.chunk(2):
        mapping.mean.zero_()
        mapping(part, {})
        changes.append(mapping.mean.clone())
    torch.testing.assert_close(torch.stack(changes).mean(0), whole)


def test_inputs_move_by_the_shift():
    torch.manual_seed(0)
    w = torch.randn(2, WIDTH)
    shift = torch.tensor([[0.25, 0.0], [-0.25, 0.5]])
    constant = Constant(3)
    still, moved = constant(w, None), constant(w, shift)
    for k, (dx, dy) in enumerate(((1, 0), (-1, 2))):  # in pixels of 4 x 4
        torch.testing.assert_close(moved[k], still[k].roll((dy, dx), (1, 2)), atol=1e-5, rtol=0)
    fourier = FourierInput(5, 36, 16, 2.0, WIDTH)
    with torch.no_grad():
        fourier.affine.weight.normal_()  # turned and moved by the style as well
    still, moved = fourier(w, None), fourier(w, shift)
    torch.testing.assert_close(moved[0, :, :, 4:], still[0, :, :, :-4], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[1, :, 8:, :-4], still[1, :, :-8, 4:], atol=1e-4, rtol=0)


def test_bands():
    """The paper's table for 256: cutoffs from 2 to 128, and the layers that the published code makes."""
    plan = bands(256, 3)
    assert [band.side for band in plan] == [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2
    assert [band.channels for band in plan] == [512] * 7 + [362, 256, 181, 128, 91, 64, 64, 3]
    assert plan[0].cutoff == 2.0
    assert all(band.cutoff == pytest.approx(128.0) for band in plan[-3:])
    assert [band.critical for band in plan] == [False] * 12 + [True] * 3
    assert all(band.cutoff + band.half_width >= band.rate / 2 for band in plan)


@pytest.mark.parametrize("radial", [False, True])
def test_the_rectifier_leaves_no_folded_harmonics(radial):
    """A wave of period 3.5 samples: its harmonics are above half the rate, and without the filters they come back as
    periods of 7 / 3 and 7 samples. The wave and its mean are all that stays."""
    torch.manual_seed(0)
    band = Band(side=36, rate=16, cutoff=2.0, half_width=6.0, channels=1, critical=False)
    layer = AliasFreeLayer(band, band, WIDTH, kernel=1, radial=radial, exit=False)
    wave = torch.sin(2 * math.pi / 3.5 * torch.arange(36)).expand(1, 1, 36, 36)
    with torch.no_grad():
        y = layer(wave, torch.randn(1, WIDTH))[0, 0, 18, 7:28]  # where no filter reaches the border: 6 periods
    power = torch.fft.rfft(y.double()).abs().square()
    assert float(power[0]) > 0.1 * float(power[6])
    others = power.sum() - power[0] - power[6]
    assert float(others) < 1e-4 * float(power[6])


def test_running_power_makes_features_of_unit_variance():
    net = synthesis("3t").train()
    with torch.no_grad():
        for layer in net.body:
            layer.decay = 0.5
        for step in range(10):
            torch.manual_seed(step)
            net(torch.randn(4, net.layers, WIDTH))
        powers = [float(layer.power) for layer in net.body]
    assert all(0.02 < power < 3.0 for power in powers)
    assert len({round(power, 3) for power in powers}) == len(powers)


def equivariance(net, whole=True):
    shift = translations(Noise(0, torch.arange(8)), 32, whole=whole)
    w = torch.randn(8, net.layers, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scale = 0.5 / net(w).std()  # images of one contrast, or a pale one would seem to move well
    return translation_equivariance(lambda s: scale * net(w, None, s), shift)


def test_version_3_moves_with_its_input_and_version_2_does_not():
    """Of untrained weights, at one contrast: what version 2 makes is smooth then, which hides what its layers do."""
    of = {version: synthesis(version, 32) for version in ("2", "3t", "3r")}
    before = equivariance(of["2"])
    assert before < 25.0
    for version in ("3t", "3r"):
        for whole in (True, False):
            assert equivariance(of[version], whole) > max(30.0, before + 15.0)


def test_version_r_turns_with_its_input_by_any_angle():
    found = {}
    for version in ("3t", "3r"):
        net = synthesis(version, 32)
        w = torch.randn(8, net.layers, WIDTH, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            scale = 0.5 / net(w).std()
        turned = partial(lambda turn, net, w, scale: scale * net(w, turn=turn), net=net, w=w, scale=scale)
        found[version] = rotation_equivariance(turned, rotations(Noise(0, torch.arange(8))))
    assert found["3r"] > 50.0
    assert found["3t"] < 20.0


def test_version_r_turns_with_its_input():
    """A quarter turn of the waves is one of the image, which version T's 3 x 3 weights do not give."""
    errors = {}
    for version in ("3t", "3r"):
        net = synthesis(version, 32)
        w = torch.randn(4, net.layers, WIDTH, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            still = net(w)
            net.input.affine.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
            turned = net(w)
        errors[version] = min(float((turned - still.rot90(k, (2, 3))).square().mean() / still.var()) for k in (1, -1))
    assert errors["3r"] < 1e-3
    assert errors["3t"] > 1e-1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(levels_of, (1, 24, 24)), "side = 4, 8, 16"),
        (partial(levels_of, (1, 16, 32)), "side = 4, 8, 16"),
        (partial(levels_of, (1, 2, 2)), "side = 4, 8, 16"),
        (partial(StyleSynthesis, (1, 16, 16), 8, (4, 4)), "'channels' must be 3 numbers"),
        (partial(ResidualCritic, (1, 16, 16), (4, 4)), "'channels' must be 3 numbers"),
        (partial(AliasFreeSynthesis, (1, 24, 24), 8), "power of two of at least 16"),
        (partial(AliasFreeSynthesis, (1, 16, 32), 8), "side, side"),
        (partial(bands, 32, 1, layers=2), "'critical' layers"),
        (partial(group_deviation, torch.zeros(2, 1, 1, 1), 0), "at least 1"),
        (partial(generator, mixing=1.5), "probability"),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(ValueError, match=message):
        make()
