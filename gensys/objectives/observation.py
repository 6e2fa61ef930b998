"""Observation models p(x | z): what the numbers that a decoder returns mean.

Each is a value with four functions of the decoder's numbers, `parameters`:

    outputs(channels)            how many channels (columns of a vector) a decoder returns for so many of x
    log_prob(parameters, x)      log p(x | z) in nats, (B,), summed over the elements of x
    mean(parameters)             the datum to show, (B, *S)
    sample(parameters, noise)    x ~ p(x | z), (B, *S); Stream.OBSERVE

Two parameters of an element are halves of dimension 1: location first, then the logarithm of the scale. `gives` says
what log_prob is the logarithm of: where it is a density nats depend on the units of x, where it is a probability not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gensys.columns import one_hot
from gensys.noise import Noise, Stream

__all__ = ["Bernoulli", "Columns", "DiscretisedLogistic", "Gaussian", "Observation"]

Gives = Literal["density", "probability", "neither"]

# Scales are kept above e^-7, an eighth of the distance of two values of 8 bits in [-1, 1]: a density that is learnt on
# values that repeat exactly has no largest value. e^7 is beyond all data that are scaled at all.
_LOG_SCALE = 7.0


class Observation(Protocol):
    """See the top of this file."""

    gives: ClassVar[Gives]

    def outputs(self, channels: int) -> int: ...
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor: ...
    def mean(self, parameters: Tensor) -> Tensor: ...
    def sample(self, parameters: Tensor, noise: Noise) -> Tensor: ...


def _halves(parameters: Tensor) -> tuple[Tensor, Tensor]:
    location, log_scale = parameters.chunk(2, dim=1)
    return location, log_scale.clamp(-_LOG_SCALE, _LOG_SCALE)


def _normal_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    return -0.5 * ((x - mean) * torch.exp(-log_scale)).square() - log_scale - 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Bernoulli:
    """x = +-1 with p(x = 1) = sigmoid(parameters).

    A value between -1 and 1 counts as a share of both, as is common for grey images; then it is a loss, no likelihood.
    """

    gives: ClassVar[Gives] = "neither"  # of grey images, that is

    def outputs(self, channels: int) -> int:
        return channels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(parameters, 0.5 * (x + 1.0), reduction="none").flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.tanh(0.5 * parameters)  # 2 sigmoid - 1

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(tuple(parameters.shape[1:]), Stream.OBSERVE)
        return torch.where(u < torch.sigmoid(parameters), 1.0, -1.0)


@dataclass(frozen=True)
class Gaussian:
    """x = mean + scale eps. scale: the same for all, or None = learnt, the decoder's second half is its logarithm."""

    gives: ClassVar[Gives] = "density"

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not 0.0 < self.scale < math.inf:
            raise ValueError(f"'scale' must be positive and finite, or None to learn it, got {self.scale}")

    def outputs(self, channels: int) -> int:
        return channels if self.scale is not None else 2 * channels

    def _both(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None:
            return _halves(parameters)
        return parameters, torch.full_like(parameters, math.log(self.scale))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _normal_log_prob(x, *self._both(parameters)).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return self._both(parameters)[0]

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        mean, log_scale = self._both(parameters)
        return mean + log_scale.exp() * noise.normal(tuple(mean.shape[1:]), Stream.OBSERVE)


@dataclass(frozen=True)
class DiscretisedLogistic:
    """The probability of one of `levels` evenly spaced values in [-1, 1]: the logistic density, added up over its bin.

        p(x) = s(a) - s(b),   a = (x + w/2 - m) / scale,   b = (x - w/2 - m) / scale,   s = sigmoid,   w = 2/(levels-1)

    The outermost bins reach to infinity. Salimans, Karpathy, Chen and Kingma, 2017, "PixelCNN++", arXiv:1701.05517,
    section 2.1. The difference is computed as s(a) s(-b) (1 - e^(b-a)), which loses no digits.
    """

    gives: ClassVar[Gives] = "probability"

    levels: int = 256

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"'levels' must be at least 2, got {self.levels}; 8 bits are 256")

    def outputs(self, channels: int) -> int:
        return 2 * channels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = _halves(parameters)
        half, inverse = 1.0 / (self.levels - 1), torch.exp(-log_scale)
        upper = F.logsigmoid((x + half - mean) * inverse)
        lower = F.logsigmoid(-(x - half - mean) * inverse)
        inside = upper + lower + torch.log(-torch.expm1(-2.0 * half * inverse))
        edge = 1.0 - half  # half a bin from the outermost value: rounding of x changes nothing
        return torch.where(x > edge, lower, torch.where(x < -edge, upper, inside)).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """The location, within the range of the values: the median up to half a bin."""
        return _halves(parameters)[0].clamp(-1.0, 1.0)

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        mean, log_scale = _halves(parameters)
        x = mean + log_scale.exp() * torch.logit(noise.uniform(tuple(mean.shape[1:]), Stream.OBSERVE))
        steps = self.levels - 1
        return ((x.clamp(-1.0, 1.0) + 1.0) * (0.5 * steps)).round() * (2.0 / steps) - 1.0


