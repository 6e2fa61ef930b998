"""The family of Gaussian paths: diffusion, score-based models and flow matching are one class.

What differs between them is data: the path, the target, the objective with its law of times and weight, the solver and
its grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gensys.core import Batch, Cond, Generative, Loss
from gensys.denoiser import Denoiser
from gensys.guidance import Guidance, without
from gensys.kernels.linear import frozen
from gensys.likelihood import Hutchinson, log_prob
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import denoise
from gensys.objectives.objective import Objective
from gensys.paths import Scalar
from gensys.solvers.groups import Group, run_groups
from gensys.solvers.heun import heun
from gensys.solvers.program import assemble
from gensys.solvers.solver import NotLinear, Solver
from gensys.solvers.stepper import run
from gensys.solvers.trace import Table, guide, trace
from gensys.targets import Prediction, recover, require_well_posed
from gensys.times import on, uniform

__all__ = ["Diffusion", "Sampler"]

BY_ROW = frozenset({"guidance", "seed"})  # conditions of the sampler, not of the network


@dataclass(frozen=True)
class Sampler:
    """How samples are drawn.

    fractions: the grid, from 1 (noise) to 0 (data), as fractions of the path's span. clip: (low, high), the interval
    that every (guided) estimate of the data is clipped to, for data of known bounds; None = as the network has it.
    """

    solver: Solver = heun
    fractions: tuple[float, ...] = tuple(uniform(20))
    guidance: Guidance = Guidance()  # noqa: RUF009 - a frozen value
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"'clip' must be (low, high) with low < high, got {self.clip}")


class Diffusion(Generative):
    """A denoiser with what it minimises and how it samples. shape: of one datum.

    Raises: ValueError when the denoiser's target cannot be inverted at a time where the sampler calls the network.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        *,
        objective: Objective = denoise,
        sampler: Sampler = Sampler(),
    ) -> None:
        super().__init__()
        self.denoiser, self.shape = denoiser, shape
        self.objective, self.sampler = objective, sampler
        path, target, times = denoiser.path, denoiser.target, on(denoiser.path, list(sampler.fractions))
        limit = 1e4 if sampler.clip is None else 1e6  # clipping bounds what an error of the network can do
        require_well_posed(path, target, times[:-1], limit)
        try:
            self._unguided = trace(sampler.solver, path, target, times, sampler.clip)
        except NotLinear:  # such a solver runs eagerly
            self._unguided = None
        self.table = None if self._unguided is None else self._guided(self._unguided, sampler.guidance)
        self.program = None if self.table is None else assemble(self.table)

    def _guided(self, table: Table, guidance: Guidance) -> Table:
        return guide(table, lambda t: guidance.at(self._fraction(t)))

    @property
    def conditions(self) -> frozenset[str]:
        return BY_ROW | {"label"}

    def _fraction(self, t: Scalar) -> Scalar:
        low, high = self.denoiser.path.span
        return (t - low) / (high - low)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        return self.objective(self.denoiser, batch, noise)

    def initial(self, noise: Noise) -> Tensor:
        """x at the noisy end: sigma(t_max) eps. (B, *S)"""
        sigma = self.denoiser.path(on(self.denoiser.path, [self.sampler.fractions[0]])[0]).sigma
        return sigma * self.denoiser.base(noise, self.shape, Stream.INITIAL)

    def network(
        self, cond: Cond, denoiser: Callable[[Tensor, Tensor, Cond], Tensor] | None = None
    ) -> Callable[[Tensor, Scalar, bool], Tensor]:
        """The denoiser for these conditions; in a guided call for twice the rows, the second half without labels.

        denoiser: what is called, None = the denoiser itself. t: a float, or a tensor with one time for each row of x.
        """
        cond = {name: value for name, value in cond.items() if name not in BY_ROW}
        both = {name: torch.cat([cond[name], value]) for name, value in without(cond).items()}

        def call(x: Tensor, t: Scalar, guided: bool) -> Tensor:
            times = t.flatten() if isinstance(t, Tensor) else x.new_full((x.shape[0],), t)
            return (denoiser or self.denoiser)(x, times, both if guided else cond)

        return call

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Execute the solver's table. Row i depends on the condition and the noise of row i alone.

        Besides what the network is conditioned on, cond may hold "guidance", (B,) float64, and "seed", (B,) int64: a
        scale and a seed for each row in place of the sampler's and the noise's.
        """
        with frozen():  # weights are cast for autocast once, not at every call
            if BY_ROW.isdisjoint(cond):
                if self.program is None:
                    return self._solve(cond, noise, lambda t, x, p: None)
                return run(self.program, self.network(cond), self.initial(noise), noise)
            if self._unguided is None:
                raise ValueError(
                    "'guidance' and 'seed' row by row need a solver that has a table: this one is not linear"
                )
            groups = list(self._groups(self._unguided, cond, noise))
            places = torch.cat([group.rows for group in groups])
            x = torch.cat([self.initial(group.noise) for group in groups])[places.argsort()]
            return run_groups(groups, self.network(cond), x)

    def _groups(self, table: Table, cond: Cond, noise: Noise) -> Iterator[Group]:
        """The rows by their (guidance, seed)."""
        rows = noise.ids.shape[0]
        scales = cond["guidance"].tolist() if "guidance" in cond else [self.sampler.guidance.scale] * rows
        seeds = cond["seed"].tolist() if "seed" in cond else [noise.seed] * rows
        alike: dict[tuple[float, int], list[int]] = {}
        for row, key in enumerate(zip(scales, seeds, strict=True)):
            alike.setdefault(key, []).append(row)
        programs = {
            scale: assemble(self._guided(table, replace(self.sampler.guidance, scale=scale)))
            for scale in dict.fromkeys(scales)
        }
        for (scale, seed), chosen in alike.items():
            places = torch.tensor(chosen, device=noise.ids.device)
            yield Group(places, programs[scale], Noise(seed, noise.ids[places], noise.step))

    def log_prob(
        self,
        x: Tensor,
        cond: Cond,
        divergence: Hutchinson | None = None,
        *,
        start: float = 0.0,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        differentiable: bool = False,
    ) -> Tensor:
        """log p(x | cond) in nats, (B,), of the probability flow that starts where the sampler does, without guidance.

        See `likelihood.log_prob`, which also gives the standard error. divergence: None = exact, at the price of a
        backward pass for every element of a datum; `Hutchinson(noise, probes)` for data of many.
        """
        end = self.sampler.fractions[0]
        return log_prob(
            self.denoiser,
            x,
            {name: value for name, value in cond.items() if name not in BY_ROW},
            divergence=divergence,
            start=start,
            end=end,
            rtol=rtol,
            atol=atol,
            differentiable=differentiable,
        ).log_prob

    @torch.no_grad()
    def trajectory(self, cond: Cond, noise: Noise) -> list[tuple[Scalar, Tensor, Prediction]]:
        """(t, x_t, prediction) at every network call of the same solver, run eagerly: for pictures and tests.

        The prediction is the one that the solver works with: guided, and clipped if the sampler clips. t is a float, or
        (B, 1, ..., 1) of a solver whose rows have times of their own.
        """
        seen: list[tuple[Scalar, Tensor, Prediction]] = []
        self._solve(cond, noise, lambda t, x, p: seen.append((t, x, p)))
        return seen

    def _solve(self, cond: Cond, noise: Noise, see: Callable[[Scalar, Tensor, Prediction], None]) -> Tensor:
        """x_0 of the solver, run eagerly; see: is shown every network call."""
        path, guidance, split = self.denoiser.path, self.sampler.guidance, self.denoiser.split
        network = self.network(cond, self.denoiser.whole)
        bounds = self.sampler.clip
        clip = None if bounds is None else partial(torch.clamp, min=bounds[0], max=bounds[1])

        def predict(x: Tensor, t: Scalar) -> Prediction:
            fraction, by_row = self._fraction(t), isinstance(t, Tensor)
            if (guidance.scale if by_row else guidance.at(fraction)) == 1.0:
                out, mix = split(network(x, t, False))
            else:
                twice = torch.cat([t, t]) if by_row else t
                both = network(torch.cat([x, x]), twice, True).chunk(2)
                (conditional, mix), (reference, _) = map(split, both)  # the variance is that of the condition
                out = guidance.blend(conditional, reference, fraction)
            prediction = recover(path(t), self.denoiser.target, x, out, clip)._replace(mix=mix)
            see(t, x, prediction)
            return prediction

        def draw(k: int) -> Tensor:
            return noise.at(k).normal(self.shape, Stream.SOLVER)

        times = on(path, list(self.sampler.fractions))
        return self.sampler.solver(predict, path, self.initial(noise), times, draw)
