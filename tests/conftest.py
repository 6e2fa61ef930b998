"""For all tests: nothing is written to the configuration of the user who runs them."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_configuration(tmp_path_factory):
    """In the environment, so that subprocesses and Ray's workers have it too."""
    old = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    yield
    if old is None:
        del os.environ["XDG_CONFIG_HOME"]
    else:
        os.environ["XDG_CONFIG_HOME"] = old
