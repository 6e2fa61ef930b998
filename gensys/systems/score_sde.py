"""Score-based models of stochastic differential equations: VP, sub-VP and VE.

    dx = f(t) x dt + g(t) dw carries data to noise, with marginals x_t = alpha x + sigma eps; a network learns the score
    of the marginals, grad log p_t = -E[eps | x_t] / sigma, with which time is turned back:

    dx = [f x - g^2 score] dt + g dw        the reverse SDE: `euler_maruyama`, `predictor_corrector`
    dx = [f x - g^2 score / 2] dt           the probability flow: `heun`, `ddim`, likelihoods

The loss is sigma^2 |score error|^2 (lambda = 1 / E|grad log p(x_t | x)|^2 = sigma^2), which is the error of eps: a
network that outputs eps is weighted evenly, one that outputs the score itself by sigma^2. On VE, whose noise is of any
size, the network sees x_t scaled to unit variance.

Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, 2020, "Score-based generative modeling through stochastic
differential equations", arXiv:2011.13456, equations 5 to 7, 13 and appendix C.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from gensys import targets
from gensys.denoiser import Denoiser
from gensys.families.diffusion import Diffusion, Sampler
from gensys.objectives.denoise import denoise
from gensys.objectives.weights import on_data
from gensys.paths import VE, Coefs, Path
from gensys.targets import Target
from gensys.times import Uniform

__all__ = ["even_on_noise", "score_sde"]


def even_on_noise(c: Coefs, target: Target) -> Tensor:
    """1 on the error of eps, whatever the output: (alpha / sigma)^2 on that of the data, sigma^2 on the score's."""
    return on_data(c, target, c.alpha**2)


def score_sde(
    net: nn.Module,
    shape: tuple[int, ...],
    *,
    path: Path,
    target: Target = targets.noise,
    sigma_data: float = 0.5,
    start: float = 1e-5,
    dropout: float = 0.0,
    sampler: Sampler = Sampler(),  # noqa: B008 - a frozen value
) -> Diffusion:
    """net: a backbone for data of `shape`. path: `VP()`, `SubVP()` or `VE()`. target: `noise`, `score` or `v`, of which
    the score follows: the loss is that of the noise.

    start: the least time that is trained, as the score has no bound at the data (their epsilon, 1e-5). sigma_data: the
    standard deviation of the data, which scales the inputs on VE. dropout: of the condition.
    """
    scale = sigma_data if isinstance(path, VE) else None
    return Diffusion(
        Denoiser(net, path, target, sigma_data=scale, unlabelled=dropout > 0.0),
        shape,
        objective=partial(denoise, law=Uniform(start), weight=even_on_noise, dropout=dropout),
        sampler=sampler,
    )
