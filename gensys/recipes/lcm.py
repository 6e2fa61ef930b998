"""A latent consistency model."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, Sampling, Training
from gensys.run import Run, Trained
from gensys.systems.lcm import lcm as system
from gensys.teacher import open_denoiser


def lcm(
    data: str,  # what the teacher was trained on: a latent store, images or a table of vectors
    teacher: Trained,  # the run folder of the path model to distil, such as runs/latent_dit
    size: int = 32,  # side of the images, if the data are images
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    rungs: int = 1000,  # times of the ladder, evenly from data to noise
    skip: int = 50,  # rungs that one step of the teacher goes over
    w_min: float = 1.0,  # lowest scale of guidance that is distilled, 1 = the conditional model
    w_max: float = 4.0,  # highest scale of guidance that is distilled
    w: float = 2.0,  # scale of guidance of the samples, between the two: may be given anew to `gensys sample`
    training: Training = Training(batch=128, precision="fp32", lr=5e-4),  # noqa: B008 - a frozen value
    sampling: Sampling = Sampling(solver="multistep_consistency", steps=2, grid="uniform"),  # noqa: B008
) -> Run:
    """A guided teacher distilled to a few network calls a sample, for every scale of guidance at once.

    Luo, Tan, Huang, Li and Zhao, 2023, "Latent consistency models: synthesizing high-resolution images with few-step
    inference", arXiv:2310.04378, section 4.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    sampling.require_unguided("Guidance is distilled into it, and its scale is the knob 'w'")

    def prior() -> Generative:
        denoiser = open_denoiser("teacher", teacher, domain)
        sampler = sampling.sampler(denoiser.path, domain)
        scales = (w_min, w_max)
        return system(denoiser, domain.shape, rungs=rungs, skip=skip, scales=scales, w=w, sampler=sampler)

    return domain.run(prior, training.settings(), SAMPLING | {"w"})
