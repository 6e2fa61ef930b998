"""The diffusion transformer as it was published: DDPM's linear schedule and the noise as the target.

    x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) eps       loss: |net(x_t, t, label) - eps|^2, t uniform on T steps

The class enters through adaptive layer norm and is left out of a tenth of the rows, for guidance. The paper's network
also outputs the variance of a reverse step, in as many channels again (`outputs` of the backbone), trained by the
hybrid loss of Nichol and Dhariwal; here the variance is the solver's.

Peebles and Xie, 2022, "Scalable diffusion models with transformers", arXiv:2212.09748, sections 3 and 4.
"""

from __future__ import annotations

from gensys import targets
from gensys.families.diffusion import Diffusion, Sampler
from gensys.nn.dit import DiT
from gensys.paths import Discrete, linear_schedule
from gensys.systems.ddpm import ddpm
from gensys.targets import Target

__all__ = ["PATH", "dit"]

PATH = Discrete(linear_schedule(1000))  # ADM's, which the paper keeps


def dit(
    net: DiT,
    shape: tuple[int, ...],
    *,
    path: Discrete = PATH,
    target: Target = targets.noise,
    dropout: float = 0.1,
    sampler: Sampler = Sampler(),  # noqa: B008 - a frozen value
) -> Diffusion:
    """net: a transformer for data of `shape`, usually latents. target: the noise, as published, or
    another. dropout: of the condition, the paper's 0.1."""
    return ddpm(net, shape, path=path, target=target, dropout=dropout, sampler=sampler)
