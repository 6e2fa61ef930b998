"""combine: a weighted sum of tensors plus counter-based noise in one pass, the arithmetic of a solver's step.

    out = coefs[0] tensors[0] + coefs[1] tensors[1] + ... + noise_coef z,        z = noise.normal(...), never stored

The sum goes from left to right, every product and every sum is rounded, and the coefficients are rounded first, to
float32 (float64 for float64 tensors). That fixes every bit, so the implementations agree exactly, and a sample does
not depend on the machine that drew it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gensys import native
from gensys.kernels.dispatch import OPS, choose
from gensys.kernels.out import written
from gensys.noise import Noise, Stream, philox_normal

__all__ = ["MAX_TERMS", "combine", "examples", "reference"]

MAX_TERMS = 8
"""How many tensors one pass takes: twice what any solver of gensys asks for."""


def combine(
    out: Tensor,
    tensors: Sequence[Tensor],
    coefs: Sequence[float],
    noise_coef: float = 0.0,
    noise: Noise | None = None,
    stream: Stream = Stream.SOLVER,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """Write the sum over j of coefs[j] tensors[j] + noise_coef z, clipped if asked, into `out`, and return `out`.

    out: (B, *S), contiguous, floating point. It may be one of the tensors, exactly; it must not overlap them partly.
    tensors: 0 to 8 tensors like `out`: same shape, dtype and device, contiguous. coefs: as many numbers.
    noise: needed if noise_coef is not 0. Row b of z belongs to noise.ids[b], its elements in row-major order.
    clip: (low, high), the interval that the sum is clipped to (NaN stays NaN); None = all numbers.

    16-bit tensors are summed in float32 and rounded once. There is no derivative (like torch's own out= functions).
    """
    _check(out, tensors, coefs, noise_coef, noise, clip)
    implementation = choose("combine", out.device, out.dtype).implementation
    if implementation == "native":
        counters = (None, 0, 0, 0) if noise is None or noise_coef == 0 else noise.arguments(stream)
        torch.ops.gensys.combine(out, tensors, coefs, noise_coef, *counters, clip or ())
        written(out)
        return out
    if implementation == "reference":
        return reference(out, tensors, coefs, noise_coef, noise, stream, clip)
    if implementation == "cuda":
        from gensys.kernels.cuda.combine import combine as run
    else:
        from gensys.kernels.triton.combine import combine as run
    run(out, tensors, coefs, noise_coef, noise, stream, clip)
    written(out)
    return out


def reference(
    out: Tensor,
    tensors: Sequence[Tensor],
    coefs: Sequence[float],
    noise_coef: float = 0.0,
    noise: Noise | None = None,
    stream: Stream = Stream.SOLVER,
    clip: tuple[float, float] | None = None,
) -> Tensor:
    """The definition of `combine`, in plain torch."""
    dtype = torch.float64 if out.dtype == torch.float64 else torch.float32
    terms = [x.to(dtype) * c for x, c in zip(tensors, coefs, strict=True)]
    if noise is not None and noise_coef != 0:
        z = philox_normal(noise.seed, noise.ids, noise.step, int(stream), out[:1].numel())
        terms.append(z.to(dtype).view(out.shape) * noise_coef)
    total = terms[0] if terms else torch.zeros_like(out, dtype=dtype)
    for term in terms[1:]:
        total = total + term
    return out.copy_(total if clip is None else total.clamp(*clip))


def _check(
    out: Tensor,
    tensors: Sequence[Tensor],
    coefs: Sequence[float],
    noise_coef: float,
    noise: Noise | None,
    clip: tuple[float, float] | None,
) -> None:
    """Raise ValueError, naming the argument, unless `combine` can take these. Fast when nothing is wrong."""
    if len(tensors) != len(coefs):
        raise ValueError(f"'coefs' must be as many as 'tensors', {len(tensors)}, got {len(coefs)}")
    if len(tensors) > MAX_TERMS:
        raise ValueError(f"'tensors' must be at most {MAX_TERMS}, got {len(tensors)}: combine them in two calls")
    if out.dtype not in OPS["combine"] or not out.is_contiguous():
        raise ValueError(f"'out' must be a contiguous floating point tensor, got {_describe(out)}")
    begin, size = out.data_ptr(), out.nbytes
    for j, x in enumerate(tensors):
        if x.shape != out.shape or x.dtype != out.dtype or x.device != out.device or not x.is_contiguous():
            raise ValueError(f"'tensors[{j}]' must be like 'out', {_describe(out)}, got {_describe(x)}")
        if 0 < abs(x.data_ptr() - begin) < size:
            raise ValueError(f"'tensors[{j}]' overlaps 'out' in part: give the same tensor, or one apart from it")
    if torch.is_grad_enabled() and (out.requires_grad or any(x.requires_grad for x in tensors)):
        raise ValueError(
            "'out' and 'tensors' must not require a gradient: combine has none, call it in torch.no_grad()"
        )
    if clip is not None and not clip[0] <= clip[1]:
        raise ValueError(f"'clip' must be (low, high) with low <= high, got {clip}")
    if noise_coef != 0:
        if noise is None:
            raise ValueError(f"'noise' must be given when 'noise_coef' is not 0, got None with {noise_coef}")
        if out.ndim == 0 or noise.ids.shape != out.shape[:1] or noise.ids.device != out.device:
            raise ValueError(
                f"'noise.ids' must be one id for each row of 'out', {_describe(out)}, got {_describe(noise.ids)}"
            )


def _describe(x: Tensor) -> str:
    strides = "contiguous" if x.is_contiguous() else f"strides {x.stride()}"
    return f"{tuple(x.shape)} {x.dtype} on {x.device}, {strides}"


def examples() -> Iterator[dict[str, Any]]:
    """Keyword arguments for `combine` that reach every branch of every kernel, for tests and benchmarks."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 8, 8), (5, 7), (1, 1), (2, 3), (0, 4), (3, 0), (1, 4099), (2, 3, 1023), (300, 1)]
    for i, shape in enumerate(shapes):
        noise = Noise(seed=i - 1, ids=torch.arange(shape[0]) * (2**33 + 1), step=i)
        for count in range(MAX_TERMS + 1) if shape == (5, 7) else (2, 4):
            tensors = [torch.randn(shape, generator=generator) for _ in range(count)]
            coefs = torch.randn(count, generator=generator, dtype=torch.float64).tolist()
            yield {"out": torch.empty(shape), "tensors": tensors, "coefs": coefs}
            yield {"out": torch.empty(shape), "tensors": tensors, "coefs": coefs, "clip": (-0.5, 1.0)}
            yield {"out": torch.empty(shape), "tensors": tensors, "coefs": coefs, "noise_coef": 0.3, "noise": noise}
            if count:  # in place, and the same tensor twice
                aliased = [*tensors[:-1], tensors[0]]
                yield {"out": tensors[0], "tensors": aliased, "coefs": coefs, "noise_coef": -1.1, "noise": noise}


if native.extension is not None:

    @torch.library.register_fake("gensys::combine")
    def _(*_: object) -> None:
        """What tracing sees: nothing is returned, `out` is written."""
