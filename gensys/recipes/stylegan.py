"""Style-based adversarial networks, the first version."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import Styles, Training
from gensys.run import Run
from gensys.systems.stylegan import stylegan as system


def stylegan(
    data: str = "mnist",  # images, or a store of latents, with a side of 4, 8, 16, ...
    size: int = 32,  # side to which encoded images are cropped and scaled
    texture: bool = False,  # whether layers add noise, at strengths that are learnt: detail that nothing determines
    styles: Styles = Styles(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="300k", lr=2e-3, precision="fp32"),  # noqa: B008
) -> Run:
    """StyleGAN: styles that a mapping network makes of latents set the statistics of features (AdaIN).

    Karras, Laine and Aila, 2018, "A style-based generator architecture for generative adversarial networks",
    arXiv:1812.04948, section 2.
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
        )

    return domain.run(model, styles.settings(training), frozenset({"truncation"}))
