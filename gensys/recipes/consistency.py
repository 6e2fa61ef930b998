"""A consistency model of images, latents or vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from gensys import needs
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.errors import ConfigError
from gensys.knobs import SAMPLING, Network, Sampling, Training
from gensys.objectives.consistency import Curriculum, angles, ddim_step, heun_step
from gensys.paths import EDM
from gensys.run import Run, Trained
from gensys.systems.consistency import LOW, consistency_model, distilled
from gensys.teacher import open_denoiser


def consistency(
    data: str = "mnist",  # mnist, fashion, a folder of images, a table of vectors, or a latent store
    size: int = 32,  # side of the images
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    teacher: Trained = "",  # the run folder of a path model to distil, on the same data; none = train from scratch
    first: Annotated[int, needs.UNTAUGHT] = 10,  # from scratch: intervals of the ladder at the beginning
    last: Annotated[int, needs.UNTAUGHT] = 160,  # from scratch: at the end; more are finer, take longer
    doubling: Annotated[int, needs.UNTAUGHT] = 2000,  # from scratch: steps in which they double; 0 = all of the budget
    sigma_data: Annotated[float, needs.UNTAUGHT] = 0.0,  # from scratch: deviation of the data; 0 = by their kind
    rungs: Annotated[int, needs.STUDENT] = 1000,  # distilled: noise levels of the ladder
    skip: Annotated[int, needs.STUDENT] = 50,  # distilled: rungs that one step of the teacher goes over
    step: Annotated[Literal["heun", "ddim"], needs.STUDENT] = "ddim",  # distilled: the solver of that step
    scale: Annotated[float, needs.STUDENT, needs.CONDITION] = 1.0,  # distilled: of the teacher's guidance, for good
    network: Network = Network(),  # noqa: B008 - a frozen value; a student has the network of its teacher
    training: Training = Training(precision="fp32", lr=5e-4),  # noqa: B008 - neighbours differ by less than bf16 keeps
    sampling: Sampling = Sampling(solver="multistep_consistency", steps=2, grid="jumps"),  # noqa: B008
) -> Run:
    """A consistency model, from scratch or distilled from a teacher; one or two network calls a sample.

    Song, Dhariwal, Chen and Sutskever, 2023, "Consistency models", arXiv:2303.01469; from scratch as in Song and
    Dhariwal, 2023, arXiv:2310.14189, table 1.
    """
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    sampling.require_unguided("With a teacher, the knob 'scale' guides that one, while it is distilled")

    def prior() -> Generative:
        if teacher:
            denoiser = open_denoiser("teacher", teacher, domain)
            return distilled(
                denoiser,
                domain.shape,
                ladder=angles(denoiser.path, rungs, LOW),
                skip=skip,
                step=heun_step if step == "heun" else ddim_step,
                scales=(scale, scale),
                sampler=sampling.sampler(denoiser.path, domain),
            )
        return consistency_model(
            network.build(domain),
            domain.shape,
            curriculum=Curriculum(_steps(doubling, training), first, last),
            sigma_data=sigma_data or domain.deviation,
            sampler=sampling.sampler(EDM(), domain),
        )

    return domain.run(prior, training.settings(), SAMPLING)


def _steps(doubling: int, training: Training) -> int:
    """How many steps the curriculum has."""
    steps = doubling or training.steps()
    if steps is None:
        raise ConfigError(
            f"'doubling' = 0 takes the steps of the budget, and budget={training.budget} is a time: give the steps "
            f"over which the intervals double, doubling=2000, or a budget in rows, budget=500k"
        )
    return steps
