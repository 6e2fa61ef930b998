"""A table as a program: the sums to compute between two network calls, over slots of memory assigned once.

The table names values (trace.py); a program says where in memory they live. A value's slot is free again after its last
use, so that most solvers need one buffer: x_s is written over x_t, element by element.

    x         slot 0, the state handed to the solver: only read
    rows      a buffer of B rows
    twice     a buffer of 2B rows: the input of a guided call, for the condition and for the reference
    scratch   what is needed within one stage only
    output    what the network returned, read where it is: B rows, or 2B after a guided call

Register 2 s is the first B rows of slot s, register 2 s + 1 the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from gensys.kernels.combine import MAX_TERMS
from gensys.solvers.trace import Symbol, Table, Terms

__all__ = ["Kind", "Pass", "Program", "Stage", "assemble"]

Kind = Literal["x", "rows", "twice", "scratch", "output"]


class Pass(NamedTuple):
    """One `combine`: the sum over j of coefs[j] terms[j] + noise_coef z(step), clipped, into the register `out`."""

    out: int
    terms: tuple[int, ...]
    coefs: tuple[float, ...]
    noise_coef: float
    step: int
    clip: tuple[float, float] | None = None
    twice: bool = False  # into the register out + 1 as well


class Stage(NamedTuple):
    """What happens between two network calls (csrc/ops/stepper.cpp knows the order of these fields, and of Pass).

    output: the slot for what the call before has returned; None before the first call. state: the slot of what the next
    call is to see, or of x_0. released: the slots of outputs that no later stage reads.
    """

    output: int | None
    passes: tuple[Pass, ...]
    state: int
    released: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """calls: (t, guided) of every network call. stages: one more, as the last one makes x_0. slots: of what kind."""

    calls: tuple[tuple[float, bool], ...]
    stages: tuple[Stage, ...]
    slots: tuple[Kind, ...]


class _Value(NamedTuple):
    """What a stage computes: C of the call before it, then the input of the next call (in the last stage: x_0)."""

    symbol: Symbol
    terms: Terms
    clip: tuple[float, float] | None = None
    guided: bool = False


def _values(table: Table) -> list[list[_Value]]:
    inputs = [*((call.input, call.guided) for call in table.calls), (table.output, False)]
    stages = [[_Value(Symbol("I", k), terms, None, guided)] for k, (terms, guided) in enumerate(inputs)]
    for k, call in enumerate(table.calls):
        if call.estimate is not None:
            stages[k + 1].insert(0, _Value(Symbol("C", k), call.estimate, table.clip))
    return stages


def _home(symbol: Symbol) -> Symbol:
    """Whose slot a symbol is in: both answers of a guided call are one tensor."""
    return Symbol("F", symbol.number) if symbol.kind == "R" else symbol


class _Memory:
    """Which slots there are and what is in them."""

    def __init__(self, last_use: dict[Symbol, int]) -> None:
        self.kinds: list[Kind] = ["x"]
        self.slot = {Symbol("X"): 0}
        self.last_use = last_use  # the number of the last value that reads a symbol

    def take(self, symbol: Symbol, kind: Kind) -> int:
        """A slot for a symbol: one of this kind that nothing is in, or a new one."""
        used = set(self.slot.values())
        free = [s for s, other in enumerate(self.kinds) if other == kind and s not in used]
        if not free:
            free = [len(self.kinds)]
            self.kinds.append(kind)
        self.slot[symbol] = free[0]
        return free[0]

    def forget(self, value: int) -> None:
        """Everything that is not read after this value."""
        self.slot = {s: slot for s, slot in self.slot.items() if s.kind == "X" or self.last_use.get(s, -1) > value}

    def register(self, symbol: Symbol) -> int:
        return 2 * self.slot[_home(symbol)] + (symbol.kind == "R")


def assemble(table: Table) -> Program:
    """The program of a table: the same sums, in the same order."""
    stages: list[Stage] = []
    values = _values(table)
    order = [value for stage in values for value in stage]
    memory = _Memory({_home(s): i for i, value in enumerate(order) for s in value.terms})
    i = 0
    for k, stage in enumerate(values):
        output = memory.take(Symbol("F", k - 1), "output") if k else None
        passes: list[Pass] = []
        for value in stage:
            passes += _passes(value, i, memory)
            i += 1
        state = memory.slot[Symbol("I", k)]
        memory.forget(i - 1)
        free = set(range(len(memory.kinds))) - set(memory.slot.values())
        released = tuple(s for s in sorted(free) if memory.kinds[s] == "output")
        stages.append(Stage(output, tuple(passes), state, released))
    calls = tuple((call.t, call.guided) for call in table.calls)
    return Program(calls, tuple(stages), tuple(memory.kinds))


def _passes(value: _Value, i: int, memory: _Memory) -> list[Pass]:
    """Value i, in passes that `combine` can take."""
    symbol, terms, clip, guided = value
    if terms == {Symbol("X"): 1.0} and not (clip or guided):  # the first input, as a rule: no need for a copy
        memory.slot[symbol] = 0
        return []
    tensors = [(memory.register(s), c) for s, c in terms.items() if s.kind != "Z"]
    draws = [(s.number, c) for s, c in terms.items() if s.kind == "Z"]
    if len(tensors) <= MAX_TERMS:
        memory.forget(i)  # in one pass, elements are read before one is written: the sum may replace what it reads last
    # C_k is followed by the input of the next call, and mostly read there only.
    brief = symbol.kind == "C" and memory.last_use.get(symbol, i) <= i + 1
    out = 2 * memory.take(symbol, "scratch" if brief else "twice" if guided else "rows")
    *sums, last = _sums(out, tensors, draws)
    return [*sums, last._replace(clip=clip, twice=guided)]


def _sums(out: int, tensors: list[tuple[int, float]], draws: list[tuple[int, float]]) -> list[Pass]:
    """From left to right: MAX_TERMS tensors at a time, then a draw at a time, added to what there is so far."""
    sums: list[Pass] = []
    while tensors or draws or not sums:
        so_far = [(out, 1.0)] if sums else []
        room = MAX_TERMS - len(so_far)
        taken, tensors = so_far + tensors[:room], tensors[room:]
        (step, noise_coef), draws = (draws[0], draws[1:]) if draws and not tensors else ((0, 0.0), draws)
        sums.append(Pass(out, tuple(r for r, _ in taken), tuple(c for _, c in taken), noise_coef, step))
    return sums
