"""Rows of a solver's step: the fused sum with and without noise, whole steps of the stepper, and the noise alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gensys import targets
from gensys.bench.limits import copying
from gensys.bench.peers import library
from gensys.bench.row import Candidates, Row, Scope, deviation
from gensys.bench.timing import Call
from gensys.kernels.combine import combine
from gensys.kernels.philox_normal import philox_normal
from gensys.noise import Noise, Stream
from gensys.paths import Coefs
from gensys.solvers.ddim import ddim
from gensys.solvers.dpmpp import dpmpp_2m
from gensys.solvers.program import assemble
from gensys.solvers.solver import Solver
from gensys.solvers.stepper import run
from gensys.solvers.trace import trace

__all__ = ["rows"]

_SHAPES = ((16, 4, 32, 32), (16, 3, 64, 64), (64, 4, 64, 64))
_STEPS = 20
_OUTPUTS = 3  # of the network that costs nothing, in turns: a solver may still need the one before


def rows(scope: Scope) -> Iterator[Row]:
    """For batches of latents and of small images."""
    for shape in ((2, 4, 8, 8),) if scope.quick else _SHAPES:
        text = "x".join(map(str, shape))
        yield Row("combine ddim", text, "float32", lambda scope, shape=shape: _ddim_sum(scope, shape))
        yield Row("combine ddim noise", text, "float32", lambda scope, shape=shape: _noisy_sum(scope, shape))
        yield Row("stepper ddim", text, "float32", lambda scope, shape=shape: _stepper(scope, shape, _DDIM))
        yield Row("stepper dpmpp", text, "float32", lambda scope, shape=shape: _stepper(scope, shape, _DPMPP))
        yield Row("philox_normal", text, "float32", lambda scope, shape=shape: _normals(scope, shape))


@dataclass(frozen=True)
class _Discrete:
    """The variance-preserving path of 1,000 training steps whose betas grow linearly, as the schedulers of diffusers
    have it: t is a step's number, and -1 the data end. Ho, Jain and Abbeel, 2020, arXiv:2006.11239, section 4."""

    alphas: tuple[float, ...]
    span: tuple[float, float] = (-1.0, 999.0)

    @classmethod
    def of_ddpm(cls) -> _Discrete:
        kept = (1.0 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float32)).cumprod(0)
        return cls(tuple(kept.double().sqrt().tolist()))

    def __call__(self, t: Any) -> Coefs:
        alpha = 1.0 if t < 0 else self.alphas[int(t)]
        return Coefs(alpha, math.sqrt(1.0 - alpha**2), math.nan, math.nan)  # no solver here asks for the derivatives


