"""A neural spline flow."""

from __future__ import annotations

from gensys.core import Generative
from gensys.domain import open_domain
from gensys.families.flow import SPIKE
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.nsf import nsf as system


def nsf(
    data: str = "moons",  # .csv, .tsv, .npy or .npz of vectors or images, or anything else that can be trained on
    size: int = 32,  # side to which encoded images are cropped and scaled
    coupling: bool = False,  # whether halves map each other (fast samples), else each element by those before it
    width: int = 64,  # hidden units of the networks
    depth: int = 2,  # hidden layers of the networks
    steps: int = 3,  # layers of splines
    bins: int = 8,  # pieces of a spline
    bound: float = 3.0,  # the splines lie on [-bound, bound], in standard deviations of the first batch
    temperature: float = 1.0,  # standard deviation of the noise behind samples; below 1: likelier, less diverse
    training: Training = Training(batch=256, budget="500k", lr=2e-3),  # noqa: B008 - a frozen value
) -> Run:
    """A neural spline flow of vectors: exact likelihoods with rational-quadratic splines.

    Durkan, Bekasov, Murray and Papamakarios, 2019, "Neural spline flows", arXiv:1906.04032, section 3.
    """
    domain = open_domain(data, size, standardise="vectors")

    def flow() -> Generative:
        return system(
            domain.shape,
            classes=domain.classes,
            vector=domain.vector,
            coupling=coupling,
            width=width,
            depth=depth,
            steps=steps,
            bins=bins,
            bound=bound,
            bounds=domain.bounds,
            temperature=temperature,
        )

    return domain.run(flow, training.settings(SPIKE), frozenset({"temperature"}))
