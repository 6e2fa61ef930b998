"""The compiled extension, if it was built: the one place that imports it and that knows why it is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["extension", "why_missing"]

_NAME = "gensys._native"


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module(_NAME), ""
    except ImportError as error:  # not built (no compiler at install time), or built for another Python or torch
        return None, str(error)


extension, why_missing = _load()
"""The pybind11 module or None, and the reason for None (shown by `gensys doctor`)."""
