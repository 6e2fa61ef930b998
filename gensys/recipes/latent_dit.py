"""A class-conditional flow-matching transformer on the latents of a codec."""

from __future__ import annotations

from typing import Literal

from gensys.data.latents import LatentSource
from gensys.data.sources import split
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.engine.precision import Precision
from gensys.families.diffusion import Sampler
from gensys.families.latent import Latent
from gensys.guidance import Guidance
from gensys.run import Run, budget_of, open_codec
from gensys.solvers import ddim, euler, heun
from gensys.systems.flow_dit import flow_dit
from gensys.times import LogitNormal, shifted, uniform

SOLVERS = {"ddim": ddim, "euler": euler, "heun": heun}


def latent_dit(
    data: str,  # a latent store, as `gensys encode` makes it
    width: int = 128,  # of the transformer
    depth: int = 5,  # blocks
    heads: int = 4,  # of the attention
    patch: int = 2,  # side of the squares of latents that become one token
    dropout: float = 0.1,  # probability that a row is trained without its label
    batch: int = 64,  # latents per step, over all workers
    budget: str = "500k",  # latents (64000, 500k, 2M) or time (90s, 10m, 2h)
    lr: float = 2e-3,  # peak learning rate
    precision: Precision = "auto",  # auto, bf16 or fp32
    seed: int = 0,
    solver: Literal["heun", "euler", "ddim"] = "heun",
    steps: int = 12,  # of the solver; heun calls the network twice in each
    shift: float = 1.0,  # above 1: more of the steps near the noise
    guidance: float = 1.75,  # 1 = the conditional model; more follows the label more closely
    guide_from: float = 0.8,  # the interval of time, from noise (1) to data (0), in which guidance is applied:
    guide_to: float = 0.1,  # at both ends it costs diversity and changes no label
) -> Run:
    """Flow matching with a diffusion transformer on the latents of a store; samples are decoded by its codec."""
    source = LatentSource.open(data)
    sampler = Sampler(
        SOLVERS[solver], tuple(shifted(uniform(steps), shift)), Guidance(guidance, (guide_to, guide_from))
    )
    shape = (source.shape[0], source.shape[1], source.shape[2])

    def build() -> Latent:
        prior = flow_dit(
            shape,
            classes=len(source.classes),
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            dropout=dropout,
            law=LogitNormal(),
            sampler=sampler,
        )
        return Latent(prior, lambda: open_codec(source), source.normalisation.denormalise)

    return Run(
        source=source,
        rows=split(source)[0],
        build=build,
        settings=Settings(batch=batch, budget=budget_of(budget), optim=Optim(lr=lr), precision=precision, seed=seed),
        retune=frozenset({"solver", "steps", "shift", "guidance", "guide_from", "guide_to"}),
    )
