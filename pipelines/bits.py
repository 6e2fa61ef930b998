"""The likelihood of held-out rows, where a model has one."""

from __future__ import annotations

import torch
from gensys.pipelines.pool import BLOCK
from torch import Tensor

from gensys.core import Bits, Generative, HasBits
from gensys.data.source import Source
from gensys.errors import RunError
from gensys.evaluate.metric import Metric
from gensys.evaluate.metrics import evaluate_bits
from gensys.likelihood import bin_width
from gensys.noise import Noise

__all__ = ["bits_if_any", "bits_of"]

_BITS_SEED = 0xB175  # of dequantisation and probes: fixed, so that models are compared at the same points


def bits_of(model: Generative, source: Source, rows: Tensor) -> dict[str, Metric]:
    """The likelihood of held-out rows; RunError, which says why, where there is none."""
    if not len(rows):
        raise RunError(f"{source.name!r} has no held-out rows")
    if not isinstance(model, HasBits):
        raise RunError("this model has no likelihood of its data")
    width = bin_width() if len(source.shape) == 3 else None
    found: list[Bits] = []
    for part in rows.split(BLOCK):
        batch = source.batch(part, Noise(_BITS_SEED, part))
        bits = model.bits(batch.x, batch.cond, Noise(_BITS_SEED, part), width)
        if bits is None:
            raise RunError("this model has no likelihood of such data")
        found.append(bits)
    return evaluate_bits(torch.cat([bits.per_dim.double().cpu() for bits in found]), found[0].about)


def bits_if_any(model: Generative, source: Source, rows: Tensor) -> tuple[dict[str, Metric], list[str]]:
    """The likelihood of held-out rows and nothing; or nothing, and why there is none."""
    try:
        return bits_of(model, source, rows), []
    except RunError as error:
        return {}, [f"no bits per dimension: {error}"]
