"""Measurements: gensys against plain torch, torch.compile, other libraries, and the limits of the machine."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SUITES"]

SUITES: Mapping[str, tuple[str, ...]] = {
    "kernels": ("adaln", "nearest", "coupling", "steps", "products"),
    "sampling": ("sampling",),
    "training": ("training",),
    "encode": ("encode",),
    "io": ("io",),
}
"""suite -> the modules of this package that hold its rows."""
