"""A peer that imports more than it needs: the formulas of torch-fidelity, without torchvision."""

import importlib
import importlib.util
import sys
import types

import pytest


@pytest.fixture
def fidelity(monkeypatch):
    """fidelity(name): a module of torch-fidelity, if that is there: pip install --no-deps torch-fidelity.

    The package imports torchvision for its data sets, which none of its formulas needs. So it is entered as a bare
    package, and its helper modules that read files as empty ones.
    """
    found = importlib.util.find_spec("torch_fidelity")  # does not run it
    if found is None or importlib.util.find_spec("tqdm") is None:
        pytest.skip("needs torch-fidelity as a reference: pip install --no-deps torch-fidelity")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(found.submodule_search_locations)
    utils = types.ModuleType("torch_fidelity.utils")
    utils.__getattr__ = lambda name: None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.utils", utils)

    def load(name):
        module = importlib.import_module(f"torch_fidelity.{name}")
        monkeypatch.setitem(sys.modules, f"torch_fidelity.{name}", module)  # gone with the fixture
        return module

    return load
