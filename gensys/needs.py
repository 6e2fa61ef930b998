"""What knobs need to have an effect, for their types: a knob that was given in vain is refused (`run.Needs`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from gensys.data.joined import Joined
from gensys.data.sources import Source
from gensys.domain import domain_of
from gensys.run import Needs

__all__ = [
    "ANCESTRAL",
    "AVERAGED",
    "CONDITION",
    "CRITIC",
    "DDIM",
    "DIT",
    "FOLLOWS",
    "GUIDED",
    "NETWORK",
    "PERCEPTUAL",
    "PIXELS",
    "R1",
    "RESIDUAL",
    "ROUNDED",
    "STUDENT",
    "UNET",
    "UNTAUGHT",
    "VECTORS",
    "WEAKER",
    "WIDTH",
    "Aspect",
    "Dropout",
]


def _follows(knobs: Mapping[str, Any], source: Source) -> bool:
    """Whether there is anything that guidance could follow, or lead away from."""
    return domain_of(source).conditional or bool(knobs["weaker"])


def _built(knobs: Mapping[str, Any], source: Source) -> bool:
    """Whether the network is one for images, and not that of a teacher, or an MLP."""
    return not knobs.get("teacher") and len(domain_of(source).shape) == 3


ANCESTRAL = Needs("solver=ancestral", lambda knobs, _: knobs["solver"] == "ancestral")
STUDENT = Needs("a teacher", lambda knobs, _: bool(knobs["teacher"]))
UNTAUGHT = Needs("teacher= to be empty, as with one it is the student's", lambda knobs, _: not knobs["teacher"])
CONDITION = Needs("data with labels or vectors", lambda _, source: domain_of(source).conditional)
FOLLOWS = Needs(
    "data with labels or vectors, or 'weaker'", lambda k, source: k["guidance"] == 1.0 or _follows(k, source)
)
GUIDED = Needs(
    "guidance other than 1, and what to follow", lambda k, source: k["guidance"] != 1.0 and _follows(k, source)
)
WEAKER = Needs("guidance other than 1", lambda knobs, _: knobs["guidance"] != 1.0)
NETWORK = Needs("a network of its own for images or latents", _built)
WIDTH = Needs("teacher= to be empty, as a student has its network", lambda knobs, _: not knobs.get("teacher"))
DIT = Needs("net=dit, for images or latents", lambda k, source: k["net"] == "dit" and _built(k, source))
UNET = Needs("net=unet, for images or latents", lambda k, source: k["net"] == "unet" and _built(k, source))
PIXELS = Needs("images, whose bounds are known", lambda k, source: not k["clip"] or bool(domain_of(source).bounds))
DDIM = Needs("solver=ddim", lambda knobs, _: knobs["solver"] == "ddim")
VECTORS = Needs("quantiser=ema, gradient or residual", lambda knobs, _: knobs["quantiser"] != "fsq")
AVERAGED = Needs("quantiser=ema or residual", lambda knobs, _: knobs["quantiser"] in ("ema", "residual"))
RESIDUAL = Needs("quantiser=residual", lambda knobs, _: knobs["quantiser"] == "residual")
ROUNDED = Needs("quantiser=fsq", lambda knobs, _: knobs["quantiser"] == "fsq")
CRITIC = Needs("adversarial above 0", lambda knobs, _: knobs["adversarial"] != 0.0)
PERCEPTUAL = Needs("perceptual above 0", lambda knobs, _: knobs["perceptual"] != 0.0)
R1 = Needs("r1 above 0", lambda knobs, _: knobs["r1"] != 0.0)

Dropout = Annotated[float, CONDITION]
"""The probability that a row is trained without its label."""
Aspect = Annotated[float, Needs("latents of several shapes", lambda _, source: isinstance(source, Joined))]
"""Width over height of samples."""
