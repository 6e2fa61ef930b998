"""The Ray programs: the only files that import Ray.

Ray's servers listen on all interfaces, whatever address they are given. So a cluster that gensys starts asks for a
random token on every call, which only this program and its workers know. Ray reads these variables when it is imported,
which is why they are set here, before any of the files beside this one runs.
"""

import os
import secrets
import sys


def joins_a_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster, as `ray job submit` and the files of cluster/ set it."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


if "ray" not in sys.modules and not joins_a_cluster() and "RAY_AUTH_MODE" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; silences a warning
