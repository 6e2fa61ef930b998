"""Style-based adversarial networks, the third version."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Styles, Training
from gensys.run import Run
from gensys.systems.stylegan3 import stylegan3 as system


def stylegan3(
    data: str = "mnist",  # images, or a store of latents, with a side of 16, 32, 64, ...
    size: int = 32,  # side to which encoded images are cropped and scaled
    layers: int = 8,  # of the synthesis network; the paper's 14 are for images of 256 and more
    rotations: bool = False,  # whether images turn with their input too, not only move (version R instead of T)
    styles: Styles = Styles(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="100k", lr=2e-3, precision="fp32"),  # noqa: B008
) -> Run:
    """StyleGAN 3: alias-free synthesis, whose details move with what they belong to.

    Karras et al., 2021, "Alias-free generative adversarial networks", arXiv:2106.12423, section 3.
    """
    domain = open_domain(data, size)

    def model() -> Generative:
        return system(
            domain.image,
            styles.channels(domain.image),
            styles.style(),
            classes=domain.classes,
            penalty=styles.penalty(),
            layers=layers,
            rotations=rotations,
        )

    return domain.run(model, styles.settings(training), frozenset({"truncation"}))
