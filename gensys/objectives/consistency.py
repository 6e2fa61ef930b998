"""Consistency: two points of one trajectory must be taken to the same end of it.

    f(x_t, t) = c_skip x_t + c_out net(x_t, t)         f(x, start) = x, by the target (`targets.Boundary`)
    loss      = weight d(f(x_t, t), f(x_s, s))         s < t neighbours on a ladder of times; f(x_s, s) has no gradient

    from scratch   x_t and x_s share their data and noise: x_s = alpha_s x + sigma_s eps
    distilled      x_s is where a trained denoiser's probability flow takes x_t, in one step of a solver

As the ladder becomes fine, both have the same minimum, the end of the flow. The ladder runs from the data to the noise.
A network's dropout leaves out the same units in both calls.

Song, Dhariwal, Chen and Sutskever, 2023, "Consistency models", arXiv:2303.01469, algorithms 2 and 3; Song and Dhariwal,
2023, "Improved techniques for training consistency models", arXiv:2310.14189, table 1; Luo, Tan, Huang, Li and Zhao,
2023, "Latent consistency models: synthesizing high-resolution images with few-step inference", arXiv:2310.04378.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gensys.core import Batch, Cond, Loss
from gensys.denoiser import Denoiser
from gensys.guidance import without
from gensys.noise import Noise, Stream
from gensys.paths import Path, at_ratio, expand
from gensys.targets import Boundary, Prediction, recover

__all__ = [
    "Curriculum",
    "Ladder",
    "LevelLaw",
    "Step",
    "angles",
    "consistency",
    "ddim_step",
    "distillation",
    "end_of",
    "even",
    "heun_step",
    "karras_levels",
    "pseudo_huber",
    "require_rungs",
]


class Ladder(NamedTuple):
    """Times t (N,), growing from the start to the noise, and their levels sigma / alpha; float64."""

    t: Tensor
    level: Tensor


@lru_cache(maxsize=16)  # bisections that every step would repeat; a curriculum has fewer sizes than that
def karras_levels(path: Path, n: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Ladder:
    """n levels from `low` to `high`, or to the path's last if that is less, evenly in their rho-th roots.

    Song et al., 2023, arXiv:2303.01469, section 3.
    """
    end = path(path.span[1])
    high = min(high, end.sigma / end.alpha) if end.alpha > 0 else high  # levels beyond would all be at the last time
    u = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
    level = (low ** (1 / rho) + u * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    return Ladder(at_ratio(path, level), level)


@lru_cache(maxsize=16)
def even(path: Path, n: int, low: float = 0.002) -> Ladder:
    """n even times from that of level `low` to the path's last, as Luo et al. have it; its level may be infinite."""
    t = torch.linspace(at_ratio(path, low), path.span[1], n, dtype=torch.float64)
    c = path(t)
    return Ladder(t, c.sigma / c.alpha)


@lru_cache(maxsize=16)
def angles(path: Path, n: int, low: float = 0.002) -> Ladder:
    """n times whose angles arctan(sigma / alpha) are even, from that of level `low` to that of the path's last.

    Even times of the cosine path, for unit variance on any path: Lu and Song, 2024, arXiv:2410.11081, section 2.
    What is learnt climbs a ladder from rung to rung, and slowly where rungs are so near that both predictions move
    together: half of `karras_levels` lies where there is hardly anything but noise. (A latent DiT, distilled for 470
    steps and sampled by two calls: a Frechet distance of 2.2 times that of real images with these, 15.8 with those.)
    """
    end = path(path.span[1])
    phi = torch.linspace(math.atan(low), math.atan2(end.sigma, end.alpha), n, dtype=torch.float64)
    t = at_ratio(path, phi.tan())
    t[-1] = path.span[1]  # whose level may be infinite
    c = path(t)
    return Ladder(t, c.sigma / c.alpha)


