"""The loss of a vector-quantised autoencoder.

    L = reconstruction + |sg(z) - e|^2 + beta |z - sg(e)|^2            sg: stop gradient; means over elements

van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation learning", arXiv:1711.00937, equation 3.
"""

from __future__ import annotations

from torch import Tensor

from gensys.bottlenecks.vq import Quantised, perplexity
from gensys.core import Loss

__all__ = ["vq"]


def vq(reconstruction: Tensor, quantised: Quantised, size: int, beta: float) -> Loss:
    """reconstruction: (B, *S), the terms of -log p(x | z) up to a constant. size: of the codebook.

    The log has the perplexity of the codes of these rows: how many codes would be as varied, if used equally often.
    """
    error = reconstruction.mean()
    total = error + quantised.loss(beta)
    return Loss(
        total,
        {
            "loss": total.detach(),
            "reconstruction": error.detach(),
            "commitment": quantised.commitment.detach(),
            "perplexity": perplexity(quantised.codes, size),
        },
    )
