"""Normalizing flows: a base law and a bijection, with the exact density of what is sampled.

    x = f^-1(z), z ~ N(0, I)           log p(x | cond) = log N(f(x; cond); 0, I) + log |det df/dx|

Dinh, Krueger and Bengio, 2014, "NICE: non-linear independent components estimation", arXiv:1410.8516, equation 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gensys.bijections.bijection import Bijection, Chain
from gensys.bijections.logit import Logit
from gensys.core import Batch, Bits, Cond, Generative, Loss
from gensys.likelihood import bin_width, density_bits, dequantise
from gensys.noise import Noise, Stream
from gensys.objectives.nll import nll

__all__ = ["SPIKE", "Flow", "of_data"]

SPIKE = 200.0
"""A gradient so many times as large as usual is taken for a fault. Of other models 20 are too many; those of a flow
grow so much in its first hundred steps, as its layers leave the identity: 3.7 to 70 for Real NVP on digits."""


class Flow(Generative):
    """bijection: from data (B, *shape) to z of as many elements, of the same shape, and back.

    width: of the bins that the data lie on (`likelihood.bin_width`), over which training spreads them; None: they are
    continuous. temperature: the standard deviation of z in `sample`; below 1 samples are likelier and less diverse, and
    no longer from the density that `log_prob` is of (Kingma and Dhariwal, 2018, arXiv:1807.03039, section 6).
    """

    full_precision = True  # what a product in bfloat16 does, its inverse does not undo

    def __init__(
        self,
        bijection: Bijection,
        shape: tuple[int, ...],
        *,
        width: float | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= temperature < math.inf:
            raise ValueError(f"'temperature' must be 0 or more and finite, got {temperature}")
        if width is not None and not width > 0:
            raise ValueError(f"'width' must be positive, or None for continuous data, got {width}")
        self.bijection, self.shape = bijection, shape
        self.width, self.temperature = width, temperature

    @property
    def conditions(self) -> frozenset[str]:
        return frozenset({"label", "vector"})

    def log_prob(self, x: Tensor, cond: Cond) -> Tensor:
        """log p(x | cond) in nats, (B,): a density. Discrete data have to be `dequantise`d by the caller."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"'x' must be (B, *{self.shape}), got {tuple(x.shape)}")
        z, logdet = self.bijection(x, cond)
        base = -0.5 * (z.square() + math.log(2.0 * math.pi))
        return base.flatten(1).sum(1) + logdet

    @torch.no_grad()
    def bits(self, x: Tensor, cond: Cond, noise: Noise, width: float | None) -> Bits:
        """From the density, exact; of pixels spread over their bins, an upper bound in expectation."""
        return density_bits(lambda y: self.log_prob(y, cond), x, noise, width, "exact density")

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        """The mean negative log-likelihood, in nats per element; of discrete data a bound of it, by dequantisation."""
        x = batch.x if self.width is None else dequantise(batch.x, noise, self.width)
        return nll(self.log_prob(x, batch.cond), math.prod(self.shape), self.width or 1.0)

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """x = f^-1(temperature z), z ~ N(0, I) a function of (seed, id)."""
        z = self.temperature * noise.normal(self.shape, Stream.INITIAL)
        return self.bijection.inverse(z, cond)


def of_data(
    parts: Sequence[Bijection],
    shape: tuple[int, ...],
    *,
    bounds: tuple[float, float] | None = None,
    temperature: float = 1.0,
) -> Flow:
    """The flow of `parts`, from data to base. bounds: None, the data are continuous; (low, high), they are pixels of
    256 levels: dequantised, and mapped to the whole line by `Logit`, so that samples are images."""
    if bounds is None:
        return Flow(Chain(*parts), shape, temperature=temperature)
    width = bin_width(256, *bounds)
    logit = Logit(bounds[0] - 0.5 * width, bounds[1] + 0.5 * width)  # the ends of the outermost bins
    return Flow(Chain(logit, *parts), shape, width=width, temperature=temperature)