@dataclass(frozen=True)
class Curriculum:
    """How many intervals the ladder has at a step of the training: N(k) = min(s0 2^floor(k / K'), s1).

    K' = floor(K / (log2 floor(s1 / s0) + 1)), K = doubling, the steps over which it grows, s0 = first, s1 = last. The
    paper adds 1, as it counts the rungs. Song and Dhariwal, 2023, arXiv:2310.14189, table 1.
    """

    doubling: int
    first: int = 10
    last: int = 1280

    def __post_init__(self) -> None:
        if self.doubling < 1:
            raise ValueError(f"'doubling' must be at least 1 step, got {self.doubling}")
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"'first' and 'last', numbers of intervals, must be 1 <= first <= last, got {self.first} and "
                f"{self.last}"
            )

    def __call__(self, step: int) -> int:
        each = max(1, math.floor(self.doubling / (math.log2(self.last // self.first) + 1)))
        doublings = min(step // each, 64)  # beyond `last` in any case, and no number of a thousand digits
        return min(self.first * 2**doublings, self.last)


@dataclass(frozen=True)
class LevelLaw:
    """The probability of interval i of a ladder: that of a normal ln(level) between its ends, among all intervals.

    The defaults are Song and Dhariwal's, 2023, arXiv:2310.14189, table 1.
    """

    mean: float = -1.1
    std: float = 2.0

    def cumulative(self, level: Tensor) -> Tensor:
        """(N,) levels -> (N,) from 0 to 1, the probability below each."""
        z = torch.erf((level.log() - self.mean) / (self.std * math.sqrt(2.0)))
        return (z - z[0]) / (z[-1] - z[0])

    def __call__(self, level: Tensor, u: Tensor) -> Tensor:
        """Uniform (B,) -> the number of an interval, in [0, N - 1)."""
        found = torch.searchsorted(self.cumulative(level).to(u.device), u.double(), right=True) - 1
        return found.clamp(0, level.shape[0] - 2)


def pseudo_huber(difference: Tensor, c: float | None = None) -> Tensor:
    """sqrt(|difference|^2 + c^2) - c for each row, (B,): quadratic near 0, then linear; c has the scale between.

    c: None = 0.00054 sqrt(D) for D elements, which is 0.03 for images of 32 x 32 x 3. Song and Dhariwal, 2023,
    arXiv:2310.14189, section 3.3.
    """
    flat = difference.flatten(1)
    c = 0.00054 * math.sqrt(flat.shape[1]) if c is None else c
    square = flat.square().sum(1)
    return square / ((square + c * c).sqrt() + c)  # the same number, without cancellation where the difference is small


def end_of(denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """f(x_t, t): where the trajectory ends, (B, *S). t: (B,).

    Raises: ValueError if the denoiser's target has no boundary.
    """
    if not isinstance(denoiser.target, Boundary):
        raise ValueError(
            f"'denoiser' must have a target that keeps the boundary, targets.Consistency or targets.Landing, got "
            f"{denoiser.target}"
        )
    skip, out = denoiser.target.weights(denoiser.path(expand(t, x_t)))
    return skip * x_t + out * denoiser(x_t, t, cond)


Step = Callable[[Callable[[Tensor, Tensor], Prediction], Path, Tensor, Tensor, Tensor], Tensor]
"""(predict, path, x_t, t, s) -> x_s, one step of the probability flow; t and s: (B,)."""


def ddim_step(predict: Callable[[Tensor, Tensor], Prediction], path: Path, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s = alpha_s x + sigma_s eps: Euler's step in x_t / alpha over sigma / alpha."""
    p, then = predict(x_t, t), path(expand(s, x_t))
    return then.alpha * p.x + then.sigma * p.eps


def heun_step(predict: Callable[[Tensor, Tensor], Prediction], path: Path, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The trapezoidal rule in the path's own time, as the solver `heun` has it: second order, also from pure noise on.

    On EDM's path it is EDM's. In sigma / alpha, in which every path is EDM's, it is of the same order, but the first
    steps from the noise are then long without bound.
    """

    def slope(x: Tensor, at: Tensor) -> Tensor:
        p, c = predict(x, at), path(expand(at, x))
        return c.d_alpha * p.x + c.d_sigma * p.eps

    h = expand(s - t, x_t)
    first = slope(x_t, t)
    return x_t + 0.5 * h * (first + slope(x_t + h * first, s))


def consistency(
    denoiser: Denoiser,
    batch: Batch,
    noise: Noise,
    *,
    curriculum: Curriculum,
    low: float = 0.002,
    high: float = 80.0,
    law: LevelLaw = LevelLaw(),
) -> Loss:
    """Consistency training: the mean over rows of d / (level_t - level_s) for pairs that share data and noise.

    low, high: the levels of the ladder's ends. The second network is the first without gradient, not an average of it.

    Song and Dhariwal, 2023, arXiv:2310.14189, equation 6 and table 1.
    """
    rungs = karras_levels(denoiser.path, curriculum(noise.step) + 1, low, high)
    i = law(rungs.level, noise.uniform((1,), Stream.TIME)[:, 0])
    t, s = _at(rungs.t, i + 1, batch.x), _at(rungs.t, i, batch.x)
    weight = _at(1.0 / rungs.level.diff(), i, batch.x)
    eps = noise.normal(tuple(batch.x.shape[1:]), Stream.EPS).to(batch.x.dtype)
    far, near = _mixed(denoiser.path, batch.x, eps, t), _mixed(denoiser.path, batch.x, eps, s)
    total = (weight * _distance(denoiser, far, t, near, s, batch.cond)).mean()
    return Loss(total, {"loss": total.detach(), "intervals": total.new_tensor(float(rungs.t.shape[0] - 1))})


def distillation(
    denoiser: Denoiser,
    batch: Batch,
    noise: Noise,
    *,
    teacher: Denoiser,
    ladder: Ladder,
    step: Step = heun_step,
    skip: int = 1,
    scales: tuple[float, float] = (1.0, 1.0),
) -> Loss:
    """Consistency distillation: the mean over rows of d for t and s `skip` rungs apart, evenly among the rungs.

    teacher: on the same path, of any target; it is not trained. scales: the scale of its guidance is drawn from this
    interval for each row (1 = the conditional model; Luo et al. count from there, w = scale - 1), and the student is
    told it as cond["w"]; equal ends = that scale always, and the student is not told.

    Song et al., 2023, arXiv:2303.01469, algorithm 2; Luo et al., 2023, arXiv:2310.04378, algorithm 1. Both compare with
    an average of the student's weights; here, as in arXiv:2310.14189, with the weights themselves.
    """
    require_rungs(ladder, skip, scales)
    count = ladder.t.shape[0] - skip
    teacher.to(batch.x.device)  # it is no part of the model, which is moved as a whole
    drawn = noise.uniform((2,), Stream.TIME)
    i = (drawn[:, 0] * count).long().clamp(max=count - 1)
    t, s = _at(ladder.t, i + skip, batch.x), _at(ladder.t, i, batch.x)
    eps = noise.normal(tuple(batch.x.shape[1:]), Stream.EPS).to(batch.x.dtype)
    far = _mixed(denoiser.path, batch.x, eps, t)
    scale = scales[0] + (scales[1] - scales[0]) * drawn[:, 1]
    with torch.no_grad():
        near = step(lambda x, u: _guided(teacher, x, u, batch.cond, scale), denoiser.path, far, t, s)
    cond = batch.cond if scales[0] == scales[1] else {**batch.cond, "w": scale}
    total = _distance(denoiser, far, t, near, s, cond).mean()
    return Loss(total, {"loss": total.detach()})


def require_rungs(ladder: Ladder, skip: int, scales: tuple[float, float]) -> None:
    """Refuse settings of `distillation` with which there is nothing to compare. Raises: ValueError."""
    rungs = ladder.t.shape[0]
    if rungs < 2 or not 1 <= skip < rungs:
        raise ValueError(
            f"'rungs' must be at least 2, and 'skip' in [1, rungs), as it goes from one of them to another, got "
            f"{rungs} and {skip}"
        )
    if not scales[0] <= scales[1]:
        raise ValueError(f"'scales' must be (lowest, highest), got {scales}")


def _at(values: Tensor, i: Tensor, like: Tensor) -> Tensor:
    return values.to(i.device)[i].to(like.dtype)


def _mixed(path: Path, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    c = path(expand(t, x))
    return c.alpha * x + c.sigma * eps


def _guided(teacher: Denoiser, x: Tensor, t: Tensor, cond: Cond, scale: Tensor) -> Prediction:
    """The teacher's prediction, guided row by row; without a condition there is nothing to follow."""
    if not cond or bool((scale == 1.0).all()):
        out = teacher(x, t, cond)
    else:
        both = {name: torch.cat([cond[name], value]) for name, value in without(cond).items()}
        conditional, reference = teacher(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        out = reference + expand(scale, x) * (conditional - reference)
    return recover(teacher.path(expand(t, x)), teacher.target, x, out)


def _distance(denoiser: Denoiser, far: Tensor, t: Tensor, near: Tensor, s: Tensor, cond: Cond) -> Tensor:
    """d(f(far, t), f(near, s)), (B,)."""
    devices = [far.device] if far.device.type == "cuda" else []
    # dropout draws from torch's generator: what the first call drew is put back, and drawn again by the second
    with torch.no_grad(), torch.random.fork_rng(devices):
        wanted = end_of(denoiser, near, s, cond)
    return pseudo_huber(end_of(denoiser, far, t, cond) - wanted)
