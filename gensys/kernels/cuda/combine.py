"""combine in CUDA: a weighted sum of up to eight tensors, fresh noise and a clip, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gensys.kernels.cuda.device import address, kernels, stream_of
from gensys.noise import Noise

__all__ = ["combine"]


def combine(
    out: Tensor,
    tensors: Sequence[Tensor],
    coefs: Sequence[float],
    noise_coef: float,
    noise: Noise | None,
    stream: int,
    clip: tuple[float, float] | None,
) -> None:
    """out = the sum over j of coefs[j] tensors[j] + noise_coef z, clipped: float32, the bits of the definition."""
    ids, seed, step, number = (None, 0, 0, 0) if noise is None or noise_coef == 0 else noise.arguments(stream)
    rows = 1 if ids is None else len(ids)
    n = out.numel() // max(rows, 1)
    terms = [address(x) for x in tensors]
    with stream_of(out) as cuda_stream:
        kernels().combine(
            address(out), terms, coefs, noise_coef, address(ids), rows, n, seed, step, number, clip, cuda_stream
        )
