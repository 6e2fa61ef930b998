"""Other libraries that do the same jobs: which suite needs which, and how to get them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from gensys.errors import ConfigError

__all__ = ["NEEDED", "library", "require"]

NEEDED = {
    "kernels": {
        "diffusers": "diffusers",
        "faiss": "faiss-cpu",
        "normflows": "normflows",
        "vector_quantize_pytorch": "vector-quantize-pytorch",
        "zuko": "zuko",
    },
    "sampling": {"diffusers": "diffusers"},
    "training": {"diffusers": "diffusers"},
    "encode": {},
    "io": {"streaming": "mosaicml-streaming"},
}
"""suite -> module -> what pip calls it."""


def library(module: str) -> Any:
    """A module of a peer, imported when a row needs it; without types, since it may not be installed."""
    return importlib.import_module(module)


def require(suite: str) -> None:
    """Raise ConfigError, with the line that installs them, unless all peers of a suite are there."""
    missing = [package for module, package in NEEDED[suite].items() if importlib.util.find_spec(module) is None]
    if missing:
        what = ", ".join(missing)
        raise ConfigError(f"--peers of {suite} needs {what}, not installed here: pip install {' '.join(missing)}")
