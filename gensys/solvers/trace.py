"""Run a solver once on linear symbols: out comes a table of coefficients.

A solver that only adds its tensors and scales them by floats is, for a given path, target and grid, nothing but
numbers: the input of every network call is a linear combination of the initial state, earlier inputs, earlier network
outputs and fresh noise. `trace` finds these combinations, in double precision, by calling the solver itself with
`Symbolic` values. The table is what the stepper executes, what tests compare with the eager run, and what can be
printed.

    X  the state handed to the solver     I_k  the input of network call k
    F_k  the output of call k             R_k  the reference's output of call k (guidance)
    Z_k  the fresh noise of step k        C_k  the corrected estimate of the data at call k

Clipping is not linear, so it is a node as the network is (guidance.py has the nodes): linear combinations go in (the
estimate of the data from I_k, F_k and R_k, and the conditional one, without R_k), and what comes out, C_k, has a name
of its own, to which all later combinations refer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gensys.guidance import Node, Rescale
from gensys.paths import Path
from gensys.solvers.solver import NotLinear, Solver
from gensys.targets import Prediction, Target, recover

__all__ = ["Call", "Symbol", "Symbolic", "Table", "Terms", "guide", "trace"]


class Symbol(NamedTuple):
    kind: str  # one of "X", "I", "F", "R", "Z", "C"
    number: int = 0


Terms = Mapping[Symbol, float]


class Symbolic:
    """A linear combination of symbols; behaves as a tensor does under +, - and products with floats."""

    def __init__(self, terms: Terms) -> None:
        self.terms = {symbol: c for symbol, c in terms.items() if c != 0.0}

    def __add__(self, other: Symbolic) -> Symbolic:
        terms = dict(self.terms)
        for symbol, c in other.terms.items():
            terms[symbol] = terms.get(symbol, 0.0) + c
        return Symbolic(terms)

    def __mul__(self, scale: float) -> Symbolic:
        if not isinstance(scale, int | float):
            raise NotLinear(f"a solver that multiplies by {type(scale).__name__} is not linear: it has no table")
        return Symbolic({symbol: c * scale for symbol, c in self.terms.items()})

    __rmul__ = __mul__

    def __sub__(self, other: Symbolic) -> Symbolic:
        return self + other * -1.0

    def __neg__(self) -> Symbolic:
        return self * -1.0

    def __truediv__(self, scale: float) -> Symbolic:
        return self * (1.0 / scale)


@dataclass(frozen=True)
class Call:
    """One network call.

    input: the combination that the network sees. t: its time. guided: whether the reference is evaluated too.
    estimate: the combination that C_k is made from, after the call; None where nothing is corrected. nodes: what makes
    it, in turn. conditional: the estimate before guidance, where a node asks for it.
    """

    input: Terms
    t: float
    guided: bool = False
    estimate: Terms | None = None
    nodes: tuple[Node, ...] = ()
    conditional: Terms | None = None


@dataclass(frozen=True)
class Table:
    """A solver on one grid: its network calls in order, and the combination that is x_0."""

    calls: tuple[Call, ...]
    output: Terms

    def __str__(self) -> str:
        def show(terms: Terms) -> str:
            return " ".join(f"{c:+.6g} {s.kind}{s.number}" for s, c in terms.items())

        rows: list[str] = []
        for k, call in enumerate(self.calls):
            rows.append(f"t = {call.t:<8.5g} I{k} = {show(call.input)}")
            if call.estimate is not None:
                rows.append(f"{f'C{k}':>14} = {', '.join([show(call.estimate), *map(repr, call.nodes)])}")
        return "\n".join([*rows, f"{'x_0':>14} = {show(self.output)}"])


def trace(solver: Solver, path: Path, target: Target, times: Sequence[float], nodes: Sequence[Node] = ()) -> Table:
    """The table of a solver on a path, for a network that outputs `target`, on the grid `times`.

    nodes: what is done to every estimate of the data, in turn, before the solver sees it.

    Raises: NotLinear if the solver is not linear (an adaptive step, say): such a solver runs eagerly.
    """
    calls: list[Call] = []

    def predict(x: Symbolic, t: float) -> Prediction:
        k = len(calls)
        calls.append(Call(dict(x.terms), t))
        # From here on the solver's x *is* the network's input: naming it keeps later combinations short.
        x.terms = {Symbol("I", k): 1.0}

        def corrected(estimate: Symbolic) -> Symbolic:
            calls[k] = replace(calls[k], estimate=estimate.terms, nodes=tuple(nodes))
            return Symbolic({Symbol("C", k): 1.0})

        return recover(path(t), target, x, Symbolic({Symbol("F", k): 1.0}), corrected if nodes else None)

    def draw(k: int) -> Symbolic:
        return Symbolic({Symbol("Z", k): 1.0})

    x_0 = solver(predict, path, Symbolic({Symbol("X"): 1.0}), times, draw)
    return Table(tuple(calls), x_0.terms)


def guide(table: Table, scale: Callable[[float], float]) -> Table:
    """Fold guidance into the coefficients: F_k becomes w F_k + (1 - w) R_k with w = scale(t_k), before any node.

    A call whose scale is 1 stays as it is: the reference network is not evaluated there, and nothing is rescaled.
    """
    weights = [scale(call.t) for call in table.calls]

    def folded(terms: Terms) -> Terms:
        out: dict[Symbol, float] = {}
        for symbol, c in terms.items():
            if symbol.kind == "F" and weights[symbol.number] != 1.0:
                w = weights[symbol.number]
                out[symbol] = c * w
                out[Symbol("R", symbol.number)] = c * (1.0 - w)
            else:
                out[symbol] = c
        return out

    def guided(call: Call, w: float) -> Call:
        call = replace(call, input=folded(call.input), guided=w != 1.0)
        if call.estimate is None:
            return call
        if w == 1.0:
            return replace(call, nodes=tuple(node for node in call.nodes if not isinstance(node, Rescale)))
        compared = any(isinstance(node, Rescale) for node in call.nodes)
        return replace(call, estimate=folded(call.estimate), conditional=call.estimate if compared else None)

    calls = [guided(call, w) for call, w in zip(table.calls, weights, strict=True)]
    return Table(tuple(calls), folded(table.output))