@dataclass(frozen=True)
class Columns:
    """Rows of a table (B, D). categories: for every column 0 = a number, or how many values 0, 1, ... it has.

    A number is a Gaussian with a learnt scale (mean, log scale), a category a softmax (logits); the decoder returns
    them one column after the other. log_prob adds densities and probabilities.

    centres, spreads: of every column, () = 0 and 1. Networks see (x - centre) / spread of a number, and the decoder's
    mean and scale are in these units; log_prob is of x. So a table need not be in units that suit a network. A number
    that never changes has a spread of 0: it is drawn as its centre, and left out of log_prob, which could grow without
    bound.
    """

    gives: ClassVar[Gives] = "density"

    categories: tuple[int, ...]
    centres: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("centres", self.centres), ("spreads", self.spreads)):
            if values and len(values) != len(self.categories):
                raise ValueError(f"{name!r} must have {len(self.categories)} numbers, one a column, got {len(values)}")
        if not all(0.0 <= spread < math.inf for spread in self.spreads):
            raise ValueError(f"'spreads' must be finite and not negative, got {self.spreads}")
        if not self.categories or min(self.categories) < 0 or 1 in self.categories:
            raise ValueError(
                f"'categories' must have for every column 0 (a number) or at least 2 (values of a category), "
                f"got {self.categories}: leave out columns that are always the same"
            )

    def _units(self, column: int) -> tuple[float, float]:
        """(centre, spread) of a column."""
        return self.centres[column] if self.centres else 0.0, self.spreads[column] if self.spreads else 1.0

    def _scaled(self, x: Tensor, column: int) -> Tensor:
        centre, spread = self._units(column)
        return (x[:, column] - centre) / (spread or 1.0)

    def _spans(self) -> list[slice]:
        ends = [0]
        for values in self.categories:
            ends.append(ends[-1] + (values or 2))
        return [slice(a, b) for a, b in pairwise(ends)]

    def outputs(self, channels: int) -> int:
        if channels != len(self.categories):
            raise ValueError(f"'categories' names {len(self.categories)} columns, and the data have {channels}")
        return self._spans()[-1].stop

    def features(self, x: Tensor) -> Tensor:
        """What an encoder sees of rows: scaled numbers, categories as one-hot vectors. (B, D) -> (B, features)."""
        scaled = [x[:, k] if values else self._scaled(x, k) for k, values in enumerate(self.categories)]
        return one_hot(self.categories, torch.stack(scaled, 1))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for k, (values, span) in enumerate(zip(self.categories, self._spans(), strict=True)):
            if values:
                index = x[:, k].round().long()
                known = (index >= 0) & (index < values)
                found = F.log_softmax(parameters[:, span], 1).gather(1, index.clamp(0, values - 1)[:, None])[:, 0]
                total = total + torch.where(known, found, -torch.inf)  # a value that the model cannot take
            elif self._units(k)[1]:
                mean, log_scale = _halves(parameters[:, span])
                found = _normal_log_prob(self._scaled(x, k), mean[:, 0], log_scale[:, 0])
                total = total + found - math.log(self._units(k)[1])
        return total

    def mean(self, parameters: Tensor) -> Tensor:
        """Means of numbers, the most likely value of categories."""
        parts = []
        for k, (values, span) in enumerate(zip(self.categories, self._spans(), strict=True)):
            centre, spread = self._units(k)
            number = centre + spread * parameters[:, span.start]
            parts.append(parameters[:, span].argmax(1).to(parameters) if values else number)
        return torch.stack(parts, 1)

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        eps, u = (draw((len(self.categories),), Stream.OBSERVE) for draw in (noise.normal, noise.uniform))
        drawn = []
        for k, (values, span) in enumerate(zip(self.categories, self._spans(), strict=True)):
            if values:
                below = F.softmax(parameters[:, span], 1).cumsum(1)[:, :-1]  # the last is 1 but for rounding
                drawn.append((u[:, k : k + 1] > below).sum(1).to(parameters))
            else:
                mean, log_scale = _halves(parameters[:, span])
                centre, spread = self._units(k)
                drawn.append(centre + spread * (mean + log_scale.exp() * eps[:, k : k + 1])[:, 0])
        return torch.stack(drawn, 1)
