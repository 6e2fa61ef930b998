"""Groups of knobs that recipes share: how a path model is trained, what its network is, how it samples.

A recipe takes a group as a parameter, with the defaults that suit it. On the command line every field is a knob of its
own: `gensys train ddpm net=dit steps=50`. The comment at the end of a field's line is its help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path as File
from typing import Annotated, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gensys import needs, targets
from gensys.bottlenecks.ema import EmaQuantiser
from gensys.bottlenecks.fsq import ScalarQuantiser
from gensys.bottlenecks.residual import ResidualQuantiser
from gensys.bottlenecks.vq import VectorQuantiser
from gensys.domain import Domain
from gensys.engine.loop import Settings
from gensys.engine.optim import Optim
from gensys.engine.precision import Precision
from gensys.errors import ConfigError
from gensys.families.diffusion import Sampler
from gensys.guidance import Guidance
from gensys.nn.backbone import backbone
from gensys.nn.features import TrainedFeatures, Wavelets
from gensys.nn.lenet import LeNet
from gensys.nn.stylegan import pyramid
from gensys.nn.translator import patch_critic
from gensys.objectives.penalties import R1, Lazy, Penalty
from gensys.paths import Discrete, Path
from gensys.run import Trained, budget_of
from gensys.solvers import (
    Solver,
    ancestral,
    churn,
    ddim,
    dopri5,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    euler,
    euler_maruyama,
    heun,
    multistep_consistency,
    plms,
    predictor_corrector,
    rk4,
    unipc,
)
from gensys.systems.stylegan import Style
from gensys.targets import Target
from gensys.teacher import open_denoiser
from gensys.times import (
    LogitNormal,
    Shifted,
    TimeLaw,
    Uniform,
    cosine,
    jumps,
    karras,
    leading,
    log_snr,
    quadratic,
    shifted,
    trailing,
    uniform,
)

__all__ = [
    "GRIDS",
    "SAMPLING",
    "SOLVERS",
    "Codebook",
    "Likeness",
    "Network",
    "Rivals",
    "Sampling",
    "Styles",
    "TargetName",
    "Times",
    "Training",
]

SolverName = Literal[
    "ancestral", "churn", "ddim", "dopri5", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde", "euler",
    "euler_maruyama", "heun", "multistep_consistency", "plms", "predictor_corrector", "rk4", "unipc",
]  # fmt: skip
QuantiserName = Literal["ema", "gradient", "residual", "fsq"]
GridName = Literal["uniform", "trailing", "leading", "quadratic", "cosine", "karras", "log_snr", "jumps"]

SOLVERS: dict[SolverName, Solver] = {
    "ancestral": ancestral,
    "churn": churn,
    "ddim": ddim,
    "dopri5": dopri5,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "euler": euler,
    "euler_maruyama": euler_maruyama,
    "heun": heun,
    "multistep_consistency": multistep_consistency,
    "plms": plms,
    "predictor_corrector": predictor_corrector,
    "rk4": rk4,
    "unipc": unipc,
}
TargetName = Literal["noise", "data", "v", "velocity"]
TARGETS: dict[TargetName, Target] = {
    "noise": targets.noise,
    "data": targets.data,
    "v": targets.v,
    "velocity": targets.velocity,
}
GRIDS = {"uniform": uniform, "trailing": trailing, "leading": leading, "quadratic": quadratic, "cosine": cosine}


@dataclass(frozen=True)
class Training:
    """How long and how fast."""

    batch: int = 64  # rows per step, over all workers
    budget: str = "500k"  # rows (64000, 500k, 2M), time (90s, 10m, 2h), or time of the processor (cpu:10m)
    lr: float = 1e-3  # peak learning rate
    precision: Precision = "auto"  # number format of the matrix products: auto, bf16 or fp32
    seed: int = 0  # of weights, order and noise
    recompute: bool = False  # whether activations are computed again in the backward pass: less memory, more time
    snapshots: int = 0  # snapshots of averages over the run, of which `gensys ema` makes one of any length; 0 = none

    def settings(self, spike: float = 20.0) -> Settings:
        """For the loop. spike: see `Settings`; the gradients of healthy runs stay below 3 times their median."""
        return Settings(
            batch=self.batch,
            budget=budget_of(self.budget),
            optim=Optim(lr=self.lr),
            precision=self.precision,
            seed=self.seed,
            spike=spike,
            recompute=self.recompute,
            snapshots=self.snapshots,
        )

    def steps(self) -> int | None:
        """How many steps the budget is; None for a budget in seconds."""
        images = budget_of(self.budget).images
        return None if images is None else -(-images // self.batch)


@dataclass(frozen=True)
class Rivals:
    """The generator and the critic of a game, and how fast they learn."""

    latent: int = 64  # numbers that a sample is made of
    width: int = 32  # channels at half the resolution, doubled at each half after that; hidden units for vectors
    depth: int = 3  # how often the resolution is halved; hidden layers for vectors
    turns: int = 1  # steps of the critic, each on rows of its own, for one of the generator
    pace: float = 1.0  # learning rate of the critic, in multiples of the generator's
    momentum: float = 0.5  # how long gradients are remembered, Adam's beta1: in a game the usual 0.9 makes it circle

    def settings(self, training: Training) -> Settings:
        """For the loop. No step is skipped for the size of its gradient and none is cut: as a game goes on, gradients
        change by orders of magnitude, and Adam's steps do not depend on their size."""
        settings = training.settings(spike=0.0)
        return replace(
            settings,
            optim=replace(settings.optim, betas=(self.momentum, settings.optim.betas[1])),
            clip=math.inf,
            paces=(("critic", self.pace),),
        )


