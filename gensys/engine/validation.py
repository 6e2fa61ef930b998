"""A figure that says which checkpoint is the best: the loss of the averaged weights on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from gensys.core import Batch, Generative
from gensys.engine.precision import Precision, autocast
from gensys.errors import ConfigError
from gensys.noise import Noise

__all__ = ["validation_loss"]

_SEED = 0x7E57  # of no run: two runs that are compared are judged with the same noise


def validation_loss(model: Generative, batches: Iterable[Batch], precision: Precision, device: torch.device) -> float:
    """The mean loss over all rows of `batches`, with noise that is the same each time: a function of weights and rows.

    model: in evaluation mode, with one player: the losses of a game do not say which of two models is the better one.
    The weights must not ask for gradients; then nothing is kept for a backward pass, while a loss that differentiates
    (a score, a penalty) still can.
    """
    if len(set(model.players)) > 1:
        raise ConfigError(f"'model' is a game of {', '.join(dict.fromkeys(model.players))}: its losses are no score")
    total, count = 0.0, 0
    for batch in batches:
        x, ids = batch.x.to(device), batch.ids.to(device)
        cond = {name: value.to(device) for name, value in batch.cond.items()}
        with autocast(precision, device):
            loss = model.loss(Batch(x, cond, ids), Noise(_SEED, ids), model.players[0])
        total += float(loss.total.detach()) * ids.shape[0]
        count += ids.shape[0]
    if not count:
        raise ValueError("'batches' is empty: there is nothing to validate on")
    return total / count
