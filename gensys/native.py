"""The compiled extension, if it was built: the one place that imports it and that knows why it is missing.

GENSYS_NATIVE=0 in the environment switches it off, to see what pure torch does.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch  # noqa: F401  (it brings the libraries that the extension links against)

__all__ = ["extension", "why_missing"]

_NAME = "gensys._native"


def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get("GENSYS_NATIVE") == "0":
        return None, "switched off by GENSYS_NATIVE=0"
    try:
        return importlib.import_module(_NAME), ""
    except ImportError as error:  # not built (no compiler at install time), or built for another Python or torch
        return None, str(error)


extension, why_missing = _load()
"""The pybind11 module or None, and the reason for None (shown by `gensys doctor`)."""