@dataclass(frozen=True)
class Styles:
    """The players of a style-based game, and how they learn."""

    latent: int = 64  # numbers that a sample is made of
    styles: int = 64  # numbers of a style, w
    mapping: int = 2  # layers from latents to styles
    width: int = 8  # channels at the full resolution, doubled at each half after that
    most: int = 64  # channels at any resolution, at most
    critic: Literal["residual", "strided"] = "strided"  # that of StyleGAN 2, for long runs, or that of a DCGAN
    mixing: float = 0.0  # probability that a sample has two styles in training
    truncation: float = 1.0  # how far from the mean style samples are, relative to training; below 1: less varied
    r1: float = 0.1  # weight of the squared gradient of the critic at data; 0 = none
    every: Annotated[int, needs.R1] = 4  # steps from one R1 penalty to the next, which is so many times as large
    pace: float = 1.0  # learning rate of the critic, in multiples of the generator's

    def settings(self, training: Training) -> Settings:
        """For the loop, as other games have it; without momentum, as in all of StyleGAN."""
        return Rivals(pace=self.pace, momentum=0.0).settings(training)

    def style(self) -> Style:
        return Style(self.latent, self.styles, self.mapping, self.mixing, self.truncation, self.critic)

    def channels(self, image: tuple[int, int, int]) -> tuple[int, ...]:
        """Of both players at each resolution from 4 x 4 on."""
        return pyramid(image, self.width, self.most)

    def penalty(self) -> Penalty | None:
        return Lazy(R1(self.r1), self.every) if self.r1 else None


@dataclass(frozen=True)
class Codebook:
    """How latents become codes."""

    quantiser: QuantiserName = "ema"  # codebook by averages or gradients; residual = several in turn; fsq = rounding
    codes: Annotated[int, needs.VECTORS] = 256  # vectors in a codebook
    dim: Annotated[int, needs.VECTORS] = 16  # numbers in one of them
    books: Annotated[int, needs.RESIDUAL] = 4  # codebooks of quantiser=residual
    levels: Annotated[str, needs.ROUNDED] = "8,6,5"  # values of every number of fsq: their product = the codes
    decay: Annotated[float, needs.AVERAGED] = 0.99  # of the moving averages
    revive: Annotated[float, needs.AVERAGED] = 0.1  # part of a fair share below which a code is split off; 0 = never

    def build(self) -> nn.Module:
        """The quantiser, see `bottlenecks.vq.Quantiser`. Raises ConfigError for levels that are no numbers."""
        if self.quantiser == "fsq":
            return ScalarQuantiser(self._levels())
        if self.quantiser == "gradient":
            return VectorQuantiser(self.codes, self.dim)
        if self.quantiser == "residual":
            return ResidualQuantiser([self._averaged() for _ in range(self.books)])
        return self._averaged()

    def _averaged(self) -> EmaQuantiser:
        return EmaQuantiser(self.codes, self.dim, decay=self.decay, revive=self.revive)

    def _levels(self) -> tuple[int, ...]:
        try:
            return tuple(int(word) for word in self.levels.split(","))
        except ValueError:
            raise ConfigError(f"'levels' is whole numbers with commas, such as 8,6,5, got {self.levels!r}") from None