def _state(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x and what a network says about its noise."""
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, *shape, generator=generator)
    return x, eps


def _grid() -> list[int]:
    """The times of DDIMScheduler: 950, 900, ..., 0."""
    return list(range(1000 - 1000 // _STEPS, -1, -(1000 // _STEPS)))


def _ddim_scheduler() -> Any:
    scheduler = library("diffusers.schedulers.scheduling_ddim").DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(_STEPS)
    return scheduler


def _ddim_sum(scope: Scope, shape: tuple[int, ...]) -> Candidates:
    """One deterministic step of DDIM as a sum of two tensors."""
    path, times = _Discrete.of_ddpm(), _grid()
    now, then = path(times[_STEPS // 2]), path(times[_STEPS // 2 + 1])
    a, b = then.alpha / now.alpha, then.sigma - then.alpha * now.sigma / now.alpha
    x, eps = _state(shape)
    out = torch.empty_like(x)

    def formula(x: Tensor, eps: Tensor) -> Tensor:
        data = (x - now.sigma * eps) / now.alpha
        return then.alpha * data + then.sigma * eps

    peers: dict[str, Call] = {
        "eager formula": lambda: formula(x, eps),
        "eager sum": lambda: torch.add(x * a, eps, alpha=b),
    }
    if compiled := scope.compiled(lambda x, eps: x * a + eps * b):
        peers["torch.compile"] = lambda: compiled(x, eps)
    if scope.peers:
        scheduler = _ddim_scheduler()
        t = scheduler.timesteps[_STEPS // 2]
        peers["diffusers DDIMScheduler.step"] = lambda: scheduler.step(eps, t, x, return_dict=False)[0]
    return Candidates(
        ours={
            "out=": lambda: combine(out, [x, eps], [a, b]),
            "fresh": lambda: combine(torch.empty_like(x), [x, eps], [a, b]),
        },
        peers=peers,
        error=deviation(x.double() * a + eps.double() * b),
        tolerance=1e-6,
        peer_tolerance=1e-5,  # their coefficients are float32
        limit=copying(x),
        work=3.0 * x.nbytes,
    )


def _noisy_sum(scope: Scope, shape: tuple[int, ...]) -> Candidates:
    """One step of DDIM with eta = 1: the same sum and fresh noise, which is never stored."""
    path, times = _Discrete.of_ddpm(), _grid()
    now, then = path(times[_STEPS // 2]), path(times[_STEPS // 2 + 1])
    c = then.sigma * math.sqrt(1.0 - (now.alpha * then.sigma / (then.alpha * now.sigma)) ** 2)
    a = then.alpha / now.alpha
    b = math.sqrt(then.sigma**2 - c**2) - then.alpha * now.sigma / now.alpha
    x, eps = _state(shape)
    out, z = torch.empty_like(x), torch.empty_like(x)
    noise = Noise(0, torch.arange(shape[0]), step=_STEPS // 2)

    def formula(x: Tensor, eps: Tensor) -> Tensor:
        data = (x - now.sigma * eps) / now.alpha
        return then.alpha * data + math.sqrt(then.sigma**2 - c**2) * eps + c * torch.randn_like(x)

    def alone() -> None:
        torch.randn(shape, out=z)

    peers: dict[str, Call] = {"torch.randn alone": alone, "eager formula": lambda: formula(x, eps)}
    # fallback_random: torch's own generator, or else the compiler's, which is ten times slower on a CPU
    if compiled := scope.compiled(lambda x, eps: x * a + eps * b + c * torch.randn_like(x), {"fallback_random": True}):
        peers["torch.compile"] = lambda: compiled(x, eps)
    if scope.peers:
        scheduler = _ddim_scheduler()
        t = scheduler.timesteps[_STEPS // 2]
        peers["diffusers DDIMScheduler.step"] = lambda: scheduler.step(eps, t, x, eta=1.0, return_dict=False)[0]
    return Candidates(
        ours={
            "out=": lambda: combine(out, [x, eps], [a, b], c, noise),
            "fresh": lambda: combine(torch.empty_like(x), [x, eps], [a, b], c, noise),
        },
        peers=peers,
        error=lambda result: _moments((result - a * x - b * eps) / c),
        tolerance=1.0,
        limit=copying(x),
        work=3.0 * x.nbytes,
    )


def _moments(z: Tensor) -> float:
    """How far mean and variance are from 0 and 1, in units of five standard errors: above 1 they are not normals."""
    n = z.numel()
    mean, variance = float(z.double().mean()), float(z.double().var())
    return max(abs(mean) * math.sqrt(n), abs(variance - 1.0) * math.sqrt(n / 2)) / 5.0


@dataclass(frozen=True)
class _Walk:
    """A solver of ours and the same one in diffusers. times: the grid, without the data end. reset: what a scheduler
    remembers of the walk before."""

    solver: Solver
    times: tuple[int, ...]
    name: str
    scheduler: Callable[[], Any]
    reset: Callable[[Any], None]


def _dpmpp_scheduler() -> Any:
    scheduler = library("diffusers.schedulers.scheduling_dpmsolver_multistep").DPMSolverMultistepScheduler()
    scheduler.set_timesteps(_STEPS)
    return scheduler


def _forget(scheduler: Any) -> None:
    """As `set_timesteps` does, which is called once per walk and is not timed."""
    scheduler.model_outputs = [None] * scheduler.config.solver_order
    scheduler.lower_order_nums = 0
    scheduler._step_index = None


_DDIM = _Walk(ddim, tuple(_grid()), "diffusers DDIMScheduler", _ddim_scheduler, lambda scheduler: None)
_DPMPP = _Walk(
    dpmpp_2m,
    tuple(round(999 * k / _STEPS) for k in range(_STEPS, 0, -1)),
    "diffusers DPMSolverMultistepScheduler",
    _dpmpp_scheduler,
    _forget,
)


def _stepper(scope: Scope, shape: tuple[int, ...], walk: _Walk) -> Candidates:
    """All steps of a solver around a network that costs nothing: sums, history and bookkeeping, per step."""
    path, times = _Discrete.of_ddpm(), [*map(float, walk.times), -1.0]
    program = assemble(trace(walk.solver, path, targets.noise, times))
    noise = Noise(0, torch.arange(shape[0]))
    generator = torch.Generator().manual_seed(0)
    x, *outputs = (torch.randn(shape, generator=generator) for _ in range(1 + _OUTPUTS))
    said = {t: outputs[k % _OUTPUTS] for k, t in enumerate(times)}

    def eagerly(x: Tensor, said: Mapping[float, Tensor]) -> Tensor:
        def predict(x: Tensor, t: float) -> targets.Prediction:
            return targets.recover(path(t), targets.noise, x, said[t])

        return walk.solver(predict, path, x, times, lambda k: x)

    peers: dict[str, Call] = {"eager": lambda: eagerly(x, said)}
    if scope.peers:
        peers[walk.name] = _scheduled(walk, x, said)
    return Candidates(
        ours={"stepper": lambda: run(program, lambda x, t, guided: said[t], x, noise)},
        peers=peers,
        error=deviation(eagerly(x.double(), {t: output.double() for t, output in said.items()})),
        tolerance=1e-5,
        peer_tolerance=1e-4,  # their coefficients are float32, and twenty steps add up
        steps=_STEPS,
    )


def _scheduled(walk: _Walk, x: Tensor, said: Mapping[float, Tensor]) -> Call:
    """The loop of a pipeline of diffusers, without its network."""
    scheduler = walk.scheduler()
    steps = [(t, said[float(t)]) for t in scheduler.timesteps]

    def loop() -> Tensor:
        walk.reset(scheduler)
        state = x
        for t, output in steps:
            state = scheduler.step(output, t, state, return_dict=False)[0]
        return state

    return loop


def _normals(scope: Scope, shape: tuple[int, ...]) -> Candidates:
    """Noise alone, which here depends on the sample and not on the batch."""
    noise = Noise(0, torch.arange(shape[0]))
    out, z = torch.empty(shape), torch.empty(shape)
    return Candidates(
        ours={
            "out=": lambda: philox_normal(out, noise, Stream.INITIAL),
            "fresh": lambda: noise.normal(shape[1:], Stream.INITIAL),
        },
        peers={"torch.randn out=": lambda: torch.randn(shape, out=z), "torch.randn": lambda: torch.randn(shape)},
        error=_moments,
        tolerance=1.0,
    )
