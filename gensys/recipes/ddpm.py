"""Denoising diffusion on images, vectors or latents."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, TARGETS, Network, Sampling, TargetName, Training
from gensys.objectives.weights import MinSNR, Weight, even, snr_plus_one, truncated_snr
from gensys.paths import Discrete, cosine_schedule, linear_schedule, scaled_linear_schedule, zero_terminal_snr
from gensys.run import Run
from gensys.solvers import ancestral
from gensys.systems import ddpm as system

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule, "scaled_linear": scaled_linear_schedule}
WEIGHTS: dict[str, Weight] = {
    "even": even,
    "min_snr": MinSNR(),
    "snr_plus_one": snr_plus_one,
    "truncated_snr": truncated_snr,
}
Variance = Annotated[Literal["small", "large"], needs.ANCESTRAL]


def ddpm(
    data: str = "mnist",  # images, a table of numbers, or a latent store
    size: int = 32,  # side of the images, where they have none of their own
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    timesteps: int = 1000,  # T, steps of the schedule that is trained; samples take far fewer, see steps
    schedule: Literal["linear", "cosine", "scaled_linear"] = "linear",  # of the noise: linear in beta, in its root, ...
    zero_terminal: bool = False,  # whether the schedule is rescaled to end in pure noise: not for target noise
    target: TargetName = "v",  # what is predicted: noise is as published, and learns more slowly
    weight: Literal["even", "min_snr", "snr_plus_one", "truncated_snr"] = "even",  # of the steps in the loss
    variance: Variance = "small",  # of ancestral steps: right for data at a point, or of unit variance
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    network: Network = Network(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008 - a frozen value
    sampling: Sampling = Sampling(solver="ancestral", steps=50, clip=True),  # noqa: B008 - steps=1000 is the paper's
) -> Run:
    """Denoising diffusion (DDPM) on images, tables or latents, sampled by ancestral steps.

    Ho, Jain and Abbeel, 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, section 4.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    bar = SCHEDULES[schedule](timesteps)
    path = Discrete(zero_terminal_snr(bar) if zero_terminal else bar)

    def prior() -> Generative:
        sampler = sampling.sampler(path, domain)
        if sampler.solver is ancestral:
            sampler = replace(sampler, solver=partial(ancestral, variance=variance))
        return system.ddpm(
            network.build(domain),
            domain.shape,
            path=path,
            target=TARGETS[target],
            weight=WEIGHTS[weight],
            dropout=dropout,
            sampler=sampler,
        )

    return domain.run(prior, training.settings(), SAMPLING | {"variance"})