@dataclass(frozen=True)
class Likeness:
    """What the images of a codec are held to besides their pixels, and how the critic learns."""

    perceptual: float = 10.0  # weight of the distance of features; 0 = none
    extractor: Annotated[str, needs.PERCEPTUAL] = ""  # file of a LeNet trained here, to compare by; empty = wavelets
    adversarial: float = 0.2  # weight of what the critic says, in multiples of the rest's gradient; 0 = no critic
    adaptive: Annotated[bool, needs.CRITIC] = True  # whether it is such a multiple, or one of the loss as it is
    start: Annotated[int, needs.CRITIC] = 2000  # steps before there is a critic: it undoes what is still poor
    critic_width: Annotated[int, needs.CRITIC] = 16  # channels after its first convolution, doubled after that
    critic_halvings: Annotated[int, needs.CRITIC] = 2  # 1, 2, 3: it looks at patches of 16, 34, 70 pixels
    pace: Annotated[float, needs.CRITIC] = 0.1  # learning rate of the critic, in multiples of the codec's
    momentum: float = 0.9  # how long gradients are remembered, Adam's beta1: the game is the smaller part here

    def features(self, image: tuple[int, int, int]) -> nn.Module:
        """What images are compared by. Raises ConfigError for a file that is no LeNet for such images."""
        if self.extractor:
            return self._trained(image)
        return Wavelets(image[0])

    def _trained(self, image: tuple[int, int, int]) -> nn.Module:
        try:
            net = LeNet.of(load_file(File(self.extractor).expanduser()))
            net.maps(torch.zeros(1, *image, device="cpu"))
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"'extractor' is a file of the weights of a LeNet for images {image}, such as those that `gensys "
                f"evaluate` leaves in RUN/judge, and {self.extractor!r} is not: {error}"
            ) from error
        return TrainedFeatures(net)

    def critic(self, image: tuple[int, int, int]) -> nn.Module | None:
        """The untrained critic, if there is to be one."""
        if not self.adversarial:
            return None
        return patch_critic(image, width=self.critic_width, halvings=self.critic_halvings)

    def settings(self, training: Training) -> Settings:
        """For the loop: those of a game, with a learning rate that falls from the start, as suits small codecs."""
        settings = Rivals(pace=self.pace, momentum=self.momentum).settings(training)
        return replace(settings, optim=replace(settings.optim, warmup=50, decay=1.0))


@dataclass(frozen=True)
class Times:
    """Which times a flow is trained at."""

    law: Literal["uniform", "logit_normal"] = "uniform"  # of t in training; logit_normal weighs the middle of the path
    time_shift: float = 1.0  # above 1: more of the training at times near the noise, for data of high resolution

    def build(self) -> TimeLaw:
        law = Uniform() if self.law == "uniform" else LogitNormal()
        return law if self.time_shift == 1.0 else Shifted(law, self.time_shift)


