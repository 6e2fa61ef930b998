"""The models of the jobs that are disturbed: small, and they rest before each use of a network, so that there is time
for something to happen. A file of the user's, as the command line takes it: it is executed in the driver and in every
worker, which is also how the negative control gets there (`control.py`).
"""

import os
import time

from gensys.data.sources import open_source, split
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.families.diffusion import Sampler
from gensys.run import Run, budget_of
from gensys.solvers import euler
from gensys.systems.flow_dit import flow_dit
from gensys.systems.kl_autoencoder import kl_autoencoder
from gensys.times import uniform

PAUSE = float(os.environ.get("CHAOS_PAUSE", "0"))  # seconds; changes no bit


def _run(data, budget, build):
    source = open_source(data)

    def resting():
        model = build(source)
        for part in model.children():
            part.register_forward_pre_hook(lambda *_: time.sleep(PAUSE))
        return model

    settings = Settings(16, budget_of(budget), Optim(warmup=10), precision="fp32", save_every=0.3, log_every=5)
    return Run(source, split(source)[0], resting, settings)


def codec(data: str, budget: str = "64") -> Run:
    """A codec."""
    return _run(data, budget, lambda source: kl_autoencoder(source.shape, channels=2, widths=(8, 16)))


def flow(data: str, budget: str = "64") -> Run:
    """A flow."""
    sampler = Sampler(euler, tuple(uniform(2)))
    tiny = {"classes": 10, "patch": 8, "width": 16, "depth": 2, "heads": 2, "sampler": sampler}
    return _run(data, budget, lambda source: flow_dit(source.shape, **tiny))
