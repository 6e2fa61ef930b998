"""The variational autoencoder on images, vectors, tables and latents."""

from __future__ import annotations

from typing import Annotated, Literal

from gensys.domain import Domain, open_domain
from gensys.errors import ConfigError
from gensys.knobs import Training
from gensys.objectives.elbo import Schedule, cyclic, linear
from gensys.objectives.observation import Bernoulli, Columns, DiscretisedLogistic, Gaussian, Observation
from gensys.run import Needs, Run
from gensys.systems.vae import vae as system

Seen = Literal["auto", "bernoulli", "gaussian", "fixed", "logistic"]
Prior = Literal["auto", "normal", "flow"]
Drawn = Literal["auto", "true", "false"]
_FIXED = Needs("observation=fixed", lambda knobs, _: knobs["observation"] == "fixed")
_NORMAL = Needs("prior=normal", lambda knobs, _: knobs["prior"] != "flow")
_FLOW = Needs("prior=flow", lambda knobs, _: _learnt(*(knobs[name] for name in ("prior", "latent", "free", "delta"))))
_ANNEALED = Needs("annealing=linear or cyclic", lambda knobs, _: knobs["annealing"] != "none")


def vae(
    data: str = "mnist",  # images, vectors such as a CSV table, or a store of latents
    size: int = 32,  # side to which encoded images are cropped and scaled
    latent: int = 16,  # numbers in a latent
    width: int = 32,  # channels at the finest resolution, doubled when it halves; hidden units for vectors
    depth: int = 2,  # resolutions of the convolutions; hidden layers for vectors
    patch: int = 0,  # side of the squares of pixels that are folded into channels first; 0 = by the sides
    observation: Seen = "auto",  # p(x | z): auto = logistic (8-bit pixels) for images, else gaussian (learnt scale)
    scale: Annotated[float, _FIXED] = 0.1,  # of observation=fixed: the standard deviation of a Gaussian
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    prior: Prior = "auto",  # p(z): normal, or flow = learnt couplings; auto = flow, unless latents have free bits
    couplings: Annotated[int, _FLOW] = 6,  # of prior=flow
    beta: float = 1.0,  # weight of the KL term
    annealing: Literal["none", "linear", "cyclic"] = "none",  # how beta grows: once, or again and again
    period: Annotated[int, _ANNEALED] = 1000,  # steps of the annealing, or of one of its cycles
    free: Annotated[float, _NORMAL] = 0.0,  # free bits: nats that every latent number has for nothing
    delta: Annotated[float, _NORMAL] = 0.0,  # nats that every latent number says at least
    draws: int = 1,  # above 1: the importance-weighted bound with so many latents a row
    noisy: Drawn = "auto",  # whether samples are drawn from p(x | z), or are its mean; auto = drawn of vectors
    training: Training = Training(batch=64, budget="300k", lr=2e-3),  # noqa: B008 - a frozen value
) -> Run:
    """A variational autoencoder: latents with a Gaussian or a learnt prior, and a bound on the likelihood.

    Kingma and Welling, 2013, "Auto-encoding variational Bayes", arXiv:1312.6114, section 3.
    """
    domain = open_domain(data, size, categories="modelled", categorical=categorical)
    seen = _observation(domain, observation, scale)
    if prior == "flow" and latent < 2:
        raise ConfigError(f"the couplings of prior=flow need two numbers in a latent, got latent={latent}")
    learnt = _learnt(prior, latent, free, delta)
    return domain.run(
        lambda: system(
            domain.shape,
            seen,
            latent=latent,
            width=width,
            depth=depth,
            patch=patch,
            couplings=couplings if learnt else 0,
            beta=beta,
            schedule=_schedule(annealing, period),
            free=free,
            delta=delta,
            draws=draws,
            noisy=noisy == "true" or (noisy == "auto" and len(domain.shape) == 1),
        ),
        training.settings(),
        frozenset({"noisy"}),
    )


def _learnt(prior: Prior, latent: int, free: float, delta: float) -> bool:
    """Whether the prior is a flow: by default it is, where it can be."""
    return prior == "flow" or (prior == "auto" and latent > 1 and not free and not delta)


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
        if named := [column.name for column in domain.columns if column.categories]:
            raise ConfigError(f"observation=fixed is for numbers, and {', '.join(named)} are categories: leave it out")
        return Gaussian(scale)
    if domain.columns:
        return _columns(domain)
    return DiscretisedLogistic() if name == "logistic" or (name == "auto" and domain.bounds) else Gaussian()


def _columns(domain: Domain) -> Columns:
    """The columns of a table, in the units of the rows to train on."""
    constant = [column.name for column in domain.columns if len(column.categories) == 1]
    if constant:
        raise ConfigError(
            f"the columns {', '.join(constant)} of {domain.source.name!r} are the same in all rows: leave them out of "
            "the table"
        )
    means, spreads = domain.moments()
    return Columns(tuple(len(column.categories) for column in domain.columns), tuple(means), tuple(spreads))
