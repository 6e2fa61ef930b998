"""Rows of the normalisations of a diffusion transformer: modulated, and with the gated residual before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gensys.bench.limits import copying
from gensys.bench.row import Candidates, Row, Scope, deviation, differentiated
from gensys.bench.timing import Call

__all__ = ["rows"]

_SHAPES = ((32, 256, 384), (8, 1024, 1152))  # B, T, D: of DiT-S/2 and of DiT-XL/2 at 512 x 512 pixels
_DTYPES = ((torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16))


@dataclass(frozen=True)
class _Job:
    """gated: with the gated residual before it; modulated: not that alone. backward: with the gradients of all inputs.
    residual, compute: the dtypes of the residual stream and of what the network computes in."""

    shape: tuple[int, int, int]
    residual: torch.dtype
    compute: torch.dtype
    gated: bool
    backward: bool
    modulated: bool = True


def rows(scope: Scope) -> Iterator[Row]:
    """In three pairs of number formats: the residual stream may be wider than the network."""
    for shape in ((2, 5, 32),) if scope.quick else _SHAPES:
        text = "x".join(map(str, shape))
        for residual, compute in _DTYPES:
            wide, narrow = (str(dtype).removeprefix("torch.") for dtype in (residual, compute))
            for gated, backward in ((False, False), (False, True), (True, False), (True, True)):
                job = _Job(shape, residual, compute, gated, backward)
                name = f"adaln{'_gate' * gated}_modulate{' backward' * backward}"
                dtype = wide if residual == compute else f"{wide} to {narrow}"
                yield Row(name, text, dtype, lambda scope, job=job: _contest(scope, job))
        for kind in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                job = _Job(shape, kind, kind, True, backward, modulated=False)
                name, dtype = f"adaln_gate{' backward' * backward}", str(kind).removeprefix("torch.")
                yield Row(name, text, dtype, lambda scope, job=job: _contest(scope, job))


def _inputs(job: _Job) -> list[Tensor]:
    """x, then y and the gate where there is one, then shift and scale."""
    b, _, d = job.shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(job.shape, generator=generator).to(job.residual)
    y = torch.randn(job.shape, generator=generator).to(job.compute)
    # as a network has them: slices of one matrix
    shift, scale, gate = torch.randn(b, 3 * d, generator=generator).to(job.compute).chunk(3, dim=1)
    return [x, *([y, gate] if job.gated else []), *([shift, scale] if job.modulated else [])]


def _contest(scope: Scope, job: _Job) -> Candidates:
    from gensys.kernels import adaln

    functions: dict[tuple[bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {
        (False, True): (adaln.adaln_modulate, adaln.reference_modulate),
        (True, True): (adaln.adaln_gate_modulate, adaln.reference_gate_modulate),
        (True, False): (adaln.adaln_gate, adaln.reference_gate),
    }
    function, reference = functions[job.gated, job.modulated]
    both = job.gated and job.modulated
    inputs = _inputs(job)
    x, out = inputs[0], torch.empty(job.shape, dtype=job.compute)
    into = (torch.empty_like(x), out) if both else out
    upstream = [torch.randn(job.shape, generator=torch.Generator().manual_seed(1)).to(job.compute)]
    upstream = [x.flip(0), *upstream] if both else upstream

    def call(function: Callable[..., Any], inputs: list[Tensor], dtype: torch.dtype, upstream: list[Tensor]) -> Call:
        typed = {"dtype": dtype} if job.modulated else {}  # what is not modulated is of the stream's dtype
        if not job.backward:
            return lambda: function(*inputs, **typed)
        leaves = [part.detach().requires_grad_() for part in inputs]
        return differentiated(lambda *parts: function(*parts, **typed), leaves, upstream)

    ours = {"fresh": call(function, inputs, job.compute, upstream)}
    if not job.backward:
        typed = {"dtype": job.compute} if job.modulated else {}
        ours = {"out=": lambda: function(*inputs, **typed, out=into), **ours}
    peers = {"eager": call(reference, inputs, job.compute, upstream)}
    if compiled := scope.compiled(reference):
        peers["torch.compile"] = call(compiled, inputs, job.compute, upstream)
    exact = call(reference, [part.double() for part in inputs], torch.float64, [g.double() for g in upstream])
    return Candidates(
        ours=ours,
        peers=peers,
        error=deviation(exact()),
        tolerance=1e-5 if job.compute == torch.float32 else 2e-2,
        limit=copying(x),
        work=_passes(job) * (x.nbytes + out.nbytes),
        grad=job.backward,
    )


def _passes(job: _Job) -> float:
    """How many pairs of tensors, one of the residual stream's and one of the network's dtype, go through memory.

    Forward x and the result, with a gate also y and h. Backward the gradient of the result and of x, and x again (of
    the stream's dtype, which is counted as the mean of both); with a gate those of h and y, and h and y again. Of the
    gate alone x, y and h, and backward the gradients of h and y, and y again.
    """
    if not job.modulated:
        return 1.5 + 1.5 * job.backward
    forward = 2.0 if job.gated else 1.0
    backward = 3.0 if job.gated else 1.5
    return forward + backward * job.backward
