"""The animation of sampling: what the model believes the data to be, at every step from noise to the sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gensys.report.cached import TRAJECTORY, keep, kept
from gensys.report.figures import spread

if TYPE_CHECKING:
    from PIL import Image, ImageDraw
    from torch import Tensor

    from gensys.core import Cond, Generative
    from gensys.noise import Noise

__all__ = ["add_trajectory", "columns_for", "draw_trajectory"]

_FRAMES = 20
_SIDE, _GAP, _MARGIN = 96, 4, 22  # pixels: of a picture, between two, and for a line of text
_GREY = (118, 118, 118, 255)  # readable on white and on black: the ground is transparent
_FAINT = (118, 118, 118, 80)


@runtime_checkable
class _HasTrajectory(Protocol):
    """A model that tells of every network call (t, x_t, (the prediction of x, ...)), as `Diffusion` does."""

    def trajectory(self, cond: Cond, noise: Noise) -> Iterable[tuple[Any, Tensor, Sequence[Tensor]]]: ...


@runtime_checkable
class _Mapped(Protocol):
    """A model in other coordinates than the data's, as of latents: x = decode(what the prior draws)."""

    prior: Generative

    def decode(self, z: Tensor) -> Tensor: ...


def columns_for(classes: int) -> int:
    """How many pictures make a row: every class as often as fits into about ten, and ten where that says nothing."""
    return classes * max(1, 10 // classes) if 0 < classes <= 12 else 10


def draw_trajectory(model: Generative, classes: Sequence[str], seed: int, path: Path) -> None:
    """Write an animated PNG: a sample of each class, as the prediction of x at about 20 steps and then the sample.

    model: a `Diffusion`, or a `Latent` over one: whose prior has `trajectory`, and whose predictions are decoded.
    classes: their names, () for an unlabelled model. seed: with that of a sample store, its first rows are drawn.

    Raises: TypeError for a model without a trajectory, ValueError for data that are no pictures.
    """
    import torch

    from gensys.noise import Noise
    from gensys.pictures import save_animation, to_uint8
    from gensys.preview import labels_for

    prior = _prior(model)
    if not isinstance(prior, _HasTrajectory):
        raise TypeError(
            f"'model' must have a trajectory (a Diffusion, or a Latent over one), got {type(prior).__name__}"
        )
    first = next(iter(model.parameters()), None)
    ids = torch.arange(columns_for(len(classes)), device=None if first is None else first.device)
    cond, noise = labels_for(ids, len(classes)), Noise(seed, ids)
    with torch.no_grad():
        # A solver may look at one time twice (Heun's corrector): the later look, which starts the next step, stands.
        seen = {t: prediction[0] for t, _, prediction in prior.trajectory(cond, noise)}
        steps = [(k, t, _decoded(model, x)) for k, (t, x) in spread(list(enumerate(seen.items())), _FRAMES)]
        images = model.sample(cond, noise)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"only pictures (1 or 3, height, width) can be animated, got rows {tuple(images.shape[1:])}")
    names = [classes[k % len(classes)] if classes else "" for k in range(len(ids))]
    count = len(seen)
    frames = [
        _frame(to_uint8(x).cpu(), names, k / count, f"step {k + 1} of {count} · t = {t:.2f}") for k, t, x in steps
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_animation([*frames, _frame(to_uint8(images).cpu(), names, 1.0, "the samples")], part)
    part.replace(path)


def add_trajectory(folder: Path) -> None:
    """Write a run's trajectory.png if it has none of these weights and knobs, a checkpoint, and a model that can be
    animated.

    With the weights, the knobs and the seed of samples.zarr, if that is there. Raises: RunError if the run no longer
    holds these weights.
    """
    from gensys.report.reading import training

    path, found = folder / "trajectory.png", training(folder)
    if found.is_codec or not found.state:
        return
    import torch

    from gensys.data.store import Store
    from gensys.noise import Noise
    from gensys.preview import labels_for
    from gensys.run_folder import RunFolder

    run = RunFolder(folder)
    spec, seed, digest = run.spec(), 0, None
    if (folder / "samples.zarr").exists():
        about = Store.open(folder / "samples.zarr").attributes
        spec, seed, digest = spec.with_knobs(about["knobs"]), about["seed"], about.get("weights")

    def made_from() -> dict[str, str]:
        return {"weights": digest or run.weights_digest(), "knobs": json.dumps(dict(spec.knobs)), "seed": str(seed)}

    if path.exists() and kept(folder / TRAJECTORY, made_from()) is not None:
        return
    path.unlink(missing_ok=True)  # of other weights or knobs: no animation rather than a wrong one
    model, classes = run.model(spec, digest), spec.load().source.classes
    if not isinstance(_prior(model), _HasTrajectory):
        return
    one = torch.zeros(1, dtype=torch.int64)
    shape = model.sample(labels_for(one, len(classes)), Noise(seed, one)).shape
    if len(shape) == 4 and shape[1] in (1, 3):
        draw_trajectory(model, classes, seed, path)
        keep(folder / TRAJECTORY, made_from(), {})


def _prior(model: Generative) -> Generative:
    return model.prior if isinstance(model, _Mapped) else model


def _decoded(model: Generative, x: Tensor) -> Tensor:
    return model.decode(x) if isinstance(model, _Mapped) else x


def _frame(images: Tensor, names: Sequence[str], done: float, text: str) -> Image.Image:
    """A row of pictures under their names, above a line that says how far sampling is."""
    from PIL import Image, ImageDraw

    side = max(1, round(_SIDE / images.shape[-1])) * images.shape[-1]  # whole pixels: enlarged, not resampled
    high = side * images.shape[-2] // images.shape[-1]
    top = _MARGIN if any(names) else 0
    width = len(images) * (side + _GAP) - _GAP
    sheet = Image.new("RGBA", (width, top + high + 8 + _MARGIN), (255, 255, 255, 0))
    draw = ImageDraw.Draw(sheet)
    for k, (image, name) in enumerate(zip(images, names, strict=True)):
        array = image[0].numpy() if image.shape[0] == 1 else image.permute(1, 2, 0).contiguous().numpy()
        left = k * (side + _GAP)
        sheet.paste(Image.fromarray(array).resize((side, high), Image.Resampling.NEAREST), (left, top))
        if name:
            _centred(draw, name, left + side / 2, 2, side)
    bottom = top + high + 8
    draw.rectangle((0, bottom, width - 1, bottom + 1), fill=_FAINT)
    draw.rectangle((0, bottom, max(1, round(done * (width - 1))), bottom + 1), fill=_GREY)
    _centred(draw, text, width / 2, bottom + 5, width)
    return sheet


def _centred(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, room: float) -> None:
    """Text that ends in an ellipsis where it does not fit."""
    from PIL import ImageFont

    font = ImageFont.load_default(14)
    shown = " ".join(text.split())
    while len(shown) > 1 and draw.textlength(shown, font=font) > room:
        shown = shown.rstrip("…")[:-1] + "…"
    draw.text((x, y), shown, fill=_GREY, font=font, anchor="ma")
