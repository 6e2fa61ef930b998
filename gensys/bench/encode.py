"""Rows of encoding: images through the encoder of a KL autoencoder, per image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gensys.bench.row import Candidates, Row, Scope, deviation
from gensys.bench.timing import Call
from gensys.families.autoencoder import Autoencoder
from gensys.systems.kl_autoencoder import kl_autoencoder

__all__ = ["rows"]

_BATCH = 64  # what `gensys encode` takes at a time
_SHAPES = ((1, 32, 32), (3, 64, 64))


def rows(scope: Scope) -> Iterator[Row]:
    """Of digits and of small photographs."""
    for shape in ((1, 16, 16),) if scope.quick else _SHAPES:
        batch = 4 if scope.quick else _BATCH
        text = f"{batch}x{'x'.join(map(str, shape))}"
        yield Row("encode", text, "float32", lambda scope, shape=shape, batch=batch: _encode(scope, shape, batch))


def _encode(scope: Scope, shape: tuple[int, int, int], batch: int) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *shape, generator=generator) * 2.0 - 1.0
    model = _codec(shape)
    exact = _codec(shape).double()
    last: Any = _codec(shape)
    last = last.to(memory_format=torch.channels_last)  # the stubs of torch do not know this argument
    peers: dict[str, Call] = {"channels last": lambda: _encoded(last, x.to(memory_format=torch.channels_last))}
    if compiled := scope.compiled(lambda x: _encoded(model, x)):
        peers["torch.compile"] = lambda: compiled(x)
    return Candidates(
        ours={"gensys": lambda: _encoded(model, x)},
        peers=peers,
        error=deviation(tuple(part.detach() for part in _encoded(exact, x.double()))),
        tolerance=1e-4,
        steps=batch,
    )


def _codec(shape: tuple[int, int, int]) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kl_autoencoder(shape).eval()


def _encoded(model: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    posterior = model.encode(x)
    return posterior.mean, posterior.logvar
