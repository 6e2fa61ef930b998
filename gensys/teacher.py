"""A trained run that another model learns from (a teacher), or is guided away from. A recipe names it by its folder."""

from __future__ import annotations

from gensys.data.joined_latents import latents_in
from gensys.data.latents import LatentSource
from gensys.denoiser import Denoiser
from gensys.domain import Domain, domain_of
from gensys.errors import ConfigError, RunError
from gensys.families.diffusion import Diffusion
from gensys.families.mapped import prior_of
from gensys.families.standardised import Standardised
from gensys.run_folder import RunFolder, unpinned
from gensys.targets import Boundary

__all__ = ["open_denoiser"]


def open_denoiser(knob: str, folder: str, domain: Domain) -> Denoiser:
    """The denoiser of a run, its averaged weights, not to be trained; it must know the data of `domain`.

    knob: what the recipe calls it, for messages. folder: with the digest of its weights, as `run.Trained` has it.

    Raises: ConfigError for a run that is no path model, or was trained on data of another shape, of other classes, with
    vectors of another length or on other latents; RunError if there is no run, or if it holds other weights by now.
    """
    if not folder:
        raise ConfigError(f"{knob!r} is empty: give the folder of a trained path model, {knob}=runs/latent_dit")
    place, digest = unpinned(folder)
    run = RunFolder(place)
    spec = run.spec()
    source = spec.load().source
    try:
        model = run.model(spec, digest)
    except RunError as error:
        raise RunError(f"the {knob} cannot be used: {error}") from error
    whole, model = model, prior_of(model)
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
    theirs, ours = domain_of(source).vector, domain.vector
    if theirs != ours:
        raise ConfigError(
            f"the {knob} {folder!r} goes by {_vectors(theirs)}, and the rows of {domain.source.name!r} have "
            f"{_vectors(ours)}: give data={source.name}, or a {knob} that was trained on these data"
        )
    scaled = isinstance(whole, Standardised)
    if scaled != domain.standardised:
        raise ConfigError(
            f"the {knob} {folder!r} was trained on vectors {_scale(scaled)}, and {domain.source.name!r} is taken "
            f"{_scale(domain.standardised)}: open the data of both recipes with the same 'standardise'"
        )
    if scaled and not whole.same(*domain.moments()):
        raise ConfigError(
            f"the {knob} {folder!r} was trained on vectors of other means and deviations than {domain.source.name!r} "
            f"has: give the {knob}'s data, as they were"
        )
    return model.denoiser


def _vectors(length: int) -> str:
    return f"vectors of {length} numbers" if length else "no vectors"


def _scale(scaled: bool) -> str:
    return "brought to mean 0 and variance 1" if scaled else "as they are"


def _origin(latents: LatentSource | None) -> str:
    """What latents are, as far as a teacher must have learned the same ones: the codec's weights and the scale."""
    if latents is None:
        return "no latents"
    scale = "none" if latents.normalisation is None else latents.normalisation.digest
    return f"latents of the codec {latents.store.attributes['codec']['weights'][:12]} (normalisation {scale[:12]})"
