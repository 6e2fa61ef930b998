"""The variational autoencoder, on images and on vectors.

    maximise  E_q [log p(x | z)] - beta KL(q(z | x) || p(z)),    p(z) = N(0, I) or the couplings of Real NVP

Kingma and Welling, 2013, "Auto-encoding variational Bayes", arXiv:1312.6114, equation 10; beta: Higgins et al., 2017,
"beta-VAE: learning basic visual concepts with a constrained variational framework", equation 4; more draws of z:
Burda, Grosse and Salakhutdinov, 2015, "Importance weighted autoencoders", arXiv:1509.00519, equation 8; a flow as
prior: Chen et al., 2016, "Variational lossy autoencoder", arXiv:1611.02731, section 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gensys.families.vae import VAE
from gensys.nn.autoencoder import Perceptron, WithScale, flat_codec
from gensys.nn.backbone import squares
from gensys.objectives.elbo import Schedule
from gensys.objectives.observation import Columns, Gaussian, Observation
from gensys.systems.realnvp import realnvp

__all__ = ["linear_vae", "vae"]

_PLACES = 8  # a side, at the finest resolution of the convolutions: what digits and clothes are told apart by


class _Features(nn.Module):
    """The encoder of a table behind its one-hot categories."""

    def __init__(self, columns: Columns, encoder: nn.Module) -> None:
        super().__init__()
        self._columns, self.encoder = columns, encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self._columns.features(x))


def vae(
    shape: tuple[int, ...],
    observation: Observation,
    *,
    latent: int = 16,
    width: int = 32,
    depth: int = 2,
    patch: int = 0,
    couplings: int = 0,
    beta: float = 1.0,
    schedule: Schedule | None = None,
    free: float = 0.0,
    delta: float = 0.0,
    draws: int = 1,
    noisy: bool = False,
) -> VAE:
    """Data of `shape`, (C, H, W) or (D,) -> a model with `latent` numbers. The rest: see `VAE`.

    depth: resolutions of the convolutions, whose channels begin with `width` and double, or hidden layers of `width`.
    patch: side of the squares of pixels that are folded into channels first; 0 = what leaves 8 of them a side.
    couplings: of the prior, from its latents to N(0, I); 0 = it is N(0, I).
    """
    if len(shape) not in (1, 3) or latent < 1:
        raise ValueError(f"'shape' must be (C, H, W) or (D,) and 'latent' at least 1, got {shape} and {latent}")
    outputs = observation.outputs(shape[0])
    if len(shape) == 3:
        widths = tuple(width * 2**k for k in range(depth))
        image = shape[0], shape[1], shape[2]
        patch = patch or squares(image[1:], _PLACES, 2 ** max(depth - 1, 0))
        parts = flat_codec(image, codes=2 * latent, latent=latent, outputs=outputs, widths=widths, patch=patch)
    else:
        table = observation if isinstance(observation, Columns) else None
        inputs = sum(n or 1 for n in table.categories) if table else math.prod(shape)
        encoder = Perceptron(inputs, 2 * latent, width=width, depth=depth)
        decoder = Perceptron(latent, outputs, width=width, depth=depth)
        parts = (_Features(table, encoder) if table else encoder), decoder
    # with 64 units the prior costs two fifths of a step of digits; splines in their place gave the same samples
    prior = realnvp((latent,), width=64, steps=couplings) if couplings else None
    return VAE(
        *parts,
        (latent,),
        observation,
        prior=prior,
        beta=beta,
        schedule=schedule,
        free=free,
        delta=delta,
        draws=draws,
        noisy=noisy,
    )


class _Linear(nn.Module):
    """mean = A x + c, logvar the same for all x: the posterior of a linear Gaussian model needs no more."""

    def __init__(self, dim: int, latent: int) -> None:
        super().__init__()
        self.mean = Perceptron(dim, latent, depth=0)
        self.logvar = nn.Parameter(torch.zeros(latent))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean(x)
        return torch.cat([mean, self.logvar.expand_as(mean)], 1)


def linear_vae(dim: int, latent: int) -> VAE:
    """z -> W z + b + scale eps with one learnt scale: at its optimum the probabilistic principal components.

    Tipping and Bishop, 1999, "Probabilistic principal component analysis"; that the bound is tight there: Lucas,
    Tucker, Grosse and Norouzi, 2019, "Don't blame the ELBO!", arXiv:1911.02469, section 4.
    """
    decoder = WithScale(Perceptron(latent, dim, depth=0))
    return VAE(_Linear(dim, latent), decoder, (latent,), Gaussian())
