"""Solvers: from noise to data along a path, each a plain function (see solver.py)."""

from gensys.solvers.ddim import ddim
from gensys.solvers.dpmpp import dpmpp_2m
from gensys.solvers.euler import euler
from gensys.solvers.heun import heun
from gensys.solvers.solver import Solver

__all__ = ["Solver", "ddim", "dpmpp_2m", "euler", "heun"]
