"""Cycle consistency of a translator between two domains, and what it does to images of the domain that it leads to.

    cycle      weight E |G_a(G_b(a)) - a| + the same from b            there and back again
    identity   weight identity E |G_a(a) - a| + the same for b         nothing is to be done to an image of the domain

|.| the mean absolute difference of pixels, G_a the generator into domain a. Adversarial losses alone are met by any map
whose outputs have the right law; the first term wants one that forgets nothing, the second one that keeps what need not
change, such as colours.

Zhu, Park, Isola and Efros, 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks",
arXiv:1703.10593, equations 2 and 3, and section 5.2 for the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import l1_loss

from gensys.core import Cond
from gensys.noise import Noise

__all__ = ["CycleConsistency"]


@dataclass(frozen=True)
class CycleConsistency:
    """What is added to the loss of a generator of two domains, labels 0 and 1: {"cycle": (), "identity": ()}.

    weight: of the cycle. identity: of the identity, in multiples of it; 0 = none.
    """

    weight: float = 10.0
    identity: float = 0.5

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.identity < 0:
            raise ValueError(
                f"'weight' must be positive and 'identity' not negative, got {self.weight} and {self.identity}"
            )

    def __call__(
        self, generator: Callable[[Tensor, Cond, Noise], Tensor], z: Tensor, x: Tensor, cond: Cond, noise: Noise
    ) -> Mapping[str, Tensor]:
        """x: cond["image"], of the other domains, in the domains cond["label"]."""
        image, own = cond["image"], 1 - cond["label"]
        back = generator(z, {"image": x, "label": own}, noise)
        found = {"cycle": self.weight * l1_loss(back, image)}
        if self.identity:
            same = generator(z, {"image": image, "label": own}, noise)
            found["identity"] = self.weight * self.identity * l1_loss(same, image)
        return found
