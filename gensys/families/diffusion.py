"""The family of Gaussian paths: diffusion, score-based models and flow matching are one class.

What differs between them is data: the path, the target, the law of times, the weight, the solver and its grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.core import Batch, Cond, Generative, Loss
from gensys.denoiser import Denoiser
from gensys.guidance import Guidance, without
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import Weight, denoise, even
from gensys.solvers.heun import heun
from gensys.solvers.solver import Solver
from gensys.solvers.stepper import execute
from gensys.solvers.trace import Table, guide, trace
from gensys.targets import Prediction, recover, require_well_posed
from gensys.times import LogitNormal, TimeLaw, on, uniform

__all__ = ["Diffusion", "Sampler"]


@dataclass(frozen=True)
class Sampler:
    """How samples are drawn. fractions: the grid, from 1 (noise) to 0 (data), as fractions of the path's span."""

    solver: Solver = heun
    fractions: tuple[float, ...] = tuple(uniform(20))
    guidance: Guidance = Guidance()  # noqa: RUF009 - a frozen value


class Diffusion(Generative):
    """A denoiser with its training law and its sampler. shape: of one datum.

    Raises: ValueError when the denoiser's target cannot be inverted at a time where the sampler calls the network.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        shape: tuple[int, ...],
        *,
        law: TimeLaw = LogitNormal(),  # noqa: B008 - a frozen value
        weight: Weight = even,
        dropout: float = 0.0,
        sampler: Sampler = Sampler(),
    ) -> None:
        super().__init__()
        self.denoiser, self.shape = denoiser, shape
        self.law, self.weight, self.dropout = law, weight, dropout
        self.sampler = sampler
        self.table = self._table(sampler)

    def _table(self, sampler: Sampler) -> Table:
        path, target = self.denoiser.path, self.denoiser.target
        times = on(path, list(sampler.fractions))
        require_well_posed(path, target, times[:-1])
        return guide(trace(sampler.solver, path, target, times), lambda t: sampler.guidance.at(self._fraction(t)))

    def _fraction(self, t: float) -> float:
        low, high = self.denoiser.path.span
        return (t - low) / (high - low)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        return denoise(self.denoiser, batch, noise, law=self.law, weight=self.weight, dropout=self.dropout)

    def initial(self, noise: Noise) -> Tensor:
        """x at the noisy end: sigma(t_max) z. (B, *S)"""
        sigma = self.denoiser.path(on(self.denoiser.path, [self.sampler.fractions[0]])[0]).sigma
        return sigma * noise.normal(self.shape, Stream.INITIAL)

    def network(self, cond: Cond, x: Tensor, t: float, guided: bool) -> tuple[Tensor, Tensor | None]:
        """The network's output for the condition and, if guided, for the reference: one call on twice the rows."""
        if not guided:
            return self.denoiser(x, x.new_full((x.shape[0],), t), cond), None
        both = {name: torch.cat([cond[name], value]) for name, value in without(cond).items()}
        out = self.denoiser(torch.cat([x, x]), x.new_full((2 * x.shape[0],), t), both)
        conditional, reference = out.chunk(2)
        return conditional, reference

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Execute the solver's table. Row i depends on the condition and the noise of row i alone."""
        return execute(self.table, lambda x, t, guided: self.network(cond, x, t, guided), self.initial(noise), noise)

    @torch.no_grad()
    def trajectory(self, cond: Cond, noise: Noise) -> list[tuple[float, Tensor, Prediction]]:
        """(t, x_t, guided prediction) at every network call of the same solver, run eagerly: for pictures and tests."""
        seen: list[tuple[float, Tensor, Prediction]] = []
        path, guidance = self.denoiser.path, self.sampler.guidance

        def predict(x: Tensor, t: float) -> Prediction:
            fraction = self._fraction(t)
            out, reference = self.network(cond, x, t, guidance.at(fraction) != 1.0)
            if reference is not None:
                out = guidance.blend(out, reference, fraction)
            seen.append((t, x, recover(path(t), self.denoiser.target, x, out)))
            return seen[-1][2]

        def draw(k: int) -> Tensor:
            return noise.at(k).normal(self.shape, Stream.SOLVER)

        times = on(path, list(self.sampler.fractions))
        self.sampler.solver(predict, path, self.initial(noise), times, draw)
        return seen
