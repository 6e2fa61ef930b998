"""Flow matching between the nearest pairs of a batch: straighter paths, fewer steps."""

from __future__ import annotations

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.errors import ConfigError
from gensys.knobs import SAMPLING, Network, Sampling, Times, Training
from gensys.paths import Linear
from gensys.run import Run
from gensys.systems.ot_cfm import ot_cfm as system


def ot_cfm(
    data: str = "mnist",  # what to learn: a data set by name, or the path of one, or of a store of latents
    size: int = 32,  # side of the images, for files of them
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    times: Times = Times(),  # noqa: B008 - a frozen value
    network: Network = Network(),  # noqa: B008
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008
    sampling: Sampling = Sampling(steps=10),  # noqa: B008
) -> Run:
    """Flow matching between the nearest pairs of a batch: straighter paths, fewer steps.

    Tong, Fatras, Malkin, Huguet, Zhang, Rector-Brooks, Wolf and Bengio, 2023, "Improving and generalizing flow-based
    generative models with minibatch optimal transport", arXiv:2302.00482, section 3.2. Needs scipy.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    if domain.vector:
        raise ConfigError(
            f"each row of {domain.source.name!r} has a vector to go by, and pairing noise with the nearest data would "
            f"tell it to the noise, which sampling does not: train flow_matching"
        )

    def prior() -> Generative:
        return system(
            network.build(domain),
            domain.shape,
            law=times.build(),
            dropout=dropout,
            sampler=sampling.sampler(Linear(), domain),
        )

    return domain.run(prior, training.settings(), SAMPLING)
