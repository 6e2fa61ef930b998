"""The family of Gaussian paths: diffusion, score-based models and flow matching are one class.

What differs between them is data: the path, the target, the objective with its law of times and weight, the solver and
its grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from gensys.core import Batch, Bits, Cond, Generative, Loss
from gensys.denoiser import Denoiser, gaussian, has_density
from gensys.guidance import Clip, Guidance, Node, Rescale, Threshold, correct, without
from gensys.kernels.linear import frozen
from gensys.likelihood import Hutchinson, density_bits, log_prob
from gensys.nn.embed import taken_by
from gensys.noise import Noise, Stream
from gensys.objectives.denoise import denoise
from gensys.objectives.objective import Objective
from gensys.paths import Scalar
from gensys.solvers.groups import Group, run_groups
from gensys.solvers.heun import heun
from gensys.solvers.program import assemble
from gensys.solvers.solver import NotLinear, Predict, Solver, draws, named
from gensys.solvers.stepper import run
from gensys.solvers.trace import Table, guide, trace
from gensys.targets import Prediction, recover, require_well_posed
from gensys.times import on, uniform

__all__ = ["Diffusion", "Sampler"]

BY_ROW = frozenset({"guidance", "seed"})  # conditions of the sampler, not of the network
_EXACT = 16  # elements of a datum up to which a likelihood takes the exact divergence: a backward pass for each


@dataclass(frozen=True)
class Sampler:
    """How samples are drawn.

    fractions: the grid, from 1 (noise) to 0 (data), as fractions of the path's span. clip: (low, high), the interval
    that every (guided) estimate of the data is clipped to, for data of known bounds; None = as the network has it.
    threshold: a percentile, see `guidance.Threshold`, for data in [-1, 1]; 0 = off.

    open_reference: None, guidance is away from the same network without its condition. What returns a weaker denoiser,
    of the same path and target: away from that one, with the same condition (autoguidance: Karras et al., 2024,
    "Guiding a diffusion model with a bad version of itself", arXiv:2406.02507). It is called once by a model, when it
    first draws. The reference is no submodule: it is neither trained nor saved with the model.
    """

    solver: Solver = heun
    fractions: tuple[float, ...] = tuple(uniform(20))
    guidance: Guidance = Guidance()  # noqa: RUF009 - a frozen value
    clip: tuple[float, float] | None = None
    threshold: float = 0.0
    open_reference: Callable[[], Denoiser] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.open_reference, nn.Module):
            raise ValueError("'open_reference' must be a function that returns a denoiser: give lambda: denoiser")
        if self.clip is not None and self.threshold:
            raise ValueError(
                f"'threshold' {self.threshold:g} clips estimates by itself, and 'clip' is {self.clip}: give one of them"
            )
        _ = self.nodes  # which check their own values

    @property
    def nodes(self) -> tuple[Node, ...]:
        """What is done to every estimate of the data, in turn."""
        nodes: list[Node] = [Rescale(self.guidance.rescale)] if self.guidance.rescale else []
        if self.threshold:
            nodes.append(Threshold(self.threshold))
        if self.clip is not None:
            nodes.append(Clip(*self.clip))
        return tuple(nodes)


class Diffusion(Generative):
    """A denoiser with what it minimises and how it samples. shape: of one datum.

    Raises: ValueError when the denoiser's target cannot be inverted at a time where the sampler calls the network; for
    guidance away from a prediction that the denoiser never learned; for a solver that adds Gaussian noise where the
    denoiser's base is another law.
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
        self._reference: tuple[Denoiser, ...] = ()  # in a tuple, where nn.Module does not look for submodules
        self.denoiser, self.shape = denoiser, shape
        self.objective, self.sampler = objective, sampler
        path, target, times = denoiser.path, denoiser.target, on(denoiser.path, list(sampler.fractions))
        if sampler.guidance.scale != 1.0 and sampler.open_reference is None:
            denoiser.require_unlabelled("denoiser")
        if denoiser.base is not gaussian and draws(sampler.solver, path, times):
            raise ValueError(
                f"'solver' {named(sampler.solver)} adds Gaussian noise as it goes, and the base of this model is "
                f"another law: the states that it walks to are none that the model was trained on. Take one that adds "
                f"none, such as euler, heun, rk4, dopri5, or ddim with eta = 0"
            )
        limit = 1e4 if sampler.clip is None else 1e6  # clipping bounds what an error of the network can do
        require_well_posed(path, target, times[:-1], limit)
        try:
            self._unguided = trace(sampler.solver, path, target, times, sampler.nodes)
        except NotLinear:  # such a solver runs eagerly
            self._unguided = None
        self.table = None if self._unguided is None else self._guided(self._unguided, sampler.guidance)
        self.program = None if self.table is None else assemble(self.table)

    def _guided(self, table: Table, guidance: Guidance) -> Table:
        return guide(table, lambda t: guidance.at(self._fraction(t)))

    @property
    def conditions(self) -> frozenset[str]:
        """What the network takes, and "guidance" and "seed" row by row; see `sample`."""
        taken = BY_ROW | taken_by(self.denoiser)
        return taken if self.denoiser.unlabelled or self.sampler.open_reference is not None else taken - {"guidance"}

    @property
    def reference(self) -> Denoiser | None:
        """What guidance is away from; None = the denoiser itself, without its condition.

        Raises: ValueError if it is of another path or target, or one of the two alone learned a variance.
        """
        if self.sampler.open_reference is None:
            return None
        if not self._reference:
            opened, own = self.sampler.open_reference(), self.denoiser
            if (opened.path, opened.target) != (own.path, own.target):
                raise ValueError(
                    f"'open_reference' (the knob 'weaker') must give a denoiser of the path {own.path} and the target "
                    f"{own.target}, as the guided one has them, got {opened.path} and {opened.target}"
                )
            if opened.learned_variance != own.learned_variance:
                raise ValueError(
                    "'open_reference' (the knob 'weaker') must give a denoiser that learned a variance if the "
                    "guided one did"
                )
            self._reference = (opened.requires_grad_(False).eval(),)
        return self._reference[0]

    def _fraction(self, t: Scalar) -> Scalar:
        low, high = self.denoiser.path.span
        return (t - low) / (high - low)

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        return self.objective(self.denoiser, batch, noise)

    def initial(self, noise: Noise) -> Tensor:
        """x at the noisy end: sigma(t_max) eps. (B, *S)"""
        sigma = self.denoiser.path(on(self.denoiser.path, [self.sampler.fractions[0]])[0]).sigma
        return sigma * self.denoiser.base(noise, self.shape, Stream.INITIAL)

    def network(self, cond: Cond, *, whole: bool = False) -> Callable[[Tensor, Scalar, bool], Tensor]:
        """The denoiser for these conditions; in a guided call for twice the rows, the second half by the reference.

        whole: with what the network outputs besides its target. t: a float, or a tensor with a time for each row of x.
        """
        cond = {name: value for name, value in cond.items() if name not in BY_ROW}
        both = {name: torch.cat([cond[name], value]) for name, value in without(cond).items()}
        reference = self.reference

        def outputs(denoiser: Denoiser, x: Tensor, times: Tensor, cond: Cond) -> Tensor:
            return denoiser.whole(x, times, cond) if whole else denoiser(x, times, cond)

        def call(x: Tensor, t: Scalar, guided: bool) -> Tensor:
            times = t.flatten() if isinstance(t, Tensor) else x.new_full((x.shape[0],), t)
            if not guided or reference is None:
                return outputs(self.denoiser, x, times, both if guided else cond)
            halves = zip((self.denoiser, reference.to(x.device)), x.chunk(2), times.chunk(2), strict=True)
            return torch.cat([outputs(denoiser, half, t, cond) for denoiser, half, t in halves])

        return call

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Execute the solver's table. Row i depends on the condition and the noise of row i alone.

        Besides what the network is conditioned on, cond may hold "guidance", (B,) float64, and "seed", (B,) int64: a
        scale and a seed for each row in place of the sampler's and the noise's.
        """
        return self.solve(self._initials(cond, noise), cond, noise)

    @torch.no_grad()
    def solve(self, x: Tensor, cond: Cond, noise: Noise) -> Tensor:
        """x_0 for a state x at the start of the grid, (B, *S), contiguous; otherwise as `sample`."""
        with frozen():  # weights are cast for autocast once, not at every call
            if BY_ROW.isdisjoint(cond):
                if self.program is None:
                    return self._eagerly(x, cond, noise)
                return run(self.program, self.network(cond), x, noise)
            if self._unguided is None:
                raise ValueError(
                    "'guidance' and 'seed' row by row need a solver that has a table: this one is not linear"
                )
            return run_groups(list(self._groups(self._unguided, cond, noise)), self.network(cond), x)

    def _initials(self, cond: Cond, noise: Noise) -> Tensor:
        """`initial`, from the seed of each row where it has one."""
        if "seed" not in cond:
            return self.initial(noise)
        rows = zip(cond["seed"].tolist(), noise.ids.split(1), strict=True)
        return torch.cat([self.initial(Noise(seed, row, noise.step)) for seed, row in rows])

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
    def bits(self, x: Tensor, cond: Cond, noise: Noise, width: float | None) -> Bits | None:
        """From `log_prob`, one probe for data of many elements; of pixels spread over their bins an upper bound."""
        if not has_density(self.denoiser):
            return None
        path = self.denoiser.path
        # the slope of some is infinite at the data
        start = 0.0 if all(map(math.isfinite, path(path.span[0]))) else 1e-5
        probe = Hutchinson(noise) if x[0].numel() > _EXACT else None
        rough = 1e-4  # a tolerance that costs a thousandth of a bit

        def density(y: Tensor) -> Tensor:
            return self.log_prob(y, cond, probe, start=start, rtol=rough, atol=rough)

        about = "probability flow, " + ("exact divergence" if probe is None else "one probe")
        return density_bits(density, x, noise, width, about)

    @property
    def evaluations(self) -> int:
        """Network calls of the solver's table, of the adaptive ones those of a first sample."""
        if self.table is not None:
            return sum(2 if self.sampler.guidance.at(self._fraction(call.t)) != 1.0 else 1 for call in self.table.calls)
        return len(self.trajectory({}, Noise(0, torch.zeros(1, dtype=torch.int64))))

    @torch.no_grad()
    def trajectory(self, cond: Cond, noise: Noise) -> list[tuple[Scalar, Tensor, Prediction]]:
        """(t, x_t, prediction) at every network call of the same solver, run eagerly: for pictures and tests.

        The prediction is the one that the solver works with: guided, and clipped if the sampler clips. t is a float, or
        (B, 1, ..., 1) of a solver whose rows have times of their own.
        """
        seen: list[tuple[Scalar, Tensor, Prediction]] = []
        self._eagerly(self.initial(noise), cond, noise, lambda t, x, p: seen.append((t, x, p)))
        return seen

    def predict(self, cond: Cond) -> Predict:
        """What solvers call for these conditions: (x_t, t) -> the prediction, guided and corrected by all nodes."""
        path, target, nodes = self.denoiser.path, self.denoiser.target, self.sampler.nodes
        guidance, split, network = self.sampler.guidance, self.denoiser.split, self.network(cond, whole=True)

        def predict(x: Tensor, t: Scalar) -> Prediction:
            c, fraction, by_row, unguided = path(t), self._fraction(t), isinstance(t, Tensor), None
            if (guidance.scale if by_row else guidance.at(fraction)) == 1.0:
                out, mix = split(network(x, t, False))
            else:
                twice = torch.cat([t, t]) if by_row else t
                both = network(torch.cat([x, x]), twice, True).chunk(2)
                (conditional, mix), (reference, _) = map(split, both)  # the variance is that of the condition
                out = guidance.blend(conditional, reference, fraction)
                unguided = recover(c, target, x, conditional).x if nodes else None
            corrected = partial(correct, nodes, conditional=unguided) if nodes else None
            return recover(c, target, x, out, corrected)._replace(mix=mix)

        return predict

    def _eagerly(
        self, x: Tensor, cond: Cond, noise: Noise, see: Callable[[Scalar, Tensor, Prediction], None] | None = None
    ) -> Tensor:
        """x_0 of the solver for the state x at the start of the grid; see: is shown every network call."""
        predict = self.predict(cond)

        def seen(x: Tensor, t: Scalar) -> Prediction:
            prediction = predict(x, t)
            if see is not None:
                see(t, x, prediction)
            return prediction

        def draw(k: int) -> Tensor:
            return noise.at(k).normal(self.shape, Stream.SOLVER)

        path = self.denoiser.path
        return self.sampler.solver(seen, path, x, on(path, list(self.sampler.fractions)), draw)
