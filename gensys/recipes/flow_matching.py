"""Flow matching: the velocity of straight lines between noise and data."""

from __future__ import annotations

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, Network, Sampling, Times, Training
from gensys.paths import Linear
from gensys.run import Run
from gensys.systems.flow_matching import flow_matching as system


def flow_matching(
    data: str = "mnist",  # what to learn: a data set by name, or the path of one, or of a store of latents
    size: int = 32,  # side of the images, for files of them
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    times: Times = Times(),  # noqa: B008 - a frozen value
    network: Network = Network(),  # noqa: B008
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008
    sampling: Sampling = Sampling(steps=10),  # noqa: B008
) -> Run:
    """Flow matching: the velocity of straight lines between noise and data.

    Lipman, Chen, Ben-Hamu, Nickel and Le, 2022, "Flow matching for generative modeling", arXiv:2210.02747, section 4.1.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)

    def prior() -> Generative:
        return system(
            network.build(domain),
            domain.shape,
            law=times.build(),
            dropout=dropout,
            sampler=sampling.sampler(Linear(), domain),
        )

    return domain.run(prior, training.settings(), SAMPLING)
