"""EDM: diffusion with a preconditioned network, on noise levels."""

from __future__ import annotations

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, Network, Sampling, Training
from gensys.paths import EDM
from gensys.run import Run
from gensys.systems.edm import edm as system


def edm(
    data: str = "mnist",  # mnist, fashion, a folder of images, a table of vectors (.csv), or a latent store
    size: int = 32,  # side to which images are cropped and scaled
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    sigma_data: float = 0.0,  # standard deviation of the data; 0 = 0.5 for images, 1 for latents and vectors
    level_mean: float = -1.2,  # mean of ln(sigma / (2 sigma_data)) of the noise levels in training
    level_std: float = 1.2,  # standard deviation of the same
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    network: Network = Network(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008
    sampling: Sampling = Sampling(solver="heun", steps=10, grid="karras"),  # noqa: B008
) -> Run:
    """EDM: a denoiser whose input, output and loss are scaled to unit variance at every noise level.

    Karras, Aittala, Aila and Laine, 2022, "Elucidating the design space of diffusion-based generative models",
    arXiv:2206.00364, table 1.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    path = EDM()

    def prior() -> Generative:
        return system(
            network.build(domain),
            domain.shape,
            path=path,
            sigma_data=sigma_data or domain.deviation,
            mean=level_mean,
            std=level_std,
            dropout=dropout,
            sampler=sampling.sampler(path, domain),
        )

    return domain.run(prior, training.settings(), SAMPLING)
