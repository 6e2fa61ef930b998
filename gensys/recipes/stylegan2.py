"""Style-based adversarial networks, the second version."""

from __future__ import annotations

from typing import Annotated

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Styles, Training
from gensys.objectives.path_length import PathLength
from gensys.run import Needs, Run
from gensys.systems.stylegan2 import stylegan2 as system

_PATH = Needs("path above 0", lambda knobs, _: knobs["path"] != 0.0)


def stylegan2(
    data: str = "mnist",  # images, or a store of latents, with a side of 4, 8, 16, ...
    size: int = 32,  # side to which encoded images are cropped and scaled
    path: float = 0.0,  # weight of the path-length regulariser, the paper's 2; 0 = none: for long runs
    path_every: Annotated[int, _PATH] = 4,  # steps from one such penalty to the next, which is so many times as large
    texture: bool = False,  # whether layers add noise, at strengths that are learnt: detail that nothing determines
    styles: Styles = Styles(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="300k", lr=2e-3, precision="fp32"),  # noqa: B008
) -> Run:
    """StyleGAN 2: styles scale the weights of convolutions, whose outputs are scaled back (demodulation).

    Karras et al., 2019, "Analyzing and improving the image quality of StyleGAN", arXiv:1912.04958, sections 2 to 4.
    """
    domain = open_domain(data, size)

    def model() -> Generative:
        return system(
            domain.image,
            styles.channels(domain.image),
            styles.style(),
            classes=domain.classes,
            penalty=styles.penalty(),
            texture=texture,
            bounded=domain.bounds is not None,
            path=PathLength(path, path_every) if path else None,
        )

    return domain.run(model, styles.settings(training), frozenset({"truncation"}))
