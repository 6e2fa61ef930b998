"""The report of a run, or of several: one HTML file that shows everything their folders hold, and needs nothing else.

reading.py    what is in the folder, read forgivingly: a damaged file becomes a sentence in the report
scores.py     metrics and protocol as rows of tables
weights.py    whose weights the samples are of, and whether the metrics are of these samples
figures.py    pictures as data URIs
plots.py      curves, intervals and maps as inline SVG that follows light and dark
card.py       what the run was trained on; cost.py: what every stage has cost
recipe.py     the exact command lines that make the run again
page.py       write_report: the parts above, put into report.html.j2
protocol.py   which figures of several runs may be compared, and what differs
several.py    write_reports: runs side by side, put into several.html.j2
watch.py      the page of a run that is being trained, written again and again
latent_map.py, neighbours.py, tradeoff.py    what is made of samples and data once; cached.py: whether it still holds
animation.py  draw_trajectory, add_trajectory: the animation of sampling that the report shows
"""

from __future__ import annotations

from gensys.report.animation import add_trajectory, draw_trajectory
from gensys.report.cached import complete
from gensys.report.page import write_report
from gensys.report.several import write_reports
from gensys.report.watch import watch

__all__ = ["add_trajectory", "complete", "draw_trajectory", "watch", "write_report", "write_reports"]
