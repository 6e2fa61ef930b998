"""Run a suite: check that the candidates of every row agree, time them in turns, and write down what came out."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

import torch

from gensys.bench import SUITES, limits
from gensys.bench.machine import BUSY, load, machine
from gensys.bench.marks import ITSELF
from gensys.bench.peers import require
from gensys.bench.row import Candidates, Row, Scope
from gensys.bench.timing import Call, Clock, Protocol, Sample, clock, measure, spread
from gensys.errors import ConfigError
from gensys.progress import Screen

__all__ = ["rows_of", "run"]


def rows_of(suite: str, scope: Scope) -> Iterator[Row]:
    """The rows of a suite, in order."""
    for name in SUITES[suite]:
        yield from importlib.import_module(f"gensys.bench.{name}").rows(scope)


def run(
    suite: str,
    scope: Scope,
    protocol: Protocol,
    screen: Screen,
    pattern: str = "*",
    clock: Clock = clock,
) -> dict[str, Any]:
    """The document of a suite: {"suite", "machine", "protocol", "limits", "rows", "failures"}.

    pattern: which rows, as the shell matches file names, against "name shape dtype" or a part of it. A candidate that
    returns something else than the others, or raises, is a failure, and its row is not timed.
    Raises ConfigError if no row matches or a peer that was asked for is not installed.
    """
    if scope.peers:
        require(suite)
    chosen = [row for row in rows_of(suite, scope) if fnmatch(row.label, f"*{pattern}*")]
    if not chosen:
        names = ", ".join(dict.fromkeys(row.name for row in rows_of(suite, scope)))
        raise ConfigError(f"no row of {suite} matches {pattern!r}: its rows are {names}")
    found = machine()
    if found["load"] is not None and found["load"] > BUSY and not scope.quick:
        holds = "ratios will hold, times less" if protocol.threads == 1 else "no time on the wall will hold"
        screen.line(f"this machine is busy (load {found['load']:.2f}): {holds}")
    before = torch.get_num_threads()
    torch.set_num_threads(protocol.threads)
    lines: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    try:
        ceilings = limits.table(protocol, scope.quick)
        with screen.phase(suite, len(chosen), "rows") as phase:
            for number, row in enumerate(chosen):
                phase.update(number, row.label)
                done, wrong = _contest(row, scope, protocol, clock)
                lines += done
                failures += wrong
            phase.update(len(chosen))
    finally:
        torch.set_num_threads(before)
    return {
        "suite": suite,
        "machine": found | {"load_after": load()},
        "protocol": asdict(protocol) | {"timed": protocol.timed, "peers": scope.peers, "quick": scope.quick},
        "limits": ceilings,
        "rows": lines,
        "failures": failures,
    }


def _contest(
    row: Row, scope: Scope, protocol: Protocol, clock: Clock
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(the lines of a row, one for each way of ours and each peer; its failures)."""
    head = {"name": row.name, "shape": row.shape, "dtype": row.dtype}
    try:
        candidates = row.prepare(scope)
    except Exception as failure:  # of another version of a library, say: it must not cost the rows that are measured
        return [], [head | _failed("the row", math.inf, 0.0, _reason(failure))]
    try:
        with torch.set_grad_enabled(candidates.grad):
            errors, wrong = _checked(candidates)
            if wrong:
                return [], [head | failure for failure in wrong]
            if candidates.limit is not None:
                candidates.limit.call()
            samples = measure(_calls(candidates, protocol), protocol, clock)
        peaks: dict[str, int | None] = {}
        peak = candidates.peak or (lambda name: None)
        for name in errors:
            try:
                peaks[name] = peak(name.partition(" ")[2])
            except RuntimeError as failure:
                wrong.append(_failed(name, errors[name], candidates.tolerance, _reason(failure)))
    finally:
        candidates.close()
    return list(_lines(head, candidates, protocol, samples, errors, peaks)), [head | failure for failure in wrong]


