"""An inverse autoregressive flow."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.families.flow import SPIKE
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.iaf import iaf as system


def iaf(
    data: str = "moons",  # .csv, .tsv, .npy or .npz of vectors of few elements, or anything else that can be trained on
    size: int = 32,  # side to which encoded images are cropped and scaled
    width: int = 64,  # hidden units of the masked networks
    depth: int = 2,  # hidden layers of the masked networks
    steps: int = 4,  # autoregressive layers
    temperature: float = 1.0,  # standard deviation of the noise behind samples; below 1: likelier, less diverse
    training: Training = Training(batch=256, budget="500k", lr=2e-3),  # noqa: B008 - a frozen value
) -> Run:
    """An inverse autoregressive flow of short vectors: samples in one call, likelihoods in one for each element.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, 2016, "Improving variational inference with inverse
    autoregressive flow", arXiv:1606.04934, section 3.
    """
    domain = open_domain(data, size, standardise="vectors")

    def flow() -> Generative:
        return system(
            domain.shape,
            classes=domain.classes,
            vector=domain.vector,
            width=width,
            depth=depth,
            steps=steps,
            bounds=domain.bounds,
            temperature=temperature,
        )

    return domain.run(flow, training.settings(SPIKE), frozenset({"temperature"}))
