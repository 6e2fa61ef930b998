"""Counter-based normals and uniforms in CUDA: the arithmetic of csrc/philox.h, a counter per thread."""

from __future__ import annotations

from torch import Tensor

from gensys.kernels.cuda.device import address, kernels, stream_of
from gensys.noise import Noise

__all__ = ["philox_normal", "philox_uniform"]


def philox_normal(out: Tensor, noise: Noise, stream: int) -> None:
    """out = noise.normal(S, stream): (B, *S) float32, the bits of the definition."""
    _draw(out, noise, stream, True)


def philox_uniform(out: Tensor, noise: Noise, stream: int) -> None:
    """out = noise.uniform(S, stream): (B, *S) float32, the bits of the definition."""
    _draw(out, noise, stream, False)


def _draw(out: Tensor, noise: Noise, stream: int, normal: bool) -> None:
    ids, seed, step, number = noise.arguments(stream)
    n = out.numel() // max(len(ids), 1)
    with stream_of(out) as cuda_stream:
        kernels().draw(address(out), address(ids), len(ids), n, seed, step, number, normal, cuda_stream)
