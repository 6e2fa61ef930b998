"""Which steps are taken: those whose gradient is finite, and not far larger than it has been of late.

A loss that spikes undoes hours of training in a step, and clipping alone does not help: a gradient of norm 1 in a wrong
direction is still a step. Chowdhery et al., 2022, "PaLM", arXiv:2204.02311, section 5.1, skip the batches around a
spike by hand; Kumar, Owen, Chowdhury and Gura, 2025, "ZClip: adaptive spike mitigation for LLM pre-training",
arXiv:2504.02507, compare the norm with its running mean and deviation. Here it is compared with the median of the last
norms, because a mean and a deviation are themselves drawn away by what they should detect, and a median is not while
fewer than half of its values are wrong (Hampel, 1974, "The influence curve and its role in robust estimation").
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

__all__ = ["WINDOW", "Guard"]

WINDOW = 64  # norms that the median is of: long enough to be steady, short enough to follow a run as it settles


class Guard:
    """Judges every turn of every player by the norm of its gradient, which is the same on all workers.

    spike: a norm above so many times the median is refused; 0 = only one that is not finite. norms: what an earlier
    process remembered, by player. Until a player has WINDOW norms, it is only asked for finite ones.
    """

    def __init__(self, spike: float, norms: Mapping[str, Sequence[float]]) -> None:
        self._spike = spike
        self._norms = {player: deque(values, WINDOW) for player, values in norms.items()}

    def passes(self, player: str, norm: float) -> bool:
        """Whether the turn is to be taken; the norms of turns that are refused are not remembered."""
        if not math.isfinite(norm):
            return False
        if not self._spike:
            return True
        seen = self._norms.setdefault(player, deque(maxlen=WINDOW))
        if len(seen) == WINDOW and norm > self._spike * median(seen):
            return False
        seen.append(norm)
        return True

    def norms(self) -> dict[str, list[float]]:
        """What a checkpoint keeps, so that a resumed run judges as an undisturbed one."""
        return {player: list(values) for player, values in self._norms.items()}
