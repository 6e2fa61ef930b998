"""Write docs/performance.md from what `gensys bench SUITE --json FILE` wrote: python docs/performance.py FILE ...

Runs of one suite are shown side by side. Nothing in that page is typed by hand, but for the reasons beside the marks
that are not met, which are in gensys/bench/marks.py.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from gensys.bench.marks import ITSELF, MARKS, Mark, found, met
from gensys.bench.report import about_limits, about_machine, about_protocol, figure, grouped

HERE = Path(__file__).parent
TITLES = {
    "kernels": "Kernels",
    "sampling": "A step of sampling",
    "training": "A step of training",
    "encode": "Encoding",
    "io": "Reading",
}
Run = Mapping[str, Any]


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    several = [run for run in runs if run["protocol"]["threads"] > 1]
    single = [run for run in runs if run["protocol"]["threads"] == 1]
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    text = [
        "# What the benchmarks measure",
        "",
        f"Written on {date.today()} by `python docs/performance.py`, from {count} of `gensys bench`.",
        "",
        "A ratio says how many times as long another candidate takes for the same job: above 1, gensys is faster. All "
        "candidates of a row were given the same numbers and checked against float64 before they were timed, in turns. "
        "Several figures in a cell are those of several runs.",
        "",
        "- `fresh`: the result is allocated, by all candidates. `out=`: ours writes into a tensor that is there, while "
        "the others, which have no such form, allocate: the page faults of large results are then theirs alone.",
        "- `torch.randn alone` does a part of the job. `vector-quantize-pytorch` is its whole layer, which also "
        "looks the codes up and writes a one-hot matrix.",
        "- The DiT of diffusers embeds time and label anew in every block, with weights of its own: a part of what it "
        "takes in time and memory.",
        '- "of limit" is the share of what a plain copy, or multiply-adds of registers, reach in the same run. What '
        "moves its data in a better way than torch's copy may pass it.",
        "- In float32 much of what a linear layer wins comes from oneDNN, which ours call and torch's `F.linear` does "
        "not: on a processor by AMD, as here, MKL leaves AVX-512 alone.",
        "",
        *_marks(single, several),
    ]
    for suite, title in TITLES.items():
        for group, end in ((single, ""), (several, ", several threads")):
            chosen = [run for run in group if run["suite"] == suite]
            if chosen:
                text += [f"## {title}{end}", "", *_table(chosen), ""]
    text += ["## Protocol, machine and limits", ""]
    for number, run in enumerate(runs, 1):
        text += [
            f"{number}. `{run['suite']}`",
            f"    - {about_protocol(run['protocol'])}",
            f"    - {about_machine(run['machine'])}",
            f"    - {about_limits(run['limits'])}",
        ]
    return "\n".join([*text, ""])


def _marks(single: Sequence[Run], several: Sequence[Run]) -> list[str]:
    """What was aimed at; a mark counts as met if the median of the runs meets it."""
    lines = ["## Marks", "", "| row | figure | aim | measured | |", "|---|---|---|---|---|"]
    for mark in MARKS:
        runs = several if mark.peer == ITSELF else single
        values = [value for run in runs if (value := found(mark, run["rows"])) is not None]
        row = " ".join(part for part in (mark.row, mark.shape, mark.dtype, mark.ours) if part)
        aim = f"{'at most' if mark.what == 'ours_error' else 'at least'} {_valued(mark, mark.bound)}"
        measured = " ".join(_valued(mark, value) for value in values)
        lines.append(f"| {row} | {_subject(mark)} | {aim} | {measured} | {_verdict(mark, values)} |")
    return [*lines, ""]


def _subject(mark: Mark) -> str:
    """What a mark is about, in words."""
    if mark.what == "limit_fraction":
        return "share of the machine's limit"
    if mark.what == "ours_error":
        return "results that differ from float64"
    return f"{'memory' if mark.what == 'memory' else 'time'} of {mark.peer} / ours"


def _valued(mark: Mark, value: float) -> str:
    return f"{value:.0%}" if mark.what == "limit_fraction" else figure(value)


def _verdict(mark: Mark, values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    return "met" if met(mark, statistics.median(values)) else f"**not met**{': ' * bool(mark.ceiling)}{mark.ceiling}"


def _table(runs: Sequence[Run]) -> list[str]:
    """The rows of one suite; what several runs measured stands side by side."""
    lines = ["| row | shape | dtype | ours | ms | of limit | times as long |", "|---|---|---|---|---|---|---|"]
    by_run = [
        {_key(group[0]): {line["peer"]: line for line in group} for group in grouped(run["rows"])} for run in runs
    ]
    for key in dict.fromkeys(key for groups in by_run for key in groups):
        there = [groups[key] for groups in by_run if key in groups]
        first = [next(iter(group.values())) for group in there]
        limit = first[0]["limit"] or ""
        shares = " ".join(f"{line['limit_fraction']:.0%}" for line in first if line["limit_fraction"] is not None)
        peers = [f"{peer} {_ratios(peer, there)}" for peer in there[0]]
        cells = [
            *key,
            " ".join(figure(line["ours_ms"]) for line in first),
            f"{shares} {limit}".strip(),
            ", ".join(peers),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _key(line: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return line["name"], line["shape"], line["dtype"], line["ours"]


def _ratios(peer: str, groups: Iterable[Mapping[str, Mapping[str, Any]]]) -> str:
    lines = [group[peer] for group in groups if peer in group]
    memory = [line["peer_peak_bytes"] / line["ours_peak_bytes"] for line in lines if line["peer_peak_bytes"]]
    more = f" ({' '.join(figure(value) for value in memory)} x the memory)" if memory else ""
    return " ".join(f"{figure(line['ratio'])}" for line in lines) + more


def main(files: Sequence[Path]) -> None:
    (HERE / "performance.md").write_text(page([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
