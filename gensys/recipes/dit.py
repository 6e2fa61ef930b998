"""The diffusion transformer, in the sizes of its paper."""

from __future__ import annotations

from typing import Literal

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, TARGETS, Sampling, TargetName, Training
from gensys.nn.dit import SIZES, DiT
from gensys.run import Run
from gensys.systems.dit import PATH
from gensys.systems.dit import dit as system


def dit(
    data: str = "mnist",  # a latent store, as `gensys encode` makes it, mnist, fashion, or a folder of images
    side: int = 32,  # side to which images are cropped and scaled
    size: Literal["tiny", "S", "B", "L", "XL"] = "tiny",  # of the transformer: tiny is for a CPU
    patch: int = 0,  # side of the squares that become one token; 0 = 2 for latents, 4 for pixels
    target: TargetName = "v",  # what is predicted: noise is as published, and learns more slowly
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    aspect: needs.Aspect = 1.0,  # width over height of samples, if latents have several shapes: the nearest is taken
    training: Training = Training(batch=64, budget="500k", lr=1e-3),  # noqa: B008 - a frozen value
    sampling: Sampling = Sampling(solver="ddim", steps=30, grid="trailing", guidance=1.5),  # noqa: B008
) -> Run:
    """Diffusion with a transformer, DiT, on latents or pixels.

    Peebles and Xie, 2022, "Scalable diffusion models with transformers", arXiv:2212.09748, section 3.
    """
    domain = open_domain(data, side, aspect)
    width, depth, heads = SIZES[size]

    def prior() -> Generative:
        net = DiT(
            domain.image,
            patch=patch or (4 if domain.latents is None else 2),
            width=width,
            depth=depth,
            heads=heads,
            classes=domain.classes,
            vector=domain.vector,
        )
        return system(
            net,
            domain.shape,
            target=TARGETS[target],
            dropout=dropout,
            sampler=sampling.sampler(PATH, domain),
        )

    return domain.run(prior, training.settings(), SAMPLING | {"aspect"})
