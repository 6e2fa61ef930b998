"""A denoiser: a network, the path it was trained on and the target it outputs, seen as one function to (x, eps)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gensys.core import Cond
from gensys.nn.embed import CLOCK, taken_by
from gensys.noise import Noise, Stream
from gensys.paths import Path, expand
from gensys.targets import Boundary, Target

__all__ = ["Base", "Denoiser", "gaussian", "has_density", "require_density"]

_FARTHEST = 24.0 * math.log(2.0)  # beyond, float32 holds only one of alpha x and sigma eps in their sum

Base = Callable[[Noise, tuple[int, ...], Stream], Tensor]
"""(noise, shape, stream) -> one eps for each id, (B, *shape)."""


def gaussian(noise: Noise, shape: tuple[int, ...], stream: Stream) -> Tensor:
    """eps ~ N(0, I)."""
    return noise.normal(shape, stream)


class Denoiser(nn.Module):
    """net(x_t, t, cond) -> a(t) x + b(t) eps, of the shape of x_t. x_t: (B, *S); t: (B,), on the path's clock.

    sigma_data: None, the network sees x_t and t as they are. The standard deviation of the data: it sees
    x_t / sqrt((sigma_data alpha)^2 + sigma^2), of unit variance at every t, and ln(sigma / alpha) / 4 for t, as paths
    of unbounded noise need it (Karras et al., 2022, arXiv:2206.00364, table 1, for any alpha). Levels sigma / alpha
    below 2^-24 and above 2^24 are told to the network as these: at the ends of a path the logarithm is infinite. The
    network is given a `CLOCK`th of it, so that what its sinusoids see is what EDM's do: it varies over a few units.

    base: the law of eps. Flow matching may carry any law to the data's; everything else wants it `gaussian`.

    learned_variance: the network returns twice the channels: the target, and v, which says where a reverse step's
    log-variance lies between its two bounds (Nichol and Dhariwal, 2021, arXiv:2102.09672, equation 15). A call of the
    denoiser gives the target alone, so that whatever needs no variance works with it as with any other; `whole` and
    `split` give both.

    unlabelled: whether it is trained without its condition too. If not, it has no unconditional prediction that could
    be guided away from: what it returns without a condition is what its weights happened to be.
    """

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        target: Target,
        *,
        sigma_data: float | None = None,
        base: Base = gaussian,
        learned_variance: bool = False,
        unlabelled: bool = True,
    ) -> None:
        super().__init__()
        if sigma_data is not None and not 0.0 < sigma_data < math.inf:
            raise ValueError(
                f"'sigma_data' must be positive, got {sigma_data}: the standard deviation of the data, about 0.5 for "
                f"images in [-1, 1]; None leaves the network's inputs as they are"
            )
        self.net = net
        self.path = path
        self.target = target
        self.sigma_data = sigma_data
        self.base = base
        self.learned_variance = learned_variance
        self.unlabelled = unlabelled

    def require_unlabelled(self, name: str) -> None:
        """Refuse guidance away from a prediction that was never trained. Raises: ValueError, which calls it `name`."""
        if not self.unlabelled and taken_by(self.net):
            raise ValueError(
                f"{name!r} was never trained without its condition ('dropout' was 0), so there is nothing that "
                f"'guidance' could lead away from: sample with guidance=1, name another run to be guided away from "
                f"with 'weaker', or train with dropout=0.1"
            )

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's estimate of its target, (B, *S)."""
        return self.split(self.whole(x_t, t, cond))[0]

    def split(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """All that the network returns -> (target, mix = (v + 1) / 2); no mix where the variance is not learned.

        v is not bounded. It is -1 at the variance of the posterior and 1 at that of the step forward, as in the
        authors' code, so a network that starts at 0 starts between them.
        """
        if not self.learned_variance:
            return raw, None
        output, v = raw.chunk(2, dim=1)
        return output, 0.5 * (v + 1.0)

    def whole(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """All that the network returns: (B, *S), or (B, 2 C, ...) where the variance is learned."""
        if self.sigma_data is None:
            return self.net(x_t, t, cond)
        c = self.path(t.double())  # in float32 the last bit of a logarithm depends on a row's place in the batch
        scale = ((self.sigma_data * c.alpha) ** 2 + c.sigma**2).rsqrt().to(x_t.dtype)
        level = (torch.log(c.sigma) - torch.log(c.alpha)).clamp(-_FARTHEST, _FARTHEST)
        return self.net(expand(scale, x_t) * x_t, (level / (4.0 * CLOCK)).to(t.dtype), cond)

    def along(self, x: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, the target of the network) for data, noise and times (B,)."""
        c = self.path(expand(t, x))
        a, b = self.target(c)
        return c.alpha * x + c.sigma * eps, a * x + b * eps


def has_density(denoiser: Denoiser) -> bool:
    """Whether the formulas of path models give its likelihood: see `require_density`."""
    return not isinstance(denoiser.target, Boundary) and denoiser.base is gaussian


def require_density(denoiser: Denoiser) -> None:
    """Refuse a denoiser whose likelihood the formulas of path models do not give.

    Raises: ValueError for a consistency model, which predicts ends of trajectories and no mean of the data, and for a
    base that is not Gaussian, as the density at the noisy end is taken to be.
    """
    if isinstance(denoiser.target, Boundary):
        raise ValueError(
            "'denoiser' is a consistency model, which predicts ends of trajectories and no mean of the data, so that "
            "it has no probability flow and no likelihood: take the path model that it was made from, or one like it"
        )
    if denoiser.base is not gaussian:
        raise ValueError(
            "'denoiser' has a base of its own, and the density of the noise is taken to be Gaussian: train it with "
            "base=gaussian to have likelihoods"
        )
