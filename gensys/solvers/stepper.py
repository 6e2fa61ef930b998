"""The stepper: execute a solver's table, one fused pass over memory per network call.

The table is assembled into a program (program.py), which says what to sum between two network calls and where to put
it. `kernels.combine` computes a sum; the compiled driver (csrc/ops/stepper.cpp) does all sums of a stage in one call,
block by block. Both write into buffers that are allocated once, and give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gensys import native
from gensys.guidance import correct
from gensys.kernels.combine import combine
from gensys.kernels.dispatch import choose
from gensys.kernels.out import shares_memory
from gensys.noise import Noise, Stream
from gensys.solvers.program import Program, assemble
from gensys.solvers.trace import Table

__all__ = ["Network", "Walk", "execute", "run"]

Network = Callable[[Tensor, float, bool], Tensor]
"""(x_t, t, guided) -> output of the same shape.

Where guided, x_t holds the state twice, (2B, *S): the first half of the rows is answered for the condition, the second
for the reference. x_t is a buffer of the stepper's: the network must not write into it, and must not keep it.
"""


def execute(table: Table, network: Network, x: Tensor, noise: Noise) -> Tensor:
    """x_0 for the initial state x: (B, *S), floating point, contiguous; noise: with an id for each row. x is only read.

    Equal to the eager run of the solver up to the rounding of the coefficients' order of summation.
    """
    return run(assemble(table), network, x, noise)


def run(program: Program, network: Network, x: Tensor, noise: Noise) -> Tensor:
    """`execute` for a table that has been assembled already.

    Raises: ValueError if the network returns what the solver cannot read: another shape or dtype, memory that the
    solver still needs (its own input, say), or a tensor that requires a gradient.
    """
    walk = Walk(program, x, noise)
    for t, guided in program.calls:
        walk.advance(network(walk.state, t, guided))
    return walk.state


class Walk:
    """A program under way, from one network call to the next. state: what that call is to see; at the end, x_0.

    program, x, noise: see `run`.
    """

    def __init__(self, program: Program, x: Tensor, noise: Noise) -> None:
        if not x.is_contiguous():
            raise ValueError(f"'x' must be contiguous, got strides {x.stride()}: pass x.contiguous()")
        if noise.ids.shape != x.shape[:1] or noise.ids.device != x.device:
            ids = f"{tuple(noise.ids.shape)} on {noise.ids.device}"
            raise ValueError(f"'noise' must have an id for each row of 'x', {tuple(x.shape)} on {x.device}, got {ids}")
        self._x, self._twice = x, torch.Size((2 * x.shape[0], *x.shape[1:]))
        shapes = {"rows": x.shape, "twice": self._twice}
        self._slots = {0: x, **{s: x.new_empty(shapes[kind]) for s, kind in enumerate(program.slots) if kind in shapes}}
        self._driver = _driver(program, self._slots, noise)
        self._pending, self._stages = iter(zip(program.calls, program.corrections, strict=True)), iter(program.stages)
        self.state = x
        self._stage(None)

    def advance(self, output: Tensor) -> None:
        """Go on to the next call, given what the network returned for `state`. ValueError: see `run`."""
        (t, guided), correction = next(self._pending)
        _check(output, self._twice if guided else self._x.shape, self._x, t)
        self._stage(output.contiguous())
        if correction is not None:
            slot, compared = self._slots[correction.estimate], correction.conditional
            slot.copy_(correct(correction.nodes, slot, None if compared is None else self._slots[compared]))
            self._stage(None)

    def _stage(self, output: Tensor | None) -> None:
        self._driver.advance(output)
        self.state = self._slots[next(self._stages).state]


class _Driver(Protocol):
    """Does the sums of the next stage, given what the network returned (None in the first stage)."""

    def advance(self, output: Tensor | None) -> None: ...


def _driver(program: Program, slots: dict[int, Tensor], noise: Noise) -> _Driver:
    x = slots[0]
    if native.extension is None or choose("combine", x.device, x.dtype).implementation != "native":
        return _Combines(program, slots, noise)
    ids, seed, _, stream = noise.arguments(Stream.SOLVER)
    scratch = [kind == "scratch" for kind in program.slots]
    driver = native.extension.Stepper(program.stages, scratch, x.numel(), ids, seed, stream)
    for slot, tensor in slots.items():
        driver.hold(slot, tensor)
    return driver


class _Combines:
    """The driver for any dtype and device: a call of `combine` for every sum."""

    def __init__(self, program: Program, slots: dict[int, Tensor], noise: Noise) -> None:
        x = slots[0]
        scratch = {s: torch.empty_like(x) for s, kind in enumerate(program.slots) if kind == "scratch"}
        self.stages, self.slots, self.noise, self.rows = iter(program.stages), slots | scratch, noise, x.shape[0]

    def register(self, number: int) -> Tensor:
        slot, half = divmod(number, 2)
        return self.slots[slot][half * self.rows : (half + 1) * self.rows]

    def advance(self, output: Tensor | None) -> None:
        stage = next(self.stages)
        if stage.output is not None and output is not None:
            if any(shares_memory(output, held) for held in self.slots.values()):
                raise ValueError("the solver still needs what this tensor shares memory with: return a new tensor")
            self.slots[stage.output] = output
        for p in stage.passes:
            out, terms = self.register(p.out), [self.register(r) for r in p.terms]
            combine(out, terms, p.coefs, p.noise_coef, self.noise.at(p.step), Stream.SOLVER, p.clip)
            if p.twice:
                self.register(p.out + 1).copy_(out)
        for slot in stage.released:
            self.slots.pop(slot, None)


def _check(output: Tensor, shape: torch.Size, x: Tensor, t: float) -> None:
    """Raise ValueError unless the solver can read what the network returned at t."""
    if output.shape != shape or output.dtype != x.dtype or output.device != x.device:
        wanted = f"{tuple(shape)} {x.dtype} on {x.device}"
        got = f"{tuple(output.shape)} {output.dtype} on {output.device}"
        raise ValueError(f"'network' must return a tensor like its input, {wanted}, got {got} at t = {t:g}")
    if torch.is_grad_enabled() and (output.requires_grad or x.requires_grad):
        raise ValueError("'network' and 'x' must not require a gradient: the stepper has none, use torch.no_grad()")
