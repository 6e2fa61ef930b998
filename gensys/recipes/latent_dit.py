"""A class-conditional flow-matching transformer on the latents of a codec."""

from __future__ import annotations

from typing import Literal

from gensys.data.joined import Joined
from gensys.data.joined_latents import latents_in, open_latents
from gensys.data.sources import image_shape, split
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.engine.precision import Precision
from gensys.errors import DataError
from gensys.families.diffusion import Sampler
from gensys.families.latent import Latent
from gensys.guidance import Guidance
from gensys.run import Run, budget_of
from gensys.run_folder import open_codec
from gensys.solvers import ddim, dpmpp_2m, euler, heun
from gensys.systems.flow_dit import flow_dit
from gensys.times import LogitNormal, shifted, uniform

SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "euler": euler, "heun": heun}


def latent_dit(
    data: str,  # a latent store, as `gensys encode` makes it
    width: int = 128,  # features of a token in the transformer
    depth: int = 5,  # blocks of the transformer
    heads: int = 4,  # heads of the attention
    patch: int = 2,  # side of the squares of latents that become one token
    dropout: float = 0.1,  # probability that a row is trained without its label
    batch: int = 128,  # latents per step, over all workers
    budget: str = "500k",  # latents (64000, 500k, 2M) or time (90s, 10m, 2h)
    lr: float = 2e-3,  # peak learning rate
    precision: Precision = "auto",  # number format of the matrix products: auto, bf16 or fp32
    seed: int = 0,  # of weights, order and noise
    solver: Literal["heun", "dpmpp_2m", "euler", "ddim"] = "heun",  # heun, dpmpp_2m (second order), euler or ddim
    steps: int = 12,  # steps of the solver; heun calls the network twice in each
    shift: float = 1.0,  # above 1: more of the steps near the noise
    guidance: float = 2.0,  # 1 = the conditional model; more follows the label more closely
    guide_from: float = 0.8,  # time, from noise (1) to data (0), at which guidance begins: earlier it costs diversity
    guide_to: float = 0.1,  # time, from noise (1) to data (0), at which guidance ends: later it changes no label
    aspect: float = 1.0,  # width over height of the samples, if the latents have several shapes: the nearest is taken
) -> Run:
    """Flow matching with a diffusion transformer on the latents of a store; samples are decoded by its codec."""
    source = open_latents(data)
    latents = latents_in(source)
    normalisation = None if latents is None else latents.normalisation
    if latents is None or normalisation is None:
        raise DataError(f"{data!r} holds codes, and latent_dit models continuous latents: encode with another codec")
    scale = guidance if source.classes else 1.0  # without labels there is nothing to follow
    sampler = Sampler(SOLVERS[solver], tuple(shifted(uniform(steps), shift)), Guidance(scale, (guide_to, guide_from)))
    shape = source.nearest(aspect) if isinstance(source, Joined) else image_shape(source)

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
        return Latent(prior, lambda: open_codec(latents), normalisation.denormalise)

    return Run(
        source=source,
        rows=split(source)[0],
        build=build,
        settings=Settings(
            batch=batch,
            budget=budget_of(budget),
            optim=Optim(lr=lr),
            precision=precision,
            seed=seed,
            spike=20.0,  # norms of a healthy run stay below 1.3 times their median
        ),
        retune=frozenset({"solver", "steps", "shift", "guidance", "guide_from", "guide_to", "aspect"}),
    )