def _lines(
    head: dict[str, str],
    candidates: Candidates,
    protocol: Protocol,
    samples: Mapping[str, list[Sample]],
    errors: Mapping[str, float],
    peaks: Mapping[str, int | None],
) -> Iterator[dict[str, Any]]:
    for way in candidates.ours:
        name = f"ours {way}"
        line = head | {"ours": way, **_figures("ours", samples[name], protocol, candidates.steps)}
        line |= {"ours_error": errors[name], "ours_peak_bytes": peaks.get(name)}
        line |= _fraction(candidates, samples, way, protocol)
        for name in samples:
            kind, _, peer = name.partition(" ")
            if kind == "peer" and (peer != ITSELF or way == next(iter(candidates.ours))):
                theirs = {"peer": peer, **_figures("peer", samples[name], protocol, candidates.steps)}
                theirs |= {"peer_error": errors.get(name), "peer_peak_bytes": peaks.get(name)}
                yield line | theirs | _ratio(samples[name], samples[f"ours {way}"], protocol)


def _checked(candidates: Candidates) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(the error of every candidate, those that are too large)."""
    errors: dict[str, float] = {}
    wrong: list[dict[str, Any]] = []
    loose = candidates.tolerance if candidates.peer_tolerance is None else candidates.peer_tolerance
    for kind, calls, tolerance in (("ours", candidates.ours, candidates.tolerance), ("peer", candidates.peers, loose)):
        for name, call in calls.items():
            error, why = math.inf, ""
            try:
                result = call()
                if result is None and kind == "peer":
                    continue
                error = candidates.error(result)
            except Exception as failure:  # a candidate that does not compile, say: as above
                why = _reason(failure)
            errors[f"{kind} {name}"] = error
            if not error <= tolerance:
                why = why or f"off by {error:.3g}, {tolerance:.3g} allowed"
                wrong.append(_failed(f"{kind} {name}", error, tolerance, why))
    return errors, wrong


def _failed(candidate: str, error: float, tolerance: float, why: str) -> dict[str, Any]:
    return {"candidate": candidate, "error": error, "tolerance": tolerance, "why": why}


def _reason(failure: Exception) -> str:
    """One line of what was raised."""
    text = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {text[0]}" if text else type(failure).__name__


def _calls(candidates: Candidates, protocol: Protocol) -> dict[str, Call]:
    calls = {f"ours {way}": call for way, call in candidates.ours.items()}
    calls |= {f"peer {name}": call for name, call in candidates.peers.items()}
    if protocol.threads > 1:
        calls[f"peer {ITSELF}"] = _alone(next(iter(candidates.ours.values())), protocol.threads)
    if candidates.limit is not None:
        calls["limit"] = candidates.limit.call
    return calls


def _alone(call: Call, threads: int) -> Call:
    """The call on one thread, for a process that has several."""

    def alone() -> None:
        torch.set_num_threads(1)
        call()
        torch.set_num_threads(threads)

    return alone


def _figures(prefix: str, samples: list[Sample], protocol: Protocol, steps: int) -> dict[str, float]:
    """Milliseconds of a step on the clock that counts, with quartiles, and on the other one."""
    of = {name: spread([1e3 * getattr(sample, name) / steps for sample in samples]) for name in ("cpu", "wall")}
    found = {f"{prefix}_{name}_ms": value.median for name, value in of.items()}
    counted = of[protocol.timed]
    return {f"{prefix}_ms": counted.median, f"{prefix}_low_ms": counted.low, f"{prefix}_high_ms": counted.high, **found}


def _ratio(theirs: list[Sample], ours: list[Sample], protocol: Protocol) -> dict[str, float | int]:
    """How many times as long the peer takes: the median of the rounds, and its quartiles."""
    of = spread([getattr(t, protocol.timed) / getattr(o, protocol.timed) for t, o in zip(theirs, ours, strict=True)])
    return {"ratio": of.median, "ratio_low": of.low, "ratio_high": of.high, "rounds": len(ours)}


def _fraction(
    candidates: Candidates, samples: Mapping[str, list[Sample]], way: str, protocol: Protocol
) -> dict[str, Any]:
    """The share of the machine's limit that our call reaches, round by round."""
    limit = candidates.limit
    if limit is None:
        return {"limit": None, "limit_fraction": None}
    share = candidates.work / limit.amount / (protocol.threads if limit.one_core else 1)
    pairs = zip(samples["limit"], samples[f"ours {way}"], strict=True)
    of = spread([share * getattr(most, protocol.timed) / getattr(ours, protocol.timed) for most, ours in pairs])
    return {"limit": limit.name, "limit_fraction": of.median}
