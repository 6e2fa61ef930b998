"""A diffusion transformer trained by flow matching: "SiT" with the linear path and the velocity target.

Ma, Goldstein, Albergo, Boffi, Vanden-Eijnden and Xie, 2024, "SiT: exploring flow and diffusion-based generative models
with scalable interpolant transformers", arXiv:2401.08740; the backbone is Peebles and Xie, 2022, arXiv:2212.09748; the
law of times is Esser et al., 2024, arXiv:2403.03206.
"""

from __future__ import annotations

from functools import partial

from gensys import targets
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.nn.dit import DiT
from gensys.objectives.denoise import denoise
from gensys.paths import Linear
from gensys.times import LogitNormal, TimeLaw

__all__ = ["flow_dit"]


def flow_dit(
    shape: tuple[int, int, int],
    *,
    classes: int,
    patch: int = 2,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    dropout: float = 0.1,
    law: TimeLaw = LogitNormal(),  # noqa: B008 - a frozen value
    sampler: Sampler = Sampler(),  # noqa: B008
) -> Diffusion:
    """A class-conditional model of data of `shape` (C, H, W); the defaults are DiT-S/2."""
    net = DiT(shape, patch=patch, width=width, depth=depth, heads=heads, classes=classes)
    objective = partial(denoise, law=law, dropout=dropout if classes else 0.0)
    denoiser = Denoiser(net, Linear(), targets.velocity, unlabelled=dropout > 0.0)
    return Diffusion(denoiser, shape, objective=objective, sampler=sampler)
