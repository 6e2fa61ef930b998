"""The variational autoencoder on images, vectors, tables and latents."""

from __future__ import annotations

from typing import Literal

import torch

from gensys.data.quarantine import readable
from gensys.domain import Domain, open_domain
from gensys.errors import ConfigError
from gensys.knobs import Training
from gensys.noise import Noise
from gensys.objectives.elbo import Schedule, cyclic, linear
from gensys.objectives.observation import Bernoulli, Columns, DiscretisedLogistic, Gaussian, Observation
from gensys.run import Run
from gensys.systems.vae import vae as system

Seen = Literal["auto", "bernoulli", "gaussian", "fixed", "logistic"]

_COUNTED = 100_000  # rows that the categories of a table are counted in


def vae(
    data: str = "mnist",  # images, vectors such as a CSV table, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    latent: int = 16,  # numbers in a latent
    width: int = 32,  # channels at the finest resolution, doubled when it halves; hidden units for vectors
    depth: int = 2,  # resolutions of the convolutions; hidden layers for vectors
    patch: int = 2,  # side of the squares of pixels that are folded into channels first
    observation: Seen = "auto",  # p(x | z): auto = logistic (8-bit pixels) for images, else gaussian (learnt scale)
    scale: float = 0.1,  # of observation=fixed: the standard deviation of a Gaussian
    categorical: str = "",  # columns of a table, counted from 0, that hold categories 0, 1, ...: 0,3
    beta: float = 1.0,  # weight of the KL term
    annealing: Literal["none", "linear", "cyclic"] = "none",  # how beta grows: once, or again and again
    period: int = 1000,  # steps of the annealing, or of one of its cycles
    free: float = 0.0,  # free bits: nats that every latent number has for nothing
    draws: int = 1,  # above 1: the importance-weighted bound with so many latents a row
    noisy: bool = False,  # whether samples are drawn from p(x | z), or are its mean
    training: Training = Training(batch=64, budget="300k", lr=2e-3),  # noqa: B008 - a frozen value
) -> Run:
    """A variational autoencoder: latents with a Gaussian prior, and a bound on the likelihood.

    Kingma and Welling, 2013, "Auto-encoding variational Bayes", arXiv:1312.6114, section 3.
    """
    domain = open_domain(data, size)
    seen = _columns(domain, categorical) if categorical else _observation(domain, observation, scale)
    return domain.run(
        lambda: system(
            domain.shape,
            seen,
            latent=latent,
            width=width,
            depth=depth,
            patch=patch,
            beta=beta,
            schedule=_schedule(annealing, period),
            free=free,
            draws=draws,
            noisy=noisy,
        ),
        training.settings(),
        frozenset({"noisy"}),
    )


def _schedule(annealing: str, period: int) -> Schedule | None:
    if annealing == "none":
        return None
    return linear(period) if annealing == "linear" else cyclic(period)


def _observation(domain: Domain, name: str, scale: float) -> Observation:
    if name in ("bernoulli", "logistic") and domain.bounds is None:
        raise ConfigError(f"observation={name} is for images, and {domain.source.name!r} has values of any size")
    if name == "bernoulli":
        return Bernoulli()
    if name == "fixed":
        return Gaussian(scale)
    return DiscretisedLogistic() if name == "logistic" or (name == "auto" and domain.bounds) else Gaussian()


def _columns(domain: Domain, categorical: str) -> Columns:
    """Which columns are categories, and how many values each has in the rows to train on."""
    if len(domain.shape) != 1:
        raise ConfigError(f"'categorical' names columns of a table, and the data are {domain.shape}: leave it out")
    try:
        chosen = sorted({int(word) for word in categorical.split(",")})
    except ValueError:
        raise ConfigError(f"'categorical' is numbers of columns, such as 0,3, got {categorical!r}") from None
    if chosen[0] < 0 or chosen[-1] >= domain.shape[0]:
        raise ConfigError(f"'categorical' is {categorical!r}, and the columns are 0 to {domain.shape[0] - 1}")
    rows = readable(domain.source)[0][:_COUNTED]
    x = domain.source.batch(rows, Noise(0, rows)).x[:, chosen]
    if bool(((x != x.round()) | (x < 0)).any()):
        raise ConfigError(f"'categorical' is {categorical!r}, and not all values there are whole numbers from 0 on")
    counts = dict(zip(chosen, (x.amax(0).to(torch.int64) + 1).tolist(), strict=True))
    return Columns(tuple(max(2, counts[k]) if k in counts else 0 for k in range(domain.shape[0])))
