"""Rows of affine_coupling: forward, inverse, and forward with backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gensys.bench.limits import copying
from gensys.bench.peers import library
from gensys.bench.row import Candidates, Row, Scope, deviation, differentiated
from gensys.bench.timing import Call

__all__ = ["rows"]

_SHAPES = ((65536, 32), (256, 6144), (1024, 12288))
_BOUND = 2.0


def rows(scope: Scope) -> Iterator[Row]:
    """For tabular data, and for half of an image of 3 x 64 x 64 and of 6 x 64 x 64."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for shape in ((64, 32),) if scope.quick else _SHAPES:
            text = "x".join(map(str, shape))
            for end, inverse in (("", False), (" inverse", True)):
                yield Row(
                    f"affine_coupling{end}", text, name,
                    lambda s, shape=shape, dtype=dtype, inverse=inverse: _direction(s, shape, dtype, inverse),
                )  # fmt: skip
            yield Row(
                "affine_coupling backward", text, name,
                lambda s, shape=shape, dtype=dtype: _backward(s, shape, dtype),
            )  # fmt: skip


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, s, t = torch.randn(3, *shape, generator=generator).to(dtype)
    return x, s, t


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 2e-2


def _direction(scope: Scope, shape: tuple[int, ...], dtype: torch.dtype, inverse: bool) -> Candidates:
    from gensys.kernels.affine_coupling import affine_coupling, reference

    x, s, t = _inputs(shape, dtype)
    out = torch.empty_like(x)
    peers: dict[str, Call] = {"eager": lambda: reference(x, s, t, bound=_BOUND, inverse=inverse)}
    if compiled := scope.compiled(lambda x, s, t: reference(x, s, t, bound=_BOUND, inverse=inverse)):
        peers["torch.compile"] = lambda: compiled(x, s, t)
    if scope.peers and dtype == torch.float32:
        peers |= _libraries(x, s, t, inverse)
    return Candidates(
        ours={
            "out=": lambda: affine_coupling(x, s, t, bound=_BOUND, inverse=inverse, out=out),
            "fresh": lambda: affine_coupling(x, s, t, bound=_BOUND, inverse=inverse),
        },
        peers=peers,
        error=deviation(reference(x.double(), s.double(), t.double(), bound=_BOUND, inverse=inverse)),
        tolerance=_tolerance(dtype),
        limit=copying(x),
        work=4.0 * x.nbytes,  # three tensors are read and one is written
    )


def _libraries(x: Tensor, s: Tensor, t: Tensor, inverse: bool) -> dict[str, Call]:
    """The transforms of the two libraries, made to return the same numbers."""
    normflows, zuko = library("normflows"), library("zuko")
    bounded = _BOUND * torch.tanh(s / _BOUND)

    class Ready(nn.Module):
        """In the place of the network that normflows asks for shift and log-scale: here it is known what it says."""

        def forward(self, _: Tensor) -> Tensor:
            return parameters

    parameters = torch.stack([t, bounded], 2).flatten(1)  # in turns, as normflows reads them; bounded, for it does not
    coupling = normflows.flows.AffineCoupling(Ready(), scale_map="exp")

    def by_normflows() -> tuple[Tensor, Tensor]:
        (_, y), logdet = (coupling.inverse if inverse else coupling.forward)([x, x])
        return y, logdet

    # zuko bounds log-scales in its own way, a / (1 + |a| / 6.9): these are the a whose bounded values are ours
    free = bounded / (1.0 - bounded.abs() / abs(torch.tensor(1e-3).log()))

    def by_zuko() -> tuple[Tensor, Tensor]:
        affine = zuko.transforms.MonotonicAffineTransform(t, free)
        transform = zuko.transforms.DependentTransform(affine, 1)
        return (transform.inv if inverse else transform).call_and_ladj(x)

    return {"normflows": by_normflows, "zuko": by_zuko}


def _backward(scope: Scope, shape: tuple[int, ...], dtype: torch.dtype) -> Candidates:
    """The forward direction and the gradients of all three inputs."""
    from gensys.kernels.affine_coupling import affine_coupling, reference

    inputs = [x.requires_grad_() for x in _inputs(shape, dtype)]
    dy, dlogdet = torch.randn_like(inputs[0]), torch.randn(shape[0])
    peers = {"eager": differentiated(reference, inputs, [dy, dlogdet])}
    if compiled := scope.compiled(reference):
        peers["torch.compile"] = differentiated(compiled, inputs, [dy, dlogdet])
    exact = [x.detach().double().requires_grad_() for x in inputs]
    return Candidates(
        ours={"fresh": differentiated(affine_coupling, inputs, [dy, dlogdet])},
        peers=peers,
        error=deviation(differentiated(reference, exact, [dy.double(), dlogdet.double()])()),
        tolerance=_tolerance(dtype),
        limit=copying(dy),
        work=9.0 * dy.nbytes,  # 4 as above; then dy, x and s are read, dx and ds written (dt is dy)
        grad=True,
    )
