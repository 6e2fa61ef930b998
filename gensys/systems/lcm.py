"""A latent consistency model: a guided teacher, distilled for every scale of guidance at once.

    min d(f(z_{n + k}, t_{n + k}, w), f(z', t_n, w))       z': one DDIM step of the teacher, guided with w, over k rungs

The student is told w by an embedding. The paper's boundary (c_skip and c_out fall to 0 and rise to 1 within the first
of 1,000 steps) is that of `targets.Landing` here, which holds exactly and leaves the teacher's
parametrisation as it is.

Luo, Tan, Huang, Li and Zhao, 2023, "Latent consistency models: synthesizing high-resolution images with few-step
inference", arXiv:2310.04378, section 4 and algorithm 1.
"""

from __future__ import annotations

from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.consistency import ddim_step, even
from gensys.solvers import multistep_consistency
from gensys.systems.consistency import LOW, distilled

__all__ = ["lcm"]


def lcm(
    teacher: Denoiser,
    shape: tuple[int, ...],
    *,
    rungs: int = 1000,
    skip: int = 20,
    scales: tuple[float, float] = (3.0, 15.0),
    w: float = 8.0,
    sampler: Sampler = Sampler(multistep_consistency, (1.0, 0.75, 0.5, 0.25, 0.0)),  # noqa: B008
) -> Diffusion:
    """rungs: times of the ladder, evenly. skip: the paper's k. scales: of the guidance that is distilled, 1 + the
    paper's w, whose interval is the default. w: the scale that samples are drawn with, within that interval."""
    if not scales[0] < scales[1]:
        raise ValueError(
            f"'scales', from 'w_min' to 'w_max', must be an interval, got {scales}: with one scale there is nothing to "
            f"be told, distil a consistency model with 'scale'"
        )
    if not scales[0] <= w <= scales[1]:
        raise ValueError(
            f"'w' must be a scale that is distilled, from 'w_min' = {scales[0]:g} to 'w_max' = {scales[1]:g}, got {w:g}"
        )
    return distilled(
        teacher,
        shape,
        ladder=even(teacher.path, rungs, LOW),
        step=ddim_step,
        skip=skip,
        scales=scales,
        usual=w,
        sampler=sampler,
    )
