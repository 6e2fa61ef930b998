"""For all tests: nothing is written to the configuration of the user who runs them; fresh memory can be counted; there
is a bucket; formulas of others are at hand."""

import importlib
import importlib.util
import os
import subprocess
import sys
import types
import urllib.request

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gensys import native
from gensys.kernels import dispatch

_SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


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


class Allocations(TorchDispatchMode):
    """Counts the operators in its block that return fresh memory, of at least so many elements."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() >= self.numel:
            given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
            self.count += result.untyped_storage().data_ptr() not in given
        return result


@pytest.fixture
def allocations():
    """with allocations(numel) as seen: ...; seen.count"""
    return Allocations


@pytest.fixture
def no_extension(monkeypatch):
    """Nothing is compiled, for want of a compiler; what is chosen then is not remembered afterwards."""
    monkeypatch.setattr(native, "extension", None)
    monkeypatch.setattr(native, "why_missing", "no compiler")
    dispatch._choose.cache_clear()
    yield
    dispatch._choose.cache_clear()


@pytest.fixture(scope="module")
def bucket():
    """URL of a bucket that is empty, of a server on this machine."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto: pip install 'moto[s3,server]'")
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        host, port = server.stdout.readline().split()
        endpoint = f"http://{host.decode()}:{int(port)}"
        names = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**names, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}.items():
                patch.setenv(name, value)
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
            yield "s3://bucket"
    finally:
        server.stdin.close()
        server.wait(20)
        server.stdout.close()


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
