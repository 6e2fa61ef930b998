"""The codec of latent diffusion on small images."""

from __future__ import annotations

from gensys.data.sources import image_shape, open_source, split
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.engine.precision import Precision
from gensys.run import Run, budget_of
from gensys.systems.kl_autoencoder import kl_autoencoder as system


def kl_autoencoder(
    data: str = "mnist",  # mnist, fashion, a folder of images (class = subfolder), .tar, .parquet, .npz
    size: int = 32,  # side to which encoded images are cropped and scaled
    channels: int = 4,  # channels of the latents
    width: int = 32,  # channels at the finest resolution; doubles when it halves
    levels: int = 2,  # resolutions; the latents are 2 * 2^(levels - 1) times smaller than the image
    beta: float = 1e-4,  # weight of the KL term
    batch: int = 16,  # images per step, over all workers; many small steps beat few large ones here
    budget: str = "150k",  # images (64000, 500k, 2M), time (90s, 10m, 2h), or time of the processor (cpu:10m)
    lr: float = 4e-3,  # peak learning rate
    precision: Precision = "auto",  # number format of the matrix products: auto, bf16 or fp32
    seed: int = 0,  # of weights, order and noise
) -> Run:
    """A convolutional KL autoencoder: images to 4-channel latents, for `gensys encode` and latent models.

    Rombach, Blattmann, Lorenz, Esser and Ommer, 2021, "High-resolution image synthesis with latent diffusion models",
    arXiv:2112.10752, section 3.1.
    """
    source = open_source(data, size)
    return Run(
        source=source,
        rows=split(source)[0],
        build=lambda: system(
            image_shape(source),
            channels=channels,
            widths=tuple(width * 2**k for k in range(levels)),
            beta=beta,
        ),
        settings=Settings(
            batch=batch,
            budget=budget_of(budget),
            optim=Optim(lr=lr, warmup=50, decay=1.0),
            precision=precision,
            seed=seed,
            spike=20.0,  # norms of a healthy run stay below 3 times their median
        ),
    )
