"""Write docs/results.md and docs/demo.png from runs of the demo: python docs/results.py runs/demo-1 runs/demo-2 ...

Nothing in that page is typed by hand; it says when, on what and under which protocol its figures were taken.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def _read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def _row(name: str, scores: list[dict[str, Any]]) -> str:
    values = [s[name]["value"] for s in scores]
    floors = [s[name]["floor"] for s in scores]
    known = [f for f in floors if f and f > 0]  # an unbiased distance may be below 0: of that there is no multiple
    ratio = f"{statistics.mean(values) / statistics.mean(known):.2f}" if len(known) == len(values) else ""
    spread = scores[0][name]["spread"]
    floor = "" if floors[0] is None else f"{floors[0]:.4g}" + (f" ± {spread:.2g}" if spread else "")
    shown = " | ".join(f"{v:.4g}" for v in values)
    low, high = scores[0][name]["low"], scores[0][name]["high"]
    interval = "" if low is None else f"{low:.4g}..{high:.4g}"
    return f"| `{name}` | {shown} | {interval} | {floor} | {ratio} | {scores[0][name]['better']} |"


def _times(stage: str, detail: str, runs: list[list[dict[str, Any]]]) -> str:
    seconds = [f"{row['seconds']:.1f}" for run in runs for row in run if row["stage"] == stage]
    return f"| {stage} | {' | '.join(seconds)} | {detail} |"


def main(runs: list[Path]) -> None:
    evaluations = [_read(run, "evaluation.json") for run in runs]
    scores = [e["metrics"] for e in evaluations]
    stages = [_read(run, "stages.json") for run in runs]
    totals = [sum(stage["seconds"] for stage in run) for run in stages]
    heads = " | ".join(f"run {k + 1}" for k in range(len(runs)))
    line = "|---" * (len(runs) + 1) + "|"
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    about = {stage["stage"]: stage["detail"] for stage in stages[0]}
    text = [
        "# What the demo measures",
        "",
        f"Written on {date.today()} by `python docs/results.py`, from {count} of `make demo` on one machine.",
        "",
        "## Figures",
        "",
        f"| metric | {heads} | 95 % interval of run 1 | real data | value / real | better |",
        line + "---|---|---|---|",
        *(_row(name, scores) for name in scores[0]),
        "",
        *(f"- `{name}`: {metric['about']}" for name, metric in scores[0].items()),
        "",
        "`real data` is what other real images score under the same protocol, at the same number of images.",
        "",
        "## Seconds",
        "",
        f"| stage | {heads} | |",
        line + "---|",
        *(_times(name, detail, stages) for name, detail in about.items()),
        f"| **all stages** | {' | '.join(f'**{total:.0f}**' for total in totals)} | |",
        "",
        "## Protocol of run 1",
        "",
        *(f"- {name}: {value}" for name, value in evaluations[0]["protocol"].items()),
        "",
        "## Machine",
        "",
        *(f"- {name}: {value}" for name, value in _read(runs[0], "env.json").items()),
        "",
    ]
    (HERE / "results.md").write_text("\n".join(text))
    shutil.copy(runs[0] / "samples.png", HERE / "demo.png")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
