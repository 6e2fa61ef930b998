"""What the training loop is told: when a run ends, and how a step is taken."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gensys.engine.checkpoint import State
from gensys.engine.optim import Optim
from gensys.engine.precision import Precision
from gensys.errors import ConfigError

__all__ = ["Budget", "Settings"]


@dataclass(frozen=True)
class Budget:
    """When a run ends: after so many images (rows seen), or after so many seconds of training. One of the two.

    cpu: the seconds are those that the process, of the worker who takes longest, spends on the processor: what else
    runs on the machine takes nothing away. Time on a GPU is not in them.
    """

    images: int | None = None
    seconds: float | None = None
    cpu: bool = False

    def __post_init__(self) -> None:
        if self.cpu and self.seconds is None:
            raise ConfigError(f"'cpu' says which seconds a budget counts, and this one counts images: {self}")
        if (self.images is None) == (self.seconds is None) or not (self.images or self.seconds or 0) > 0:
            raise ConfigError(f"a budget is a positive number of images or of seconds, got {self}")

    def clock(self) -> float:
        """Seconds from an arbitrary beginning, of the kind that is counted."""
        return time.process_time() if self.cpu else time.perf_counter()

    def progress(self, state: State) -> float:
        """The fraction that is spent, in [0, 1]."""
        spent = state.images / self.images if self.images else state.seconds / (self.seconds or 1.0)
        return min(1.0, spent)


@dataclass(frozen=True)
class Settings:
    """How to train, whatever is trained. batch: rows a step, over all workers. ema: relative width of the average.

    parts: 0 = every worker computes its rows of a batch at once, and the last bits depend on how many workers there
    are. A power of two = the batch is computed in so many equal parts, whose gradients are added along a fixed tree:
    the same bits for any number of workers up to it, and less memory, as only one part's activations are held.
    accumulate: without `parts`, every worker computes its rows in so many parts, for the memory's sake alone.
    spike: a turn whose gradient norm is more than so many times the median of the last 64 is skipped; 0 = none is, see
    gensys/engine/guard.py. recompute: activations of a backbone's `blocks` are computed again in the backward pass
    instead of being kept, see gensys/engine/recompute.py: the same bits, less memory, about a third more time.
    snapshots: how often, evenly over the run, the averages of the widths `profiles` are kept, from which an average of
    any width is made afterwards, see gensys/engine/posthoc.py; 0 = never, and nothing is averaged but for `ema`.
    paces: of players in a game whose learning rate is so many times that of `optim`; two time scales: Heusel et al.,
    2017, arXiv:1706.08500.
    """

    batch: int
    budget: Budget
    optim: Optim = Optim()  # noqa: RUF009 - a frozen value
    ema: float = 0.07
    clip: float = 1.0  # the largest norm of a step's gradient: rare outliers of small batches do not undo the run
    precision: Precision = "auto"
    seed: int = 0
    keep: int = 2  # checkpoints on the disk, beside the best one
    save_every: float = 60.0  # seconds between checkpoints; 0 = one at every step
    log_every: int = 20  # steps between lines of the log
    previews: int = 8  # sample grids over the run, after the one at step 0
    parts: int = 0
    accumulate: int = 1
    spike: float = 0.0
    recompute: bool = False
    snapshots: int = 0
    profiles: tuple[float, ...] = (0.05, 0.1)  # theirs: from 0.03 to 0.2 is then within a few percent
    paces: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"'batch' must be at least 1, got {self.batch}")
        if self.parts < 0 or self.parts & (self.parts - 1):
            raise ConfigError(f"'parts' must be 0 or a power of two, got {self.parts}: give 2, 4, 8, ...")
        if self.parts and self.batch % self.parts:
            raise ConfigError(f"'batch' must be a multiple of the number of parts ({self.parts}), got {self.batch}")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ConfigError(
                f"'accumulate' must be at least 1 and divide 'batch' ({self.batch}), got {self.accumulate}"
            )
        if self.parts and self.accumulate > 1:
            raise ConfigError(
                f"'accumulate' must be 1 where a step is computed in parts ({self.parts}), got {self.accumulate}: "
                f"parts save memory as well, give more of them"
            )
        if self.spike != 0 and not self.spike > 1:
            raise ConfigError(f"'spike' must be 0 (off) or above 1, got {self.spike}: 10 to 100 are usual")
        if self.snapshots < 0:
            raise ConfigError(f"'snapshots' must be at least 0, got {self.snapshots}: 16 to 64 are usual, 0 keeps none")
        if not 0 <= self.seed < 1 << 43:  # shifted by 20 bits and added to a step, it must fit torch's 64-bit seed
            raise ConfigError(f"'seed' must lie in [0, 2^43), got {self.seed}")
        if any(not pace > 0 for _, pace in self.paces):
            raise ConfigError(f"'paces' must be positive, got {dict(self.paces)}")

    def pace(self, player: str) -> float:
        """What the learning rate is multiplied by at a player's turns."""
        return dict(self.paces).get(player, 1.0)
