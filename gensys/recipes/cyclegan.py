"""Translation between two domains of images, from images that do not belong together."""

from __future__ import annotations

from gensys.core import Generative
from gensys.data.unpaired import open_unpaired
from gensys.knobs import Rivals, Training
from gensys.run import Run
from gensys.systems.cyclegan import cyclegan as system


def cyclegan(
    data: str = "mnist",  # images of one domain, label 0
    other: str = "",  # images of the other one, label 1; empty = edge drawings of every second image of the data
    size: int = 32,  # side to which encoded images are cropped and scaled
    width: int = 16,  # channels of the generators at the full resolution, doubled at each half
    halvings: int = 2,  # how often the generators halve the resolution
    blocks: int = 3,  # residual blocks of the generators at the lowest resolution
    critic_width: int = 32,  # channels of the critics after the first convolution, doubled after that
    critic_halvings: int = 1,  # how often the critics halve: 1, 2, 3 look at patches of 16, 34, 70 pixels
    cycle: float = 10.0,  # weight of coming back to the same image, in multiples of the game's
    identity: float = 0.5,  # weight of leaving images of the target domain as they are, in multiples of the cycle's
    history: int = 25,  # steps between copies of the generators, which the critics learn from as well; 0 = none
    pace: float = 1.0,  # learning rate of the critics, in multiples of the generators'
    training: Training = Training(batch=16, budget="24k", lr=1e-3),  # noqa: B008 - a frozen value
) -> Run:
    """CycleGAN: translation between two domains, from images of both that do not belong together.

    Zhu, Park, Isola and Efros, 2017, "Unpaired image-to-image translation using cycle-consistent adversarial
    networks", arXiv:1703.10593, section 3. `gensys sample` translates held-out images, `--data` those of your own.
    """
    source = open_unpaired(data, other, size)

    def model() -> Generative:
        return system(
            source.shape,
            width=width,
            halvings=halvings,
            blocks=blocks,
            critic_width=critic_width,
            critic_halvings=critic_halvings,
            cycle=cycle,
            identity=identity,
            history=history,
        )

    return Run(source, source.balanced(), model, Rivals(pace=pace).settings(training))
