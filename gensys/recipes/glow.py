"""Glow, of images."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.families.flow import SPIKE
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.glow import glow as system


def glow(
    data: str = "mnist",  # mnist, fashion, a folder of images, .npz or .npy of images, or a latent store
    size: int = 32,  # side to which encoded images are cropped and scaled
    width: int = 64,  # channels of the networks in the couplings
    depth: int = 1,  # residual 1x1 convolutions of these networks
    levels: int = 3,  # scales; each has half the resolution of the one before it
    steps: int = 4,  # steps (ActNorm, 1x1 convolution, coupling) of each scale
    additive: bool = False,  # whether couplings only shift: steadier, and a little less likely data
    temperature: float = 1.0,  # standard deviation of the noise behind samples; below 1: likelier, less diverse
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008 - a frozen value
) -> Run:
    """Invertible 1x1 convolutions and affine couplings on several scales: exact likelihoods of images.

    Kingma and Dhariwal, 2018, "Glow: generative flow with invertible 1x1 convolutions", arXiv:1807.03039, section 3.
    """
    domain = open_domain(data, size)

    def flow() -> Generative:
        return system(
            domain.image,
            classes=domain.classes,
            vector=domain.vector,
            width=width,
            depth=depth,
            levels=levels,
            steps=steps,
            additive=additive,
            bounds=domain.bounds,
            temperature=temperature,
        )

    return domain.run(flow, training.settings(SPIKE), frozenset({"temperature"}))
