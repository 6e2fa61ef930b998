"""A consistency model, from scratch or from a teacher: one call of the network takes noise to data, more refine it.

    f(x_t, t) = c_skip x_t + c_out net(x_t, t),  f(x, start) = x          start: the level sigma / alpha = 0.002

Song, Dhariwal, Chen and Sutskever, 2023, "Consistency models", arXiv:2303.01469; Song and Dhariwal, 2023, "Improved
techniques for training consistency models", arXiv:2310.14189, for what is trained from scratch.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

from torch import nn

from gensys.denoiser import Denoiser, gaussian
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.consistency import (
    Curriculum,
    Ladder,
    Step,
    angles,
    consistency,
    ddim_step,
    distillation,
    require_rungs,
)
from gensys.paths import EDM, Path, at_ratio
from gensys.solvers import multistep_consistency
from gensys.targets import Consistency, Landing, require_well_posed

__all__ = ["LOW", "consistency_model", "distilled"]

LOW = 0.002  # the level at which trajectories end, that of the papers: nothing of it is seen in data of unit variance


def consistency_model(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    curriculum: Curriculum,
    path: Path = EDM(),  # noqa: B008 - a frozen value
    sigma_data: float = 0.5,
    high: float = 80.0,
    sampler: Sampler = Sampler(multistep_consistency, (1.0, 0.0)),  # noqa: B008
) -> Diffusion:
    """Consistency training. sigma_data: the deviation of the data. high: the noisiest level of the training."""
    start = at_ratio(path, LOW)
    return Diffusion(
        Denoiser(net, path, Consistency(path(start), sigma_data), sigma_data=sigma_data, unlabelled=False),
        shape,
        objective=partial(consistency, curriculum=curriculum, low=LOW, high=high),
        sampler=_landing(sampler, start),
    )


def distilled(
    teacher: Denoiser,
    shape: tuple[int, ...],
    *,
    ladder: Ladder | None = None,
    step: Step = ddim_step,
    skip: int = 50,
    scales: tuple[float, float] = (1.0, 1.0),
    usual: float | None = None,
    sampler: Sampler = Sampler(multistep_consistency, (1.0, 0.0)),  # noqa: B008
) -> Diffusion:
    """A student of `teacher`: on its path, with a network like its own that starts from its weights.

    ladder: None = 1,000 `angles`. skip: how many of its rungs the teacher's step goes over: those between are trained
    as well, so that samples may jump from anywhere. usual: the scale of guidance of the samples, for a student that is
    told its scale; None = it is not told. See `distillation`.

    Raises: ValueError for a teacher whose noise is not Gaussian, or whose target is singular on the ladder; for a
    ladder of too few rungs.
    """
    path, start = teacher.path, at_ratio(teacher.path, LOW)
    if scales != (1.0, 1.0):
        teacher.require_unlabelled("teacher")
    if teacher.base is not gaussian:
        raise ValueError("'teacher' must be trained with Gaussian noise, and its base is another law")
    ladder = angles(path, 1000, LOW) if ladder is None else ladder
    require_rungs(ladder, skip, scales)
    require_well_posed(path, teacher.target, [float(t) for t in ladder.t[1:]])
    net = copy.deepcopy(teacher.net).requires_grad_(True)
    if usual is not None:
        net.condition.embed_guidance(usual)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue] - all nets'
    target = Landing(teacher.target, path(start))
    student = Denoiser(net, path, target, sigma_data=teacher.sigma_data, unlabelled=False)
    objective = partial(distillation, teacher=teacher, ladder=ladder, step=step, skip=skip, scales=scales)
    return Diffusion(student, shape, objective=objective, sampler=_landing(sampler, start))


def _landing(sampler: Sampler, start: float) -> Sampler:
    """The multistep solver is told where the predictions lie: at the start, not at the data."""
    if sampler.solver is not multistep_consistency:
        return sampler
    return replace(sampler, solver=partial(multistep_consistency, end=start))
