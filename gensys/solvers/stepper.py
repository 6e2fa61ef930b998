"""The stepper: execute a solver's table, one fused pass over memory per network call.

`kernels.combine` sums the live tensors, the guidance and the fresh noise of a step in one pass, into buffers that are
allocated once and reused as soon as the table no longer needs what they hold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gensys.kernels.combine import combine
from gensys.noise import Noise, Stream
from gensys.solvers.trace import Symbol, Table, Terms

__all__ = ["Network", "execute"]

Network = Callable[[Tensor, float, bool], tuple[Tensor, Tensor | None]]
"""(x_t, t, guided) -> (conditional output, reference output, or None where not guided)."""


def _last_uses(table: Table) -> dict[Symbol, int]:
    """The index of the last combination that reads each symbol; the output's index is the number of calls."""
    combinations = [*(call.input for call in table.calls), table.output]
    return {symbol: k for k, terms in enumerate(combinations) for symbol in terms}


def execute(table: Table, network: Network, x: Tensor, noise: Noise) -> Tensor:
    """x_0 for the initial state x: (B, *S) float32 or float64, contiguous. Never writes into x.

    Equal to the eager run of the solver up to the rounding of the coefficients' order of summation.
    """
    last = _last_uses(table)
    live: dict[Symbol, Tensor] = {Symbol("X"): x}
    free: list[Tensor] = []
    ours: set[int] = set()  # buffers that were allocated here and may be reused; a network's outputs are its own

    def evaluate(terms: Terms) -> Tensor:
        tensors = [(live[symbol], c) for symbol, c in terms.items() if symbol.kind != "Z"]
        draws = [(symbol.number, c) for symbol, c in terms.items() if symbol.kind == "Z"]
        if len(tensors) == 1 and tensors[0][1] == 1.0 and not draws:
            return tensors[0][0]
        if free:
            out = free.pop()
        else:
            out = torch.empty_like(x)
            ours.add(id(out))
        step, coef = draws[0] if draws else (0, 0.0)
        combine(out, [v for v, _ in tensors], [c for _, c in tensors], coef, noise.at(step), Stream.SOLVER)
        for step, coef in draws[1:]:  # a solver that draws twice for one input: rare, so one more pass each
            combine(out, [out], [1.0], coef, noise.at(step), Stream.SOLVER)
        return out

    for k, call in enumerate(table.calls):
        state = evaluate(call.input)
        live[Symbol("I", k)] = state
        output, reference = network(state, call.t, call.guided)
        live[Symbol("F", k)] = output.contiguous()
        if reference is not None:
            live[Symbol("R", k)] = reference.contiguous()
        for symbol in [s for s in live if last.get(s, -1) <= k]:
            tensor = live.pop(symbol)
            if id(tensor) in ours and all(tensor is not other for other in live.values()):
                free.append(tensor)
    return evaluate(table.output)
