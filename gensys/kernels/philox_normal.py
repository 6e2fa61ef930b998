"""philox_normal: standard normals, counter by counter, into a tensor that is there already.

`gensys.noise.philox_normal` is the definition and `Noise.normal` the everyday call; this one saves the allocation,
which costs several times the arithmetic when the result is large (a fresh page is a page fault).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gensys import native
from gensys.kernels.dispatch import choose
from gensys.kernels.out import written
from gensys.noise import Noise, Stream
from gensys.noise import philox_normal as definition

__all__ = ["examples", "philox_normal", "reference"]


def philox_normal(out: Tensor, noise: Noise, stream: Stream) -> Tensor:
    """Write noise.normal(S, stream) into `out`, (B, *S) float32, contiguous, on the device of the ids; return `out`."""
    if out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"'out' must be contiguous float32, got {out.dtype} with strides {out.stride()}")
    if out.ndim == 0 or out.shape[:1] != noise.ids.shape or out.device != noise.ids.device:
        raise ValueError(
            f"'out' must have a row for each of the {tuple(noise.ids.shape)} ids on {noise.ids.device}, "
            f"got {tuple(out.shape)} on {out.device}"
        )
    implementation = choose("philox_normal", out.device, out.dtype).implementation
    if implementation == "native":
        torch.ops.gensys.philox_normal(out, *noise.arguments(stream))
        written(out)
        return out
    if implementation == "reference":
        return reference(out, noise, stream)
    if implementation == "cuda":
        from gensys.kernels.cuda.philox_normal import philox_normal as run
    else:
        from gensys.kernels.triton.philox_normal import philox_normal as run
    run(out, noise, stream)
    written(out)
    return out


def reference(out: Tensor, noise: Noise, stream: Stream) -> Tensor:
    """The same in plain torch."""
    normals = definition(noise.seed, noise.ids, noise.step, int(stream), out[:1].numel())
    return out.copy_(normals.view(out.shape))


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments for `philox_normal`: whole and ragged rows, one element, none, ids beyond 32 bits."""
    for i, shape in enumerate([(3, 4, 8, 8), (5, 7), (1, 1), (2, 3), (0, 4), (3, 0), (1, 4099), (2, 1023), (300, 1)]):
        ids = torch.arange(shape[0]) * (2**33 + 1)
        yield {"out": torch.empty(shape), "noise": Noise(i - 1, ids, step=i), "stream": Stream.INITIAL}


if native.extension is not None:

    @torch.library.register_fake("gensys::philox_normal")
    def _fake_normal(*_: object) -> None:
        """What tracing sees: nothing is returned, `out` is written."""

    @torch.library.register_fake("gensys::philox_uniform")
    def _fake_uniform(*_: object) -> None:
        """What tracing sees: nothing is returned, `out` is written."""
