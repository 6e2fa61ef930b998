"""Rectified flow, and with pairs of its own its next round, which is straighter."""

from __future__ import annotations

from dataclasses import replace

from gensys import needs
from gensys.core import Generative
from gensys.data.pairs import open_pairs
from gensys.domain import open_domain
from gensys.knobs import SAMPLING, Network, Sampling, Times, Training
from gensys.paths import Linear
from gensys.run import Run
from gensys.systems.rectified_flow import rectified_flow as system


def rectified_flow(
    data: str = "mnist",  # what to learn: a data set by name, or the path of one, or of a store of latents
    size: int = 32,  # side of the images, for files of them
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    pairs: str = "",  # a store of pairs, as `gensys reflow` makes it; empty = data are paired with any noise
    times: Times = Times(),  # noqa: B008 - a frozen value
    network: Network = Network(),  # noqa: B008
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008
    sampling: Sampling = Sampling(steps=10),  # noqa: B008
) -> Run:
    """Rectified flow, and with pairs of its own its next round, which is straighter.

    Liu, Gong and Liu, 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    arXiv:2209.03003, algorithm 1. The next round is trained by `gensys reflow`, which draws the pairs and goes on from
    the weights that drew them; with `pairs` alone it is trained from the start.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    found = open_pairs(pairs, domain.source, domain.source.shape, domain.normalisation) if pairs else None
    source = domain.source if found is None else found

    def prior() -> Generative:
        return system(
            network.build(domain),
            domain.shape,
            law=times.build(),
            dropout=dropout,
            pairs=None if found is None else found.seed,
            sampler=sampling.sampler(Linear(), domain),
        )

    return replace(domain, source=source).run(prior, training.settings(), SAMPLING)
