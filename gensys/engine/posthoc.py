"""Averages of weights whose length is chosen after the training.

At time t, a power-function average gives the weights of time tau the density p(tau) = (g + 1) tau^g / t^(g + 1). While
a run goes on, averages of two widths are kept, and snapshots of both are taken now and then. Any other profile is close
to a linear combination of those of the snapshots, and the same combination of their weights is close to the average
that would have been kept with it. The coefficients x are the least squares

    A x = b + mu 1,    A_ij = <p_i, p_j>,    b_i = <p_i, p>,    mu such that sum x = 1

    <p_a, p_b> = (g_a + 1)(g_b + 1) / (g_a + g_b + 1) (t_a / t_b)^g_b / t_b        t_a <= t_b

Without the constraint, theirs, few snapshots shrink all weights by some percent, and a network is to keep what does not
change.

    snapshots/00001200/   0.05.safetensors  0.1.safetensors  digests.json

Karras, Aittala, Lehtinen, Hellsten, Aila and Laine, 2023, "Analyzing and improving the training dynamics of diffusion
models", arXiv:2312.02696, section 3.1 and appendix C, algorithm 3.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from gensys import durable
from gensys.engine.ema import exponent
from gensys.errors import CheckpointError, ConfigError

__all__ = ["Combination", "Profile", "coefficients", "drop_after", "inner", "mismatch", "reconstruct", "save_snapshot"]

WORST = 0.25  # mismatch of profiles that is refused: beyond, it is another average than the one that was asked for


@dataclass(frozen=True)
class Profile:
    """p(tau) = (gamma + 1) tau^gamma / step^(gamma + 1) on (0, step)."""

    step: float
    gamma: float


@dataclass(frozen=True)
class Combination:
    """What was made. tensors: the average. snapshots: how many it is made of. mismatch: of its profile, see there."""

    tensors: dict[str, Tensor]
    step: int
    snapshots: int
    mismatch: float


def inner(a: Profile, b: Profile) -> float:
    """<p_a, p_b>, the integral of the product over time, 1 / steps."""
    (early, late) = (a, b) if a.step < b.step else (b, a)
    ratio = (early.step / late.step) ** late.gamma  # of the two times alone: their powers would overflow
    return (a.gamma + 1.0) * (b.gamma + 1.0) / (a.gamma + b.gamma + 1.0) * ratio / late.step


def coefficients(kept: Sequence[Profile], wanted: Profile) -> Tensor:
    """(n,) float64, of sum 1: the combination of `kept` that is nearest to `wanted` in the mean square over time."""
    # profiles of unit norm: their own are between 1 / step and many times that, and would set the condition of A
    scale = torch.tensor([inner(p, p) for p in kept], dtype=torch.float64).rsqrt()
    gram = _gram(kept, kept) * scale[:, None] * scale
    sides = torch.stack([_gram(kept, [wanted])[:, 0] * scale, scale], dim=1)
    free, one = torch.linalg.solve(gram, sides).unbind(1)
    return scale * (free + one * (1.0 - scale @ free) / (scale @ one))


def mismatch(kept: Sequence[Profile], x: Tensor, wanted: Profile) -> float:
    """|sum x p - wanted| / |wanted|, norms over time: 0 = the very average, 1 = nothing of it."""
    square = float(x @ _gram(kept, kept) @ x - 2.0 * (x @ _gram(kept, [wanted])[:, 0])) + inner(wanted, wanted)
    return math.sqrt(max(0.0, square) / inner(wanted, wanted))  # rounding may leave it just below 0


def _gram(a: Sequence[Profile], b: Sequence[Profile]) -> Tensor:
    return torch.tensor([[inner(p, q) for q in b] for p in a], dtype=torch.float64)


def save_snapshot(root: Path, step: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
    """Write snapshots/STEP: width -> the tensors of that average. One that is there already is left alone."""
    with durable.explained(root, "saving a snapshot of averages"):
        files = {
            f"{width:g}.safetensors": save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
            for width, tensors in averages.items()
        }
        digests = {name: durable.digest(data) for name, data in files.items()}
        durable.publish_directory(root / f"{step:08d}", {**files, "digests.json": json.dumps(digests).encode()})


def drop_after(root: Path, step: int) -> None:
    """Remove the snapshots beyond a step: a run that goes on from there may have another future."""
    for directory in _directories(root):
        if int(directory.name) > step:
            shutil.rmtree(directory)


def _directories(root: Path) -> list[Path]:
    return sorted(d for d in root.iterdir() if d.name.isdigit()) if root.is_dir() else []


def reconstruct(root: Path, width: float, step: int | None = None) -> Combination:
    """The average of relative width `width` at `step` (None = at the last snapshot), from the snapshots up to there.

    Sums are float64. Whole numbers, which have no average, are those of the last snapshot.

    Raises: ValueError for a width out of range; ConfigError if there is no snapshot, none of that step, or if no
    combination of them comes near the profile; CheckpointError if one is damaged.
    """
    gamma = exponent(width)
    found = _directories(root)
    steps = [int(d.name) for d in found]
    if not found:
        raise ConfigError(f"there are no snapshots in {str(root)!r}: train with snapshots=32, say, which keeps them")
    end = steps[-1] if step is None else step
    if end not in steps:
        raise ConfigError(f"'step' must be that of a snapshot, got {end}: there are {', '.join(map(str, steps))}")
    files = [
        (d, name, float(name.removesuffix(".safetensors"))) for d in found if int(d.name) <= end for name in _names(d)
    ]
    kept = [Profile(int(d.name), exponent(w)) for d, _, w in files]
    wanted = Profile(end, gamma)
    x = coefficients(kept, wanted)
    distance = mismatch(kept, x, wanted)
    if not distance <= WORST:
        raise ConfigError(
            f"'width' {width:g} is out of reach of {len(kept)} averages: the nearest profile misses it by "
            f"{distance:.0%} (limit {WORST:.0%}). Take a width nearer to those that were kept, "
            f"{', '.join(f'{w:g}' for w in sorted({w for *_, w in files}))}, or train with more snapshots"
        )
    sums: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for (directory, name, _), weight in zip(files, x.tolist(), strict=True):
        last = load_file(directory / name)
        for key, value in last.items():
            if value.is_floating_point():
                sums[key] = sums.get(key, torch.zeros_like(value, dtype=torch.float64)) + weight * value.double()
    return Combination(
        {key: sums[key].to(value.dtype) if key in sums else value for key, value in last.items()},
        end,
        len(kept),
        distance,
    )


def _names(directory: Path) -> list[str]:
    """The files of a snapshot, in the order of their widths. Raises CheckpointError if one is not what was written."""
    try:
        digests = json.loads((directory / "digests.json").read_bytes())
        names = sorted(digests, key=lambda name: float(name.removesuffix(".safetensors")))
        wrong = [name for name in names if durable.digest_file(directory / name) != digests[name]]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the snapshot {str(directory)!r} is damaged ({error!r}): {_REMEDY}") from error
    if wrong:
        raise CheckpointError(f"the snapshot {str(directory / wrong[0])!r} is damaged: {_REMEDY}")
    return names


_REMEDY = "remove its directory, and the others make do without it"
