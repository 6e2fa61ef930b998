"""The rows of a sampling step: a DiT-S/2 with guidance, from the initial noise on, per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gensys.bench.dit import PRECISION, SCALE, TIMES, Size, network, of_diffusers, of_gensys, plain
from gensys.bench.memory import peak
from gensys.bench.peers import library
from gensys.bench.row import Candidates, Row, Scope, deviation
from gensys.bench.timing import Call
from gensys.denoiser import Denoiser
from gensys.engine.precision import autocast
from gensys.families.diffusion import Diffusion
from gensys.noise import Noise, Stream

__all__ = ["builders", "rows"]


def rows(scope: Scope) -> Iterator[Row]:
    """In float32, and in bfloat16 under autocast."""
    for dtype in PRECISION:
        yield Row("dit sampling step", str(Size.of(scope.quick)), dtype, lambda s, dtype=dtype: _step(s, dtype))


_WEIGHED = ("gensys", "diffusers")  # the memory of a compiler is not that of what it compiled


def _step(scope: Scope, dtype: str) -> Candidates:
    made = builders(scope.quick, dtype)
    wanted = ["reference kernels", *([] if scope.quick else ["torch.compile"]), *(["diffusers"] if scope.peers else [])]
    return Candidates(
        ours={"gensys": made["gensys"]()},
        peers={name: made[name]() for name in wanted},
        error=deviation(builders(scope.quick, "float32")["reference kernels"]()()),
        tolerance=1e-4 if dtype == "float32" else 3e-2,
        steps=len(TIMES) - 1,
        peak=None if scope.quick else lambda name: peak(__name__, False, dtype, name) if name in _WEIGHED else None,
    )


def builders(quick: bool, dtype: str) -> dict[str, Callable[[], Call]]:
    """candidate -> what makes it: a call that draws a batch of samples, all of the same noise and labels."""
    size, device = Size.of(quick), torch.device("cpu")
    noise = Noise(0, torch.arange(size.batch))
    label = torch.arange(size.batch) % size.classes

    def call(sample: Callable[[], Tensor]) -> Call:
        @torch.no_grad()
        def drawn() -> Tensor:
            with autocast(PRECISION[dtype], device):
                return sample()

        return drawn

    def gensys() -> Call:
        model = of_gensys(size).eval()
        return call(lambda: model.sample({"label": label}, noise))

    def compiled() -> Call:
        torch._dynamo.reset()
        model = of_gensys(size).eval()
        denoiser = model.denoiser
        net: Any = torch.compile(denoiser.net, dynamic=False, fullgraph=True)  # or it fails: see Scope.compiled
        fast = Diffusion(Denoiser(net, denoiser.path, denoiser.target), size.shape, sampler=model.sampler)
        return plain(call(lambda: fast.sample({"label": label}, noise)))

    return {
        "gensys": gensys,
        "reference kernels": lambda: plain(gensys()),
        "torch.compile": compiled,
        "diffusers": lambda: call(_of_diffusers(size, label, noise)),
    }


def _of_diffusers(size: Size, label: Tensor, noise: Noise) -> Callable[[], Tensor]:
    """The loop of a pipeline of diffusers: its transformer, its scheduler, guidance as its DiTPipeline has it."""
    schedulers = library("diffusers.schedulers.scheduling_flow_match_euler_discrete")
    model = of_diffusers(network(of_gensys(size)), size).eval()
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler()
    labels = torch.cat([label, torch.full_like(label, size.classes)])

    def sample() -> Tensor:
        scheduler.set_timesteps(sigmas=list(TIMES[:-1]))
        x = noise.normal(size.shape, Stream.INITIAL)
        for t in scheduler.timesteps:
            both = torch.cat([x, x])
            out = model(both, timestep=t.expand(len(both)), class_labels=labels, return_dict=False)[0]
            conditional, reference = out.float().chunk(2)
            x = scheduler.step(reference + SCALE * (conditional - reference), t, x, return_dict=False)[0]
        return x

    return sample
