"""What an objective of a denoiser is: a plain function; its settings are bound with functools.partial."""

from __future__ import annotations

from typing import Protocol

from gensys.core import Batch, Loss
from gensys.denoiser import Denoiser
from gensys.noise import Noise

__all__ = ["Objective"]


class Objective(Protocol):
    """The loss of a denoiser on a batch; every random number comes from `noise`, whose step counts the steps."""

    def __call__(self, denoiser: Denoiser, batch: Batch, noise: Noise) -> Loss: ...
