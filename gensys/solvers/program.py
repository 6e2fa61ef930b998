"""A table as a program: the sums to compute between two network calls, over slots of memory assigned once.

The table names values (trace.py); a program says where in memory they live. A value's slot is free again after its last
use, so that most solvers need one buffer: x_s is written over x_t, element by element.

    x         slot 0, the state handed to the solver: only read
    rows      a buffer of B rows
    twice     a buffer of 2B rows: the input of a guided call, for the condition and for the reference
    scratch   what is needed within one stage only
    output    what the network returned, read where it is: B rows, or 2B after a guided call

Register 2 s is the first B rows of slot s, register 2 s + 1 the second.

Clipping is done within a sum. Any other node (trace.py) wants the whole estimate of a row at once, so it stands between
two stages: the first makes the estimate, torch corrects it in its slot, the second goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gensys.guidance import Clip, Node
from gensys.kernels.combine import MAX_TERMS
from gensys.solvers.trace import Call, Symbol, Table, Terms

__all__ = ["Correction", "Kind", "Pass", "Program", "Stage", "assemble"]

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


class Correction(NamedTuple):
    """The slot `estimate` becomes what the nodes make of it and of the slot `conditional`, in turn."""

    nodes: tuple[Node, ...]
    estimate: int
    conditional: int | None


class Stage(NamedTuple):
    """What happens between two network calls, or on one side of a correction.

    csrc/ops/stepper.cpp knows the order of these fields, and of Pass. output: the slot for what the call before has
    returned; None if there was none. state: the slot of what the next call is to see, or of the estimate that is
    corrected next, or of x_0. released: the slots of outputs that no later stage reads.
    """

    output: int | None
    passes: tuple[Pass, ...]
    state: int
    released: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """calls: (t, guided) of every network call. corrections: what stands between the two stages that follow a call;
    None = one stage follows it. stages: the first comes before all calls, the last makes x_0. slots: of what kind."""

    calls: tuple[tuple[float, bool], ...]
    corrections: tuple[Correction | None, ...]
    stages: tuple[Stage, ...]
    slots: tuple[Kind, ...]


class _Value(NamedTuple):
    """What a stage computes: C of the call before it, then the input of the next call (in the last stage: x_0).

    Where a node compares, "Q", the conditional estimate, comes before C. kept: C must have a buffer of its own.
    """

    symbol: Symbol
    terms: Terms
    clip: tuple[float, float] | None = None
    guided: bool = False
    kept: bool = False


class _Step(NamedTuple):
    """What a stage is made of. answer: the call that has just been answered, if any. nodes: what follows the stage."""

    values: list[_Value]
    answer: int | None
    nodes: tuple[Node, ...] = ()


def _steps(table: Table) -> Iterator[_Step]:
    inputs = [*((call.input, call.guided) for call in table.calls), (table.output, False)]
    aims = [_Value(Symbol("I", k), terms, guided=guided) for k, (terms, guided) in enumerate(inputs)]
    yield _Step([aims[0]], None)
    for k, (call, aim) in enumerate(zip(table.calls, aims[1:], strict=True)):
        if call.estimate is None:
            yield _Step([aim], k)
        elif _corrected(call):
            compared = [] if call.conditional is None else [_Value(Symbol("Q", k), call.conditional, kept=True)]
            yield _Step([*compared, _Value(Symbol("C", k), call.estimate, kept=True)], k, call.nodes)
            yield _Step([aim], None)
        else:
            clip = next(((node.low, node.high) for node in call.nodes if isinstance(node, Clip)), None)
            yield _Step([_Value(Symbol("C", k), call.estimate, clip), aim], k)


def _corrected(call: Call) -> bool:
    """Whether a call has nodes that no sum can do; a single clip it can."""
    return len(call.nodes) > 1 or any(not isinstance(node, Clip) for node in call.nodes)


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
    corrections: list[Correction | None] = []
    steps = list(_steps(table))
    order = [value for step in steps for value in step.values]
    last_use = {_home(s): i for i, value in enumerate(order) for s in value.terms}
    # A conditional estimate is read by the nodes, between the value after it and the next one.
    memory = _Memory(last_use | {value.symbol: i + 2 for i, value in enumerate(order) if value.symbol.kind == "Q"})
    i = 0
    for step in steps:
        output = None if step.answer is None else memory.take(Symbol("F", step.answer), "output")
        passes: list[Pass] = []
        for value in step.values:
            passes += _passes(value, i, memory)
            i += 1
        state = memory.slot[step.values[-1].symbol]
        if step.answer is not None:
            compared = memory.slot.get(Symbol("Q", step.answer))
            corrections.append(Correction(step.nodes, state, compared) if step.nodes else None)
        memory.forget(i - 1)
        free = set(range(len(memory.kinds))) - set(memory.slot.values())
        released = tuple(s for s in sorted(free) if memory.kinds[s] == "output")
        stages.append(Stage(output, tuple(passes), state, released))
    calls = tuple((call.t, call.guided) for call in table.calls)
    return Program(calls, tuple(corrections), tuple(stages), tuple(memory.kinds))


def _passes(value: _Value, i: int, memory: _Memory) -> list[Pass]:
    """Value i, in passes that `combine` can take."""
    symbol, terms, clip, guided, kept = value
    if terms == {Symbol("X"): 1.0} and not (clip or guided or kept):  # the first input, as a rule: no need for a copy
        memory.slot[symbol] = 0
        return []
    tensors = [(memory.register(s), c) for s, c in terms.items() if s.kind != "Z"]
    draws = [(s.number, c) for s, c in terms.items() if s.kind == "Z"]
    if len(tensors) <= MAX_TERMS:
        memory.forget(i)  # in one pass, elements are read before one is written: the sum may replace what it reads last
    # C_k is followed by the input of the next call, and mostly read there only.
    brief = symbol.kind == "C" and not kept and memory.last_use.get(symbol, i) <= i + 1
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
