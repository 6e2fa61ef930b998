"""Games of a generator and a critic, as three functions of the critic's scores.

    the critic minimises      E real(D(x)) + E fake(D(G(z)))
    the generator minimises   E generated(D(G(z)))

    with s a score and sp(s) = log(1 + e^s), so that -sp(-s) = log sigmoid(s):
                    real(s)         fake(s)         generated(s)
    minimax         sp(-s)          sp(s)           -sp(s)          the critic is a classifier, s its logit
    non_saturating  sp(-s)          sp(s)           sp(-s)          the same, but the generator learns where it loses
    least_squares   (s - 1)^2 / 2   s^2 / 2         (s - 1)^2 / 2
    hinge           relu(1 - s)     relu(1 + s)     -s
    wasserstein     -s              s               -s              the critic is to be 1-Lipschitz

At the best critic against data p and samples q, minimax and non_saturating have the critic at 2 log 2 - 2 JS(p, q),
least_squares at 1/2 sum p q / (p + q), hinge at 2 - 2 TV(p, q) and wasserstein at -W1(p, q); where p = q these are
2 log 2, 1/4, 2 and 0.

minimax, non_saturating: Goodfellow et al., 2014, "Generative adversarial networks", arXiv:1406.2661, section 3;
least_squares: Mao et al., 2016, "Least squares generative adversarial networks", arXiv:1611.04076, equation 9;
hinge: Lim and Ye, 2017, "Geometric GAN", arXiv:1705.02894, equations 12 and 13; wasserstein: Arjovsky, Chintala and
Bottou, 2017, "Wasserstein GAN", arXiv:1701.07875, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from gensys.noise import Noise, Stream

__all__ = [
    "Game", "InstanceNoise", "hinge", "least_squares", "minimax", "non_saturating", "wasserstein",
]  # fmt: skip

Scored = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Game:
    """See above. Scores are of any shape: one a row, or a map of them, one a patch; the mean is taken over all."""

    real: Scored
    fake: Scored
    generated: Scored

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimises, (), given its scores of data and of samples."""
        return self.real(real).mean() + self.fake(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """What the generator minimises, (), given the scores of its samples."""
        return self.generated(fake).mean()


def _half_square(s: Tensor) -> Tensor:
    return 0.5 * s.square()


def _half_square_to_one(s: Tensor) -> Tensor:
    return 0.5 * (s - 1.0).square()


minimax = Game(lambda s: softplus(-s), softplus, lambda s: -softplus(s))
non_saturating = Game(lambda s: softplus(-s), softplus, lambda s: softplus(-s))
least_squares = Game(_half_square_to_one, _half_square, _half_square_to_one)
hinge = Game(lambda s: relu(1.0 - s), lambda s: relu(1.0 + s), torch.neg)
wasserstein = Game(torch.neg, lambda s: s, torch.neg)


@dataclass(frozen=True)
class InstanceNoise:
    """Normal noise on all that the critic sees, so that data and samples overlap from the start.

    level: its standard deviation at first. steps: batches over which it falls linearly to 0; 0 = it stays.

    Soenderby, Caballero, Theis, Shi and Huszar, 2016, "Amortised MAP inference for image super-resolution",
    arXiv:1610.04490, section 3.3; Arjovsky and Bottou, 2017, "Towards principled methods for training generative
    adversarial networks", arXiv:1701.04862, section 3.
    """

    level: float
    steps: int = 0

    def __post_init__(self) -> None:
        if not self.level > 0 or self.steps < 0:
            raise ValueError(f"'level' must be positive and 'steps' not negative, got {self.level} and {self.steps}")

    def at(self, step: int) -> float:
        """The standard deviation at a batch."""
        return self.level * max(0.0, 1.0 - step / self.steps) if self.steps else self.level

    def on_real(self, x: Tensor, noise: Noise) -> Tensor:
        """Data as the critic sees them."""
        return self._on(x, noise, 0)

    def on_fake(self, x: Tensor, noise: Noise) -> Tensor:
        """Samples as the critic sees them."""
        return self._on(x, noise, 1)

    def _on(self, x: Tensor, noise: Noise, which: int) -> Tensor:
        level = self.at(noise.step)
        if level == 0.0:
            return x
        eps = noise.normal((2, *x.shape[1:]), Stream.INSTANCE)[:, which]
        return x + level * eps.to(x.dtype)
