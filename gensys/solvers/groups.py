"""Several programs on one batch: rows that are drawn alike (the same guidance, the same seed) share one.

The network sees the whole batch at every call, each row in its place, because a matrix product may round a row
differently in another place or among another number of rows; only the sums between the calls are done group by group.
So a row has the bits that it would have if every row were drawn as it is. Where some rows are guided and others are
not, the network is called for both kinds, since a guided call has twice the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gensys.noise import Noise
from gensys.solvers.program import Program
from gensys.solvers.stepper import Network, Walk

__all__ = ["Group", "run_groups"]


@dataclass(frozen=True)
class Group:
    """rows: (n,) int64, their places in the batch. program, noise: what they are drawn by; noise has n ids."""

    rows: Tensor
    program: Program
    noise: Noise


def run_groups(groups: Sequence[Group], network: Network, x: Tensor) -> Tensor:
    """x_0 for the initial state x (B, *S), of which every row is in exactly one group.

    The programs must call the network at the same times. Raises: ValueError as `stepper.run`, and if they do not.
    """
    count = x.shape[0]
    places = torch.cat([group.rows for group in groups])
    if not torch.equal(places.sort().values, torch.arange(count, device=places.device)):
        raise ValueError(f"'groups' must hold each of the {count} rows of 'x' once, got {places.numel()} places")
    times = [[t for t, _ in group.program.calls] for group in groups]
    if any(other != times[0] for other in times):
        raise ValueError("'groups' must have programs that call the network at the same times")
    walks = [Walk(group.program, x[group.rows], group.noise) for group in groups]
    both = x.new_empty((2 * count, *x.shape[1:]))
    for k, t in enumerate(times[0]):
        guided = [group.program.calls[k][1] for group in groups]
        for group, walk, twice in zip(groups, walks, guided, strict=True):
            n = group.rows.shape[0]
            both[group.rows] = walk.state[:n]
            both[count + group.rows] = walk.state[n:] if twice else walk.state
        outputs = {twice: network(both if twice else both[:count], t, twice) for twice in sorted(set(guided))}
        for group, walk, twice in zip(groups, walks, guided, strict=True):
            places = torch.cat([group.rows, count + group.rows]) if twice else group.rows
            walk.advance(outputs[twice][places])
    out = torch.empty_like(x)
    for group, walk in zip(groups, walks, strict=True):
        out[group.rows] = walk.state
    return out
