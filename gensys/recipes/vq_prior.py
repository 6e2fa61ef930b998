"""An autoregressive transformer on the codes of a vector-quantised autoencoder."""

from __future__ import annotations

from gensys.domain import open_codes
from gensys.families.tokens import Choice
from gensys.knobs import Training
from gensys.run import Run
from gensys.systems.vq_prior import vq_prior as system


def vq_prior(
    data: str,  # a store of codes, as `gensys encode` makes it of a run of vq_vae or vq_vae_2
    width: int = 128,  # features of a code in the transformer
    depth: int = 4,  # blocks of the transformer of each grid of codes
    heads: int = 4,  # heads of the attention
    dropout: float = 0.1,  # of activations, in training
    unconditional: float = 0.1,  # probability that a row is trained without its label
    temperature: float = 1.0,  # what logits are divided by in sampling; below 1: likelier, less diverse; 0 = likeliest
    top_k: int = 0,  # codes are drawn from the k likeliest; 0 = from all
    top_p: float = 1.0,  # codes are drawn from the likeliest that have this probability together
    guidance: float = 2.0,  # 1 = the conditional model; more follows the label more closely
    training: Training = Training(batch=32, budget="40k", lr=1.5e-3),  # noqa: B008 - a frozen value
) -> Run:
    """A transformer draws the codes of a VQ-VAE or VQ-VAE-2 one after another, and its decoder makes them data.

    Razavi, van den Oord and Vinyals, 2019, "Generating diverse high-fidelity images with VQ-VAE-2", arXiv:1906.00446,
    section 3.2.
    """
    domain, codes = open_codes(data)
    choice = Choice(temperature, top_k, top_p, guidance if domain.conditional else 1.0)
    return domain.run(
        lambda: system(
            codes.grids,
            codes.codebook,
            domain.shape,
            classes=domain.classes,
            vector=domain.vector,
            width=width,
            depth=depth,
            heads=heads,
            dropout=dropout,
            unconditional=unconditional,
            choice=choice,
        ),
        training.settings(),
        frozenset({"temperature", "top_k", "top_p", "guidance"}),
    )
