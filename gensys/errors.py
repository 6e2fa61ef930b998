"""What can go wrong in a way that a person can mend: the message is one paragraph that says how.

The command line prints these without a stack trace; anything else that is raised is a bug of gensys.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GensysError",
    "NondeterminismError",
    "OtherStoreError",
    "RunError",
    "StoreError",
    "Terminated",
    "TrainingError",
]


class GensysError(Exception):
    """The root: everything that the command line reports as a message."""


class ConfigError(GensysError):
    """A recipe, a knob or an option is not what it can be."""


class RunError(GensysError):
    """A run folder is missing, differs, or cannot be written."""


class CheckpointError(GensysError):
    """A checkpoint cannot be read or belongs to another model."""


class TrainingError(GensysError):
    """Training cannot go on."""


class DataError(GensysError):
    """Data are missing, damaged or not what they were declared to be."""


class StoreError(DataError):
    """A store cannot be created, written, sealed or read."""


class OtherStoreError(StoreError):
    """The store that is there was created for something else."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever runs this machine wants it to end, and as with Ctrl-C what is whole is kept."""


class NondeterminismError(StoreError):
    """The same shard was made twice from the same inputs and came out different: the producer is not repeatable."""
