"""A Real NVP of images or vectors."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.families.flow import SPIKE
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.realnvp import realnvp as system


def realnvp(
    data: str = "mnist",  # mnist, fashion, a folder of images, .npz, .npy or .csv, or a latent store
    size: int = 32,  # side to which encoded images are cropped and scaled
    width: int = 32,  # channels or hidden units of the networks in the couplings
    depth: int = 1,  # residual blocks (images) or hidden layers (vectors) of these networks
    levels: int = 2,  # scales of images; each after the first has half the resolution
    steps: int = 6,  # couplings, for vectors
    temperature: float = 1.0,  # standard deviation of the noise behind samples; below 1: likelier, less diverse
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008 - a frozen value
) -> Run:
    """Affine couplings with checkerboard and channel masks, on several scales: exact likelihoods of images or vectors.

    Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP", arXiv:1605.08803, section 3.
    """
    domain = open_domain(data, size, standardise="vectors")

    def flow() -> Generative:
        return system(
            domain.shape,
            classes=domain.classes,
            vector=domain.vector,
            width=width,
            depth=depth,
            levels=levels,
            steps=steps,
            bounds=domain.bounds,
            temperature=temperature,
        )

    return domain.run(flow, training.settings(SPIKE), frozenset({"temperature"}))
