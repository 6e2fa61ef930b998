"""Denoising diffusion with a learned variance, on images, vectors or latents."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, TARGETS, Network, Sampling, TargetName, Training
from gensys.likelihood import bin_width
from gensys.paths import Discrete, cosine_schedule, linear_schedule
from gensys.run import Run
from gensys.solvers import ancestral
from gensys.systems import iddpm as system

SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule}
Variance = Annotated[Literal["learned", "small", "large"], needs.ANCESTRAL]


def iddpm(
    data: str = "mnist",  # images, a table of numbers, or a latent store
    size: int = 32,  # side of the images, where they have none of their own
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    timesteps: int = 1000,  # T, steps of the schedule that is trained; samples take far fewer, see steps
    schedule: Literal["cosine", "linear"] = "cosine",  # of the noise
    target: TargetName = "v",  # what is predicted: noise is as published, and learns more slowly
    share: float = 0.001,  # of the variational bound in the loss: it teaches the variance alone
    variance: Variance = "learned",  # of ancestral steps: as learned, or its bounds
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    network: Network = Network(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008 - a frozen value
    # leading: the last step of the cosine schedule is so noisy that its noise hardly tells the data
    sampling: Sampling = Sampling(solver="ancestral", steps=50, grid="leading", clip=True),  # noqa: B008
) -> Run:
    """Improved denoising diffusion (iDDPM): the cosine schedule, a learned variance, the hybrid loss.

    Nichol and Dhariwal, 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, sections 3 and 4.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    path = Discrete(SCHEDULES[schedule](timesteps))

    def prior() -> Generative:
        sampler = sampling.sampler(path, domain)
        if sampler.solver is ancestral:
            sampler = replace(sampler, solver=partial(ancestral, variance=variance))
        return system.iddpm(
            network.build(domain, outputs=2 * domain.shape[0]),
            domain.shape,
            path=path,
            target=TARGETS[target],
            share=share,
            width=bin_width() if domain.bounds else None,  # images have 8 bits
            dropout=dropout,
            sampler=sampler,
        )

    return domain.run(prior, training.settings(), SAMPLING | {"variance"})
