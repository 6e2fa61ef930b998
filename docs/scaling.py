"""Write docs/scaling.md: python docs/scaling.py SIMULATED [--reading READ] [--chaos FILE ...] [--to PAGE]

SIMULATED is what `python pipelines/simulate.py --json FILE` measured: what one driver does in a second; what 1,000 GPUs
ask of it is computed here, from the assumptions below. READ is of `gensys bench io --peers --json FILE`, each FILE of
`make chaos SEED=... JSON=FILE`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RATES = (50.0, 200.0, 1000.0)  # images a second that one GPU encodes: the encoder decides it, so three of them
EFFICIENT, OVERHEAD = 1.8, 0.05  # marks: two workers against one, Ray against the bare loop


@dataclass(frozen=True)
class Plan:
    """The job that is extrapolated to. rate: rows a second and GPU."""

    rate: float
    rows: float = 1e9
    gpus: int = 1000
    shard: int = 4096
    row_bytes: int = 2 * 4 * 32 * 32 * 2  # mean and log-variance, 4 x 32 x 32, float16

    @property
    def shards(self) -> float:
        return -(-self.rows // self.shard)

    @property
    def seconds(self) -> float:
        """How long the GPUs take if nothing holds them up."""
        return self.rows / (self.rate * self.gpus)

    @property
    def per_second(self) -> float:
        """Shards that end in a second."""
        return self.shards / self.seconds

    @property
    def bytes(self) -> float:
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Stage:
    """Something that happens once, in one place. seconds: it takes in all. share: of the time that the GPUs need."""

    name: str
    how: str
    remedy: str
    seconds: float
    share: float


def stages(plan: Plan, measured: Mapping[str, Any]) -> list[Stage]:
    """What one driver or one process has to do for all shards, the largest share first."""
    fastest = max(row["per_second"] for row in measured["handouts"])
    marks, largest = measured["markers"], measured["commits"][-1]
    scale = plan.shards / marks["shards"]
    found = [
        (
            "hand out shards",
            f"{fastest:,.0f} shards/s by one driver",
            "several shards in one call",
            plan.shards / fastest,
        ),
        (
            "look what is committed",
            f"{marks['scan_seconds']:.2f} s for {marks['shards']:,} markers, once a start",
            "an index of what is committed",
            marks["scan_seconds"] * scale,
        ),
        (
            "seal: collect the digests",
            f"{marks['seal_seconds']:.1f} s for {marks['shards']:,} markers",
            "markers compacted while the job goes on",
            marks["seal_seconds"] * scale,
        ),
        (
            "seal: normalisation statistics, the moments of all shards merged",
            f"{marks['merge_seconds']:.1f} s for {marks['shards']:,} shards",
            "moments of many shards in one file, written while the job goes on",
            marks["merge_seconds"] * scale,
        ),
        (
            "verify, where it is asked for",
            f"{largest['verify_bytes_per_second'] / 1e6:,.0f} MB/s by one process",
            "`verify` of ranges of shards by many processes: shards are independent",
            plan.bytes / largest["verify_bytes_per_second"],
        ),
    ]
    made = [Stage(name, how, remedy, seconds, seconds / plan.seconds) for name, how, remedy, seconds in found]
    return sorted(made, key=lambda stage: -stage.share)


def page(measured: Mapping[str, Any]) -> str:
    """The whole page."""
    machine = measured["machine"]
    text = ["# How far one driver goes", ""]
    text += [f"Written on {date.today()} by `python docs/scaling.py` from `python pipelines/simulate.py --json FILE`."]
    text += [
        f"Measured on {machine['cpu']}, {machine['cores']} cores, ray {machine['ray']}, torch {machine['torch']}; "
    ]
    text[-1] += f"load as each part began: {', '.join(f'{p} {n:.1f}' for p, n in measured['load'].items())}."
    text += ["", "**A quick run: the figures mean nothing.**"] if measured["quick"] else []
    text += ["", "## Measured", "", *_measured(measured), "", "## Marks", "", *_marks(measured), ""]
    text += ["## 10^9 latents on 1,000 GPUs", "", *_extrapolated(measured), ""]
    return "\n".join(text)


def _measured(measured: Mapping[str, Any]) -> list[str]:
    lines = [
        "| encoders that do nothing | shards handed out a second | CPU time of the driver, a shard |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['actors']} | {row['per_second']:,.0f} | {1e3 * row['driver_cpu_per_shard']:.2f} ms |"
        for row in measured["handouts"]
    ]
    busy = measured["busy"]
    ideal = busy["actors"] / busy["sleep"]
    lines += [
        "",
        f"{busy['actors']} encoders that sleep {1e3 * busy['sleep']:.0f} ms a shard get {busy['per_second']:,.0f} "
        f"shards a second, of {ideal:,.0f} that would keep them always busy.",
        "",
        "| rows of a shard | bytes | moments | commit | a plain file, flushed | ratio |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['rows']:,} | {row['bytes'] / 1e6:.1f} MB | {1e3 * row['moments_seconds']:.0f} ms | "
        f"{1e3 * row['commit_seconds']:.0f} ms | "
        f"{1e3 * row['write_seconds']:.0f} ms | {row['commit_seconds'] / row['write_seconds']:.1f} |"
        for row in measured["commits"]
    ]
    marks = measured["markers"]
    return [
        *lines,
        "",
        f"A store of {marks['shards']:,} shards: its markers are looked through in {marks['scan_seconds']:.2f} s "
        f"({marks['first_scan_seconds']:.2f} s the first time), which takes {marks['scan_memory_bytes'] / 1e6:.0f} MB; "
        f"the moments of its shards are read, checked and merged in {marks['merge_seconds']:.1f} s, "
        f"it is sealed in {marks['seal_seconds']:.1f} s, and opened in {1e3 * marks['open_seconds']:.0f} ms once "
        f"sealed. The driver had {measured['driver_bytes'] / 1e6:.0f} MB in the end.",
    ]


def _marks(measured: Mapping[str, Any]) -> list[str]:
    lines = ["| what | aim | measured | |", "|---|---|---|---|"]
    for name in ("encode", "sample"):
        row = measured[name]
        verdict = "met" if row["gain"] >= EFFICIENT else "**not met**"
        how = f"{row['gain']:.2f} x ({row['one']:.1f} s, {row['two']:.1f} s)"
        lines.append(
            f"| {name}: two workers against one, one thread each | at least {EFFICIENT} x | {how} | {verdict} |"
        )
    row = measured["overhead"]
    verdict = "met" if row["overhead"] <= OVERHEAD else "**not met**"
    what = f"Ray against the bare loop, shards of {row['shard_seconds']:.1f} s"
    return [*lines, f"| {what} | at most {OVERHEAD:.0%} | {row['overhead']:+.1%} | {verdict} |"]


def _extrapolated(measured: Mapping[str, Any]) -> list[str]:
    plan, largest = Plan(RATES[0]), measured["commits"][-1]
    done = largest["commit_seconds"] + largest["moments_seconds"]
    commit = done * plan.shard * plan.row_bytes / largest["bytes"]
    lines = [
        f"Assumed: {plan.rows:.0e} rows in shards of {plan.shard} ({plan.shards:,.0f} shards of "
        f"{plan.shard * plan.row_bytes / 1e6:.0f} MB, {plan.bytes / 1e12:.1f} TB in all): mean and log-variance of "
        f"4 x 32 x 32 in float16. {plan.gpus:,} GPUs that all encode at one rate, one driver, one file system that all "
        "reach and that takes what is written to it. What one process did in the measurement, it does in the large as "
        "well, and lists of files grow linearly.",
        "",
        "| images/s and GPU | GPUs alone take | shards a second | bytes a second | moments, commit: of its time |",
        "|---|---|---|---|---|",
    ]
    for rate in RATES:
        job = Plan(rate)
        lines.append(
            f"| {rate:,.0f} | {_time(job.seconds)} | {job.per_second:,.1f} | "
            f"{job.bytes / job.seconds / 1e9:.1f} GB | {commit / (job.shard / rate):.1%} |"
        )
    for rate in RATES:
        lines += [
            "",
            f"At {rate:,.0f} images a second and GPU, in one place:",
            "",
            *_table(stages(Plan(rate), measured)),
        ]
    return [*lines, "", *_conclusion(measured)]


def _table(found: Sequence[Stage]) -> list[str]:
    lines = ["| what | measured | takes | of the GPUs' time |", "|---|---|---|---|"]
    return lines + [f"| {s.name} | {s.how} | {_time(s.seconds)} | {s.share:.1%} |" for s in found]


def _conclusion(measured: Mapping[str, Any]) -> list[str]:
    lines = []
    for rate in RATES:
        first = stages(Plan(rate), measured)[0]
        lines.append(
            f"- {rate:,.0f} images a second and GPU: first *{first.name}* ({first.share:.1%} of the GPUs' time)."
        )
    fastest = max(row["per_second"] for row in measured["handouts"])
    limit = fastest * Plan(1.0).shard / Plan(1.0).gpus
    remedies = {s.name: s.remedy for rate in RATES for s in stages(Plan(rate), measured) if s.share > 0.01}
    return [
        "The first bottleneck, and what removes it:",
        "",
        *lines,
        "",
        *(f"- *{name}*: {remedy}." for name, remedy in remedies.items()),
        "",
        f"One driver that hands out single shards is enough up to {limit:,.0f} images a second and GPU; below, "
        "shards need not be batched: a call for several would make a lost worker cost several.",
    ]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _reading(found: Mapping[str, Any]) -> list[str]:
    """The rows of `gensys bench io`."""
    lines = ["| batches | ours | times as long take |", "|---|---|---|"]
    for name, shape in dict.fromkeys((row["name"], row["shape"]) for row in found["rows"]):
        rows = [row for row in found["rows"] if (row["name"], row["shape"]) == (name, shape)]
        peers = ", ".join(f"{row['peer']} {row['ratio']:.3g}" for row in rows)
        lines.append(f"| {name}, {shape} float16 | {rows[0]['ours_ms']:.3f} ms | {peers} |")
    timed = found["protocol"]["timed"]
    return ["", "## Reading", "", f"Batches of latents in the page cache, one thread, {timed} time:", "", *lines]


def _chaos(books: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `make chaos` did and found."""
    lines = ["| seed | SIGKILL | SIGSTOP, SIGCONT | disk full | new starts of the driver | bytes that differ | took |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for book in books:
        events = [event["kind"] for job in book["jobs"] for event in job["events"]]
        starts = sum(len(job["said"]) - 1 for job in book["jobs"])
        wrong = sum(len(job["left"][name]) for job in book["jobs"] for name in ("lost", "extra", "differing", "twice"))
        longest = max(job["seconds"] for job in book["jobs"])
        counts = [events.count(kind) for kind in ("SIGKILL", "SIGSTOP, SIGCONT", "disk full")]
        lines.append(f"| {book['seed']} | {' | '.join(map(str, counts))} | {starts} | {wrong} | {_time(longest)} |")
    text = (
        "Encoding, exact training and sampling, side by side on two workers each, disturbed as their progress allows; "
    )
    text += "then every row is counted and every byte compared with what a quiet run leaves (`make chaos`):"
    return ["", "## Faults", "", text, "", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/scaling.md.")
    parser.add_argument("simulated", type=Path)
    parser.add_argument("--reading", type=Path)
    parser.add_argument("--chaos", type=Path, nargs="*", default=[])
    parser.add_argument("--to", type=Path, default=HERE / "scaling.md")
    asked = parser.parse_args()
    text = page(json.loads(asked.simulated.read_text())).rstrip().splitlines()
    text += _reading(json.loads(asked.reading.read_text())) if asked.reading else []
    text += _chaos([json.loads(file.read_text()) for file in asked.chaos]) if asked.chaos else []
    asked.to.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
