"""Solvers: from noise to data along a path, each a plain function (see solver.py)."""

from gensys.solvers.ancestral import ancestral
from gensys.solvers.churn import churn
from gensys.solvers.ddim import ddim
from gensys.solvers.dopri5 import dopri5
from gensys.solvers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde
from gensys.solvers.euler import euler
from gensys.solvers.heun import heun
from gensys.solvers.multistep_consistency import multistep_consistency
from gensys.solvers.plms import plms
from gensys.solvers.reverse_sde import euler_maruyama, predictor_corrector
from gensys.solvers.rk4 import rk4
from gensys.solvers.solver import Solver
from gensys.solvers.unipc import unipc

__all__ = [
    "Solver",
    "ancestral",
    "churn",
    "ddim",
    "dopri5",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "euler",
    "euler_maruyama",
    "heun",
    "multistep_consistency",
    "plms",
    "predictor_corrector",
    "rk4",
    "unipc",
]
