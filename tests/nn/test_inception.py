"""Inception-v3: shapes, and torch-fidelity's port with the same random weights."""

import pytest
import torch

from gensys.nn import inception as module
from gensys.nn.inception import InceptionV3


@pytest.fixture(scope="module")
def network():
    """Random weights, and statistics of the normalisations that keep the signal alive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = InceptionV3()
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, generator=torch.Generator().manual_seed(part.weight.numel()))
        if isinstance(part, torch.nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(part.num_features)
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def images(n, side):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))


def test_shapes_and_size(network):
    with torch.inference_mode():
        maps = network.maps(images(1, 32))
        logits = network(images(2, 40))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 73, 73), (192, 35, 35), (768, 17, 17), (2048, 8, 8)]
    assert logits.shape == (2, 1008)


def test_the_resize_has_its_pixels_corner_on_corner():
    """Twice as large: every second pixel is one of the source, those between are means, and the last is repeated."""
    x = torch.tensor([0.0, 4.0, 8.0]).expand(1, 1, 3, 3)
    assert module._tensorflow_bilinear(x, 6)[0, 0, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]
    y = torch.rand(1, 2, 299, 299)
    assert torch.equal(module._tensorflow_bilinear(y, 299), y)


def test_grey_images_are_refused(network):
    with pytest.raises(ValueError, match="repeat a grey channel"):
        network(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("side", [32, 299])
def test_equals_torch_fidelity(network, fidelity, side, monkeypatch):
    theirs = fidelity("feature_extractor_inceptionv3")
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *args, **settings: network.state_dict())
    other = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["64", "192", "768", "2048", "logits_unbiased"])
    x = images(2, side)
    with torch.inference_mode():
        wanted = other(x)
        maps, logits = network.maps(x), network(x)
    got = [m.mean((2, 3)) for m in maps] + [logits]
    for ours, reference in zip(got, wanted, strict=True):
        assert float(reference.std()) > 1e-3
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))
