"""Editing given data with a path model: plain functions of a `Diffusion`, or of what has one behind it (`Mapped`).

    invert         data -> the noise that the deterministic solver draws them from
    round_trip     and back, under another condition perhaps
    from_partial   data -> data, by way of a partial time: noise is added, and taken away again
    inpaint        some elements of the data are known, the others are drawn to fit them

The grid, the solver, guidance and nodes are those of the model's sampler. All noise is a function of (seed, id).
In latents, data are encoded first and decoded last, so what is kept is kept as far as the codec does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from gensys.core import Cond, Generative
from gensys.denoiser import gaussian
from gensys.families.diffusion import BY_ROW, Diffusion
from gensys.families.mapped import Mapped, prior_of
from gensys.families.standardised import Standardised
from gensys.kernels.linear import frozen
from gensys.noise import Noise, Stream
from gensys.solvers.churn import on_part
from gensys.solvers.dopri5 import dopri5
from gensys.solvers.solver import draws, named
from gensys.targets import Boundary, Prediction, recover
from gensys.times import on

__all__ = ["data_shape", "from_partial", "inpaint", "invert", "path_model", "round_trip"]

_ROOM = 1 << 16  # numbers of draws for each step of inpainting: more than any solver asks for in one step
_KNOWN, _AGAIN = _ROOM - 1, _ROOM - 2  # the last of them: noise of the known part, noise that is added again


@torch.no_grad()
def invert(model: Generative, x: Tensor, cond: Cond) -> Tensor:
    """The state at the noisy end that `model.solve` leads back to x, (B, *S); of a `Mapped` model that of its prior.

    The probability flow upwards on the sampler's grid, a step from s to t being x_t = alpha_t x(x_s) + sigma_t eps(x_s)
    (in the first one, where a network may say nothing, eps is that of alpha_t x at t). Walking back with ddim, eta = 0,
    reproduces x up to an error that is of the order of a step. Guidance and nodes are left out: a guided walk has
    no inverse that is as near (Mokady et al., 2022, "Null-text inversion", arXiv:2211.09794, section 3.2).

    Song, Meng and Ermon, 2020, "Denoising diffusion implicit models", arXiv:2010.02502, section 4.3.
    """
    inner = path_model(model)
    if isinstance(inner.denoiser.target, Boundary):
        raise ValueError(
            "'model' is a consistency model, which jumps to the data and has no probability flow to walk up: invert "
            "with the path model that it was made from"
        )
    if isinstance(model, Mapped):
        x = model.embed(x)
    _require("x", x, inner.shape)
    path, target, network = inner.denoiser.path, inner.denoiser.target, inner.network(cond)

    def predict(x: Tensor, t: float) -> Prediction:
        return recover(path(t), target, x, network(x, t, False))

    with frozen():
        upwards = on(path, list(inner.sampler.fractions))[::-1]
        first = path(upwards[1])
        x = first.alpha * x + first.sigma * predict(first.alpha * x, upwards[1]).eps
        for s, t in pairwise(upwards[1:]):
            p, then = predict(x, s), path(t)
            x = then.alpha * p.x + then.sigma * p.eps
    return x


@torch.no_grad()
def round_trip(model: Generative, x: Tensor, own: Cond, cond: Cond, noise: Noise) -> Tensor:
    """x inverted under the condition `own`, and drawn from that noise under `cond`, (B, *S); x again if both are one.

    Raises: ValueError for a solver that adds noise, which leads elsewhere.
    """
    inner = path_model(model)
    path, sampler = inner.denoiser.path, inner.sampler
    if draws(sampler.solver, path, on(path, list(sampler.fractions))):
        raise ValueError(
            f"'solver' {named(sampler.solver)} adds noise as it goes, and does not lead back from the noise of an "
            f"image: take solver=ddim with eta=0, or heun"
        )
    drawn = inner.solve(invert(model, x, own), cond, noise)
    return model.decode(drawn) if isinstance(model, Mapped) else drawn


@torch.no_grad()
def from_partial(model: Generative, x: Tensor, cond: Cond, noise: Noise, strength: float) -> Tensor:
    """Image to image: noise is added to x up to the fraction `strength` of the span, and the solver starts there.

    x: (B, *S) data. strength: in (0, 1]; little changes near 0, nothing is left of x near 1. The grid is the part of
    the sampler's that lies below, so a small strength takes few steps.

    Meng et al., 2021, "SDEdit: guided image synthesis and editing with stochastic differential equations",
    arXiv:2108.01073, algorithm 1.
    """
    inner = path_model(model)
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"'strength' must lie in (0, 1], got {strength}: 1 starts from noise, as sampling does")
    _plain(cond)
    if isinstance(model, Mapped):
        return model.decode(from_partial(inner, model.embed(x), cond, noise, strength))
    _require("x", x, inner.shape)
    fractions = inner.sampler.fractions
    start = min(strength, fractions[0])
    weaker = inner.reference
    below = (start, *(f for f in fractions if f < start))
    sampler = replace(
        inner.sampler,
        solver=on_part(inner.sampler.solver, (len(below) - 1) / (len(fractions) - 1)),
        fractions=below,
        open_reference=None if weaker is None else lambda: weaker,
    )
    part = Diffusion(inner.denoiser, inner.shape, sampler=sampler)
    return part.solve(_noised(inner, x, start, noise), cond, noise)


@torch.no_grad()
def inpaint(
    model: Generative, known: Tensor, mask: Tensor, cond: Cond, noise: Noise, *, resamplings: int = 1
) -> Tensor:
    """Draw what is not known: known (B, *S), mask (B, *S) bool or what broadcasts to it, true where `known` is to stay.

    After each step of the solver, from t to s, known elements become alpha_s known + sigma_s z, with fresh z; noise
    that a solver adds within a step, as churn does, is added to all elements, so that all are at one level. The others
    were drawn without these: with `resamplings` above 1, noise is added again up to t and the step repeated,
    that often in all, so that both parts come to fit. The solver walks every step by itself (those of several steps
    take their first order); ddim with eta = 1, or ancestral, is what the method was made for.

    In latents, a latent is known if all pixels that it stands for are; known pixels are put back after decoding.

    Lugmayr et al., 2022, "RePaint: inpainting using denoising diffusion probabilistic models", arXiv:2201.09865,
    algorithm 1, with jumps of one step.
    """
    inner = path_model(model)
    if resamplings < 1:
        raise ValueError(f"'resamplings' must be at least 1, got {resamplings}: 1 walks every step once")
    if mask.dtype != torch.bool:
        raise ValueError(f"'mask' must be bool, true where the data are known, got {mask.dtype}: try mask > 0.5")
    _plain(cond)
    mask = mask.expand_as(known)
    if isinstance(model, Mapped):
        z = model.embed(known)
        inside = model.widened(mask) if isinstance(model, Standardised) else _shrunk(mask, z)
        drawn = inpaint(inner, z, inside, cond, noise, resamplings=resamplings)
        return torch.where(mask, known, model.decode(drawn))
    _require("known", known, inner.shape)
    if inner.denoiser.base is not gaussian:
        raise ValueError(
            "'model' has a base of its own, and known elements are put in with Gaussian noise: train it with "
            "base=gaussian"
        )
    if inner.sampler.solver is dopri5:
        raise ValueError(
            "'model' samples with dopri5, which chooses its own steps, and known elements are put in after every step "
            "of the grid: take a solver of fixed steps, such as ddim"
        )
    with frozen():
        return _repaint(inner, known, mask, cond, noise, resamplings)


def _repaint(model: Diffusion, known: Tensor, mask: Tensor, cond: Cond, noise: Noise, resamplings: int) -> Tensor:
    path, predict = model.denoiser.path, model.predict(cond)
    times = on(path, list(model.sampler.fractions))
    solver = on_part(model.sampler.solver, 1 / (len(times) - 1))

    def normal(turn: int, k: int) -> Tensor:
        return noise.at(turn * _ROOM + k).normal(model.shape, Stream.SOLVER).to(known.dtype)

    def fitted(x: Tensor, t: float, turn: int) -> Tensor:
        c = path(t)
        return torch.where(mask, c.alpha * known + c.sigma * normal(turn, _KNOWN), x)

    x, turn = fitted(model.initial(noise).to(known.dtype), times[0], 0), 0
    for t, s in pairwise(times):
        now, then = path(t), path(s)
        for again in range(resamplings):
            turn += 1
            if again:  # x_t ~ q(x_t | x_s)
                ratio = now.alpha / then.alpha
                x = ratio * x + math.sqrt(now.sigma**2 - (ratio * then.sigma) ** 2) * normal(turn, _AGAIN)
            x = fitted(solver(predict, path, x, [t, s], lambda k, turn=turn: normal(turn, k)), s, turn)
    return x


def data_shape(model: Generative) -> tuple[int, ...]:
    """The shape of what a path model draws, or its codec decodes; without an image of it. Raises: ValueError."""
    shape = path_model(model).shape
    if not isinstance(model, Mapped):
        return shape
    with torch.no_grad():
        return tuple(model.decode(torch.zeros(1, *shape)).shape[1:])


def path_model(model: Generative) -> Diffusion:
    """The path model itself. Raises: ValueError if there is none."""
    inner = prior_of(model)
    if not isinstance(inner, Diffusion):
        raise ValueError(f"'model' must be a Diffusion, or one behind a codec, got {type(inner).__name__}")
    return inner


def _noised(model: Diffusion, x: Tensor, fraction: float, noise: Noise) -> Tensor:
    """alpha x + sigma eps at a fraction of the span, (B, *S)."""
    c = model.denoiser.path(on(model.denoiser.path, [fraction])[0])
    return c.alpha * x + c.sigma * model.denoiser.base(noise, model.shape, Stream.INITIAL).to(x.dtype)


def _plain(cond: Cond) -> None:
    if names := sorted(BY_ROW & cond.keys()):
        raise ValueError(f"'cond' holds {', '.join(names)} row by row, which editing does not know: give the sampler's")


def _require(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[1:]) != shape:
        raise ValueError(f"{name!r} must be (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def _shrunk(mask: Tensor, z: Tensor) -> Tensor:
    """The mask of images (B, C, H, W) for their latents z: known where the whole square of pixels is known."""
    if z.ndim != 4:
        raise ValueError(
            f"'model' has latents of shape {tuple(z.shape[1:])}, each of which stands for all of a datum, so that a "
            "mask says nothing of them: inpaint with a model of the data, or of latents that lie in a grid"
        )
    unknown = torch.nn.functional.adaptive_max_pool2d((~mask).any(1, keepdim=True).float(), z.shape[2:])
    return (unknown == 0).expand_as(z)
