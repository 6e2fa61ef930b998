"""A trained run that another model learns from (a teacher), or is guided away from. A recipe names it by its folder."""

from __future__ import annotations

from pathlib import Path

from gensys.data.joined_latents import latents_in
from gensys.data.latents import LatentSource
from gensys.denoiser import Denoiser
from gensys.domain import Domain
from gensys.errors import ConfigError
from gensys.families.diffusion import Diffusion
from gensys.families.latent import Latent
from gensys.run_folder import RunFolder
from gensys.targets import Boundary

__all__ = ["open_denoiser"]


def open_denoiser(knob: str, folder: str, domain: Domain) -> Denoiser:
    """The denoiser of a run, its averaged weights, not to be trained; it must know the data of `domain`.

    knob: what the recipe calls it, for messages.

    Raises: ConfigError for a run that is no path model, or was trained on data of another shape, of other classes or on
    other latents; RunError if there is no run, or if it has no checkpoint.
    """
    if not folder:
        raise ConfigError(f"{knob!r} is empty: give the folder of a trained path model, {knob}=runs/latent_dit")
    run = RunFolder(Path(folder).expanduser())
    spec = run.spec()
    source = spec.load().source
    model = run.model(spec)
    model = model.prior if isinstance(model, Latent) else model
    if not isinstance(model, Diffusion):
        raise ConfigError(
            f"the {knob} {folder!r} is a run of {spec.recipe!r}, and a path model is wanted, as latent_dit"
        )
    if isinstance(model.denoiser.target, Boundary):
        raise ConfigError(
            f"the {knob} {folder!r} is a consistency model itself, which predicts ends of trajectories and no mean of "
            f"the data: give the path model that it was made from, or one like it"
        )
    theirs, ours = _origin(latents_in(source)), _origin(domain.latents)
    if theirs != ours:
        raise ConfigError(
            f"the {knob} {folder!r} was trained on {theirs}, and the data are {ours}: give data={source.name}, or a "
            f"{knob} that was trained on these data"
        )
    if model.shape != domain.shape:
        raise ConfigError(
            f"the {knob} {folder!r} draws data of shape {model.shape}, and {domain.source.name!r} holds "
            f"{domain.shape}: give the {knob}'s data and size"
        )
    if list(source.classes) != list(domain.source.classes):
        raise ConfigError(
            f"the {knob} {folder!r} knows the classes {list(source.classes)}, and {domain.source.name!r} has "
            f"{list(domain.source.classes)}: give the {knob}'s data"
        )
    return model.denoiser


def _origin(latents: LatentSource | None) -> str:
    """What latents are, as far as a teacher must have learned the same ones: the codec's weights and the scale."""
    if latents is None:
        return "no latents"
    scale = "none" if latents.normalisation is None else latents.normalisation.digest
    return f"latents of the codec {latents.store.attributes['codec']['weights'][:12]} (normalisation {scale[:12]})"
