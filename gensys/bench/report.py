"""The document of a suite as a table that people read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from gensys.terminal import columns, size

__all__ = ["about_limits", "about_machine", "about_protocol", "figure", "grouped", "text"]

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


def text(document: Mapping[str, Any]) -> str:
    """Machine, protocol, limits, the rows, and what failed."""
    parts = [
        columns(
            [
                ["machine", about_machine(document["machine"])],
                ["protocol", about_protocol(document["protocol"])],
                ["limits", about_limits(document["limits"])],
            ]
        ),
        _table(document["rows"]),
        *_failures(document["failures"]),
    ]
    return "\n\n".join(part for part in parts if part)


def about_machine(facts: Mapping[str, Any]) -> str:
    """One line: what the processor can do, the libraries, the load."""
    caches = ", ".join(f"{name} {value}" for name, value in facts["caches"].items())
    kernels = f"compiled kernels for {facts['native_isa']}" if facts["native_isa"] else "no compiled kernels"
    busy = [f"{facts[name]:.2f} {when}" for name, when in (("load", "before"), ("load_after", "after")) if facts[name]]
    parts = [
        *([facts["cpu"]] if facts.get("cpu") else []),
        f"{facts['architecture']} with {', '.join(facts['features'])}" if facts["features"] else facts["architecture"],
        f"{facts['cores']} core{'s' if facts['cores'] != 1 else ''}",
        *([caches] if caches else []),
        size(facts["memory_bytes"]),
        f"torch {facts['torch']} ({facts['blas']}, oneDNN {facts['onednn']})",
        kernels,
        f"huge pages {facts['huge_pages']}",
        *(f"{name}={value}" for name, value in facts["environment"].items()),
        *([f"load {', '.join(busy)}"] if busy else []),
    ]
    return "; ".join(parts)


def about_protocol(protocol: Mapping[str, Any]) -> str:
    """One line: what was timed, and how."""
    threads = protocol["threads"]
    counted = "CPU time of the process" if protocol["timed"] == "cpu" else "time on the wall"
    warning = "QUICK: tiny shapes, these figures mean nothing; " if protocol["quick"] else ""
    return (
        f"{warning}{threads} thread{'s' if threads != 1 else ''}, {counted}; candidates checked, then timed in turns; "
        f"medians of {protocol['fewest']} to {protocol['rounds']} rounds"
    )


def about_limits(limits: Sequence[Mapping[str, Any]]) -> str:
    """One line: copy and arithmetic at most."""
    return "; ".join(f"{limit['name']} {limit['per_second'] / 1e9:.0f} G{limit['unit']}/s" for limit in limits)


def grouped(rows: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The lines of each row and way of calling: they differ in the peer only."""
    key = lambda line: (line["name"], line["shape"], line["dtype"], line["ours"])  # noqa: E731
    return [list(lines) for _, lines in groupby(rows, key)]


def figure(value: float | None) -> str:
    """Three digits, as people read them: 0.0142, 1.35, 596."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [["row", "shape", "dtype", "ours", "ms", "of limit", "times as long"]] if rows else []
    for group in grouped(rows):
        first = group[0]
        limit = f"{first['limit_fraction']:.0%} {first['limit']}" if first["limit"] else ""
        peers = ", ".join(f"{line['peer']} {figure(line['ratio'])}{_memory(line)}" for line in group)
        dtype = str(_DTYPES.get(first["dtype"], first["dtype"]))
        lines.append([first["name"], first["shape"], dtype, first["ours"], figure(first["ours_ms"]), limit, peers])
    return columns(lines)


def _memory(line: Mapping[str, Any]) -> str:
    ours, theirs = line["ours_peak_bytes"], line["peer_peak_bytes"]
    return f" ({figure(theirs / ours)} x the memory)" if ours and theirs else ""


def _failures(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    if not failures:
        return []
    rows = [[f["name"], f["shape"], f["dtype"], f["candidate"], f["why"]] for f in failures]
    return [f"these disagree or fail, and were not timed:\n{columns(rows)}"]
