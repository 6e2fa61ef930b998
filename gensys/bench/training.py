"""The rows of a training step: a DiT-S/2, forward, backward and the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensys.bench.dit import PRECISION, Size, network, of_diffusers, of_gensys, plain
from gensys.bench.memory import peak
from gensys.bench.row import Candidates, Row, Scope, deviation
from gensys.bench.timing import Call
from gensys.engine.optim import Optim, adamw
from gensys.engine.precision import autocast

__all__ = ["builders", "rows"]

_RATE = 1e-9  # every step does all of its work, and leaves the weights where all candidates have them


def rows(scope: Scope) -> Iterator[Row]:
    """In float32, and in bfloat16 under autocast."""
    for dtype in PRECISION:
        yield Row("dit training step", str(Size.of(scope.quick)), dtype, lambda s, dtype=dtype: _step(s, dtype))


_WEIGHED = ("gensys", "diffusers")  # the memory of a compiler is not that of what it compiled


def _step(scope: Scope, dtype: str) -> Candidates:
    made = builders(scope.quick, dtype)
    wanted = ["reference kernels", *([] if scope.quick else ["torch.compile"]), *(["diffusers"] if scope.peers else [])]
    return Candidates(
        ours={"gensys": made["gensys"]()},
        peers={name: made[name]() for name in wanted},
        error=deviation(builders(scope.quick, "float32")["reference kernels"]()()),
        tolerance=1e-4 if dtype == "float32" else 5e-2,
        grad=True,
        peak=None if scope.quick else lambda name: peak(__name__, False, dtype, name) if name in _WEIGHED else None,
    )


def builders(quick: bool, dtype: str) -> dict[str, Callable[[], Call]]:
    """candidate -> what makes it: a call that takes a training step and returns the loss and the gradient that arrives
    at the embedding of the patches, the first layer."""
    size, device = Size.of(quick), torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, size.batch, *size.shape, generator=generator)
    t = torch.rand(size.batch, generator=generator)
    label = torch.arange(size.batch) % size.classes

    def call(net: nn.Module, first: Tensor, forward: Callable[[], Tensor]) -> Call:
        optimizer = adamw(list(net.parameters()), Optim(lr=_RATE))

        def step() -> tuple[Tensor, Tensor]:
            optimizer.zero_grad(set_to_none=True)
            with autocast(PRECISION[dtype], device):
                loss = F.mse_loss(forward().float(), target)
            loss.backward()
            optimizer.step()
            assert first.grad is not None
            return loss.detach(), first.grad.flatten(1)

        return step

    def gensys() -> Call:
        net = network(of_gensys(size))
        return call(net, net.embed.weight, lambda: net(x, t, {"label": label}))

    def compiled() -> Call:
        torch._dynamo.reset()
        net = network(of_gensys(size))
        fast = torch.compile(net, dynamic=False, fullgraph=True)  # or it fails: see Scope.compiled
        return plain(call(net, net.embed.weight, lambda: fast(x, t, {"label": label})))

    def diffusers() -> Call:
        net = of_diffusers(network(of_gensys(size)), size)
        forward = lambda: net(x, timestep=1000.0 * t, class_labels=label, return_dict=False)[0]  # noqa: E731
        return call(net, net.pos_embed.proj.weight, forward)

    return {
        "gensys": gensys,
        "reference kernels": lambda: plain(gensys()),
        "torch.compile": compiled,
        "diffusers": diffusers,
    }
