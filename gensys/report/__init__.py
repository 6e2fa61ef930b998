"""The report of a run: one HTML file that shows everything the run's folder holds, and needs nothing else.

reading.py    what is in the folder, read forgivingly: a damaged file becomes a sentence in the report
scores.py     metrics and protocol as rows of tables
figures.py    pictures as data URIs; curves and intervals as inline SVG that follows light and dark
recipe.py     the exact command lines that make the run again
page.py       write_report: the parts above, put into report.html.j2
animation.py  draw_trajectory, add_trajectory: the animation of sampling that the report shows
"""

from __future__ import annotations

from gensys.report.animation import add_trajectory, draw_trajectory
from gensys.report.page import write_report

__all__ = ["add_trajectory", "draw_trajectory", "write_report"]
