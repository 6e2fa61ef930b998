"""What can be wrong with data: every message says what was found, what was wanted and what to do about it."""

from __future__ import annotations

__all__ = ["DataError", "NondeterminismError", "StoreError"]


class DataError(ValueError):
    """Data are missing, damaged or not what they were declared to be; the message is one paragraph for a person."""


class StoreError(DataError):
    """A store cannot be created, written, sealed or read."""


class NondeterminismError(StoreError):
    """The same shard was made twice from the same inputs and came out different: the producer is not repeatable."""
