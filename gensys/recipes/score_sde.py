"""Score-based diffusion in continuous time."""

from __future__ import annotations

from typing import Annotated, Literal

from gensys import needs, targets
from gensys.core import Generative
from gensys.domain import open_domain
from gensys.errors import ConfigError
from gensys.knobs import SAMPLING, Network, Sampling, Training
from gensys.paths import VE, VP, SubVP
from gensys.run import Needs, Run
from gensys.systems.score_sde import score_sde as system
from gensys.targets import Target

Output = Literal["auto", "noise", "score", "v"]
_VE = Needs("sde=ve", lambda knobs, _: knobs["sde"] == "ve")


def score_sde(
    data: str = "mnist",  # mnist, fashion, a folder of images, a table of vectors (.csv), or a latent store
    size: int = 32,  # side to which images are cropped and scaled
    categorical: str = "",  # columns of numbers that are categories, by name or counted from 0: dose,3
    sde: Literal["vp", "subvp", "ve"] = "vp",  # how data become noise: vp and subvp shrink them, ve drowns them
    target: Output = "auto",  # what the network outputs, weighed alike; auto = noise of ve, v of the others
    sigma_min: Annotated[float, _VE] = 0.01,  # first noise level of ve
    sigma_max: Annotated[float, _VE] = 50.0,  # last noise level of ve: the largest distance between two data
    sigma_data: Annotated[float, _VE] = 0.0,  # deviation of the data, which scales the inputs; 0 = by their kind
    dropout: needs.Dropout = 0.1,  # probability that a row is trained without its label
    network: Network = Network(),  # noqa: B008 - a frozen value
    training: Training = Training(batch=32, budget="100k", lr=3e-3),  # noqa: B008
    sampling: Sampling = Sampling(solver="ddim", steps=16, grid="karras"),  # noqa: B008
) -> Run:
    """Score-based diffusion by a stochastic differential equation: VP, sub-VP or VE.

    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, 2020, "Score-based generative modeling through stochastic
    differential equations", arXiv:2011.13456, section 3.
    """
    if not 0.0 < sigma_min < sigma_max:
        raise ConfigError(f"'sigma_min' must lie between 0 and 'sigma_max' ({sigma_max:g}), got {sigma_min:g}")
    domain = open_domain(data, size, standardise="vectors", categories="one_hot", categorical=categorical)
    path = {"vp": VP(), "subvp": SubVP(), "ve": VE(sigma_min, sigma_max)}[sde]

    def prior() -> Generative:
        return system(
            network.build(domain),
            domain.shape,
            path=path,
            target=_target(target, vanishing=sde != "ve"),
            sigma_data=sigma_data or domain.deviation,
            dropout=dropout,
            sampler=sampling.sampler(path, domain),
        )

    return domain.run(prior, training.settings(), SAMPLING)


def _target(name: Output, *, vanishing: bool) -> Target:
    """What the network outputs. Where data vanish in the noise, an error of the noise is 1 / alpha times as large in
    them, 150 times at the end."""
    if name == "auto":
        name = "v" if vanishing else "noise"
    return {"noise": targets.noise, "score": targets.score, "v": targets.v}[name]