@dataclass(frozen=True)
class Network:
    """The backbone of a path model; vectors have an MLP, whatever `net` says."""

    net: Annotated[Literal["dit", "unet"], needs.NETWORK] = "unet"  # of images: dit (transformer), unet (convolutions)
    width: Annotated[int, needs.WIDTH] = 0  # features (dit), first channels (unet), units (vectors); 0 = 96, 32, 128
    depth: Annotated[int, needs.WIDTH] = 0  # blocks (dit, or a resolution of unet), layers (vectors); 0 = 4, 1, 3
    heads: Annotated[int, needs.DIT] = 4  # heads of the attention of dit
    patch: Annotated[int, needs.DIT] = 0  # side of the squares that are one token of dit; 0 = by the side of the data
    levels: Annotated[int, needs.UNET] = 3  # resolutions of unet; all but the first attend
    fold: Annotated[int, needs.UNET] = 0  # side of the squares that unet folds into channels; 0 = by that of the data

    def build(self, domain: Domain, *, outputs: int | None = None) -> nn.Module:
        """The untrained network for these data, of all their shapes. outputs: channels, if not those of the data.

        Raises: ConfigError for data, and ValueError for a network, that do not fit.
        """
        return backbone(
            domain.shape,
            self.net,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            patch=self.patch,
            levels=self.levels,
            fold=self.fold,
            classes=domain.classes,
            vector=domain.vector,
            outputs=outputs,
            others=domain.shapes,
        )


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn: may be given anew to `gensys sample`."""

    solver: SolverName = "heun"  # which solver walks the grid: heun and rk4 call the network 2 and 4 times a step
    steps: int = 20  # steps of the solver
    grid: GridName = "uniform"  # where steps lie: uniform, quadratic, cosine, karras, log_snr, jumps, trailing, leading
    shift: float = 1.0  # above 1: more of the steps near the noise
    eta: Annotated[float, needs.DDIM] = 0.0  # fresh noise of ddim: 0 = none, 1 = as much as ancestral
    guidance: Annotated[float, needs.FOLLOWS] = 1.0  # 1 = the conditional model; more follows the label more closely
    weaker: Annotated[Trained, needs.WEAKER] = ""  # the run of a worse model, to guide away from
    guide_from: Annotated[float, needs.GUIDED] = 1.0  # when guidance begins, from noise (1) to data (0)
    guide_to: Annotated[float, needs.GUIDED] = 0.0  # when it ends: later changes little
    rescale: Annotated[float, needs.GUIDED] = 0.0  # 0 to 1: how far the contrast of samples is that of unguided ones
    clip: Annotated[bool, needs.PIXELS] = False  # whether estimates of images are clipped to the range of pixels
    threshold: float = 0.0  # percentile of an estimate's magnitudes that it is clipped at and divided by; 0 = off

    def __post_init__(self) -> None:
        if not 0.0 <= self.guide_to < self.guide_from <= 1.0:
            raise ValueError(
                f"'guide_from' and 'guide_to' must be times with 0 <= guide_to < guide_from <= 1, as time runs from "
                f"noise (1) to data (0), got guide_from={self.guide_from:g} and guide_to={self.guide_to:g}"
            )

    def sampler(self, path: Path, domain: Domain) -> Sampler:
        """For data of `domain`, which says whether there is a condition to follow, and the bounds for `clip`.

        Raises: ConfigError for a threshold where the data are not in [-1, 1], ValueError for values out of range.
        """
        if self.threshold and domain.bounds != (-1.0, 1.0):
            raise ConfigError(
                f"'threshold' is {self.threshold:g}, and it is for images, whose pixels lie in [-1, 1]: latents and "
                f"vectors have no such bounds. Leave it 0; 'rescale' does for them what it does for images"
            )
        guided = domain.conditional or bool(self.weaker)
        solver = partial(ddim, eta=self.eta) if self.solver == "ddim" and self.eta else SOLVERS[self.solver]
        return Sampler(
            solver,
            tuple(self.fractions(path)),
            Guidance(self.guidance if guided else 1.0, (self.guide_to, self.guide_from), self.rescale),
            domain.bounds if self.clip else None,
            self.threshold,
            partial(open_denoiser, "weaker", self.weaker, domain) if self.weaker else None,
        )

    def require_unguided(self, instead: str) -> None:
        """For a model that was never trained without its condition, so that there is nothing to guide away from.

        instead: what does for it what guidance does for others. Raises: ConfigError.
        """
        if self.guidance != 1.0 and not self.weaker:
            raise ConfigError(
                f"'guidance' is {self.guidance:g}, and this model was not trained to draw without its label: leave it "
                f"1. {instead}"
            )

    def fractions(self, path: Path) -> list[float]:
        """The grid on the path's span, from noise to data."""
        if self.grid == "karras":
            times = karras(path, self.steps)
        elif self.grid == "jumps":
            times = jumps(path, self.steps)
        elif self.grid == "log_snr":
            times = log_snr(path, self.steps)
        elif self.grid in ("trailing", "leading") and isinstance(path, Discrete):
            times = GRIDS[self.grid](self.steps, len(path.alpha_bar))
        else:
            times = GRIDS[self.grid](self.steps)
        return times if self.shift == 1.0 else shifted(times, self.shift)


SAMPLING = frozenset(field.name for field in fields(Sampling))
"""The knobs that do not change the weights."""
