"""EfficientNet-lite0: shapes, padding by hand, and the port that its published weights are for."""

import pytest
import torch

from gensys.nn import efficientnet as module
from gensys.nn.efficientnet import EfficientNetLite0


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EfficientNetLite0(10).eval()


@pytest.mark.parametrize("side", [64, 75, 224])
def test_shapes(network, side):
    with torch.inference_mode():
        maps = network.maps(torch.zeros(2, 3, side, side))
        assert network(torch.zeros(2, 3, side, side)).shape == (2, 10)
    sides = [-(-side // 2**k) for k in range(1, 6)]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, s, s) for channels, s in zip((16, 24, 40, 112, 1280), sides, strict=True)
    ]


def test_the_odd_zero_of_a_padding_is_the_last():
    x = torch.ones(1, 1, 4, 5)
    assert module._same(x, 3, 2).shape == (1, 1, 5, 7)  # one below; one on either side
    assert module._same(x, 3, 2)[0, 0, :, 1].tolist() == [1.0] * 4 + [0.0]
    assert module._same(x, 5, 1).shape == (1, 1, 8, 9)


@pytest.mark.parametrize("side", [64, 224])
def test_equals_the_port(side):
    peer = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch as a reference")
    utils = pytest.importorskip("efficientnet_lite_pytorch.utils", reason="needs efficientnet-lite-pytorch")
    network = EfficientNetLite0().eval()
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(part.num_features)
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.01, 0.1, generator=generator)
    blocks, settings = utils.get_model_params("efficientnet-lite0", {"image_size": side})
    other = peer.EfficientNet(blocks, settings).eval()
    ours = network.state_dict()
    state = {key: ours[key.replace("._", ".").lstrip("_")] for key in other.state_dict()}
    assert len(state) == len(ours)
    other.load_state_dict(state)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    with torch.inference_mode():
        wanted, logits = other.extract_features(x), other(x)
        assert float(wanted.std()) > 1e-3
        torch.testing.assert_close(network.maps(x)[-1], wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(x), logits, rtol=1e-4, atol=1e-5)
