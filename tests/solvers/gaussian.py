"""What the tests of solvers share: paths, solvers, and a Gaussian whose prediction and flow are known.

Data N(m, s^2) on a path alpha, sigma: x_t is N(alpha m, v) with v = alpha^2 s^2 + sigma^2, and

    E[x | x_t]   = m + alpha s^2 / v (x_t - alpha m)
    E[eps | x_t] = sigma / v (x_t - alpha m)

The probability flow moves x_t with its quantile: (x_t - alpha m) / sqrt(v) is constant.

A new path or solver is tested by adding it to PATHS, or to LINEAR or NONLINEAR.
"""

from functools import partial

from gensys import targets
from gensys.paths import EDM, VE, VP, Cosine, Discrete, Linear, SubVP, cosine_schedule, linear_schedule
from gensys.paths import zero_terminal_snr as to_pure_noise
from gensys.solvers import (
    ancestral,
    churn,
    ddim,
    dopri5,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    euler,
    euler_maruyama,
    heun,
    multistep_consistency,
    plms,
    predictor_corrector,
    rk4,
    unipc,
)
from gensys.targets import Prediction

PATHS = [
    Linear(),
    Cosine(),
    VP(),
    SubVP(),
    VE(),
    EDM(),
    Discrete(linear_schedule()),
    Discrete(cosine_schedule(50)),
    Discrete(to_pure_noise(linear_schedule())),
]
LINEAR = {
    "ancestral": ancestral,
    "ancestral, large": partial(ancestral, variance="large"),
    "churn": partial(churn, amount=4.0),
    "ddim": ddim,
    "ddim eta 0.5": partial(ddim, eta=0.5),
    "ddim eta 1": partial(ddim, eta=1.0),
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "euler": euler,
    "euler_maruyama": euler_maruyama,
    "heun": heun,
    "multistep_consistency": multistep_consistency,
    "plms": plms,
    "rk4": rk4,
    "unipc 1": partial(unipc, order=1),
    "unipc": unipc,
    "unipc 3": partial(unipc, order=3),
    "unipc 3, no corrector": partial(unipc, order=3, corrector=False),
}
NONLINEAR = {"dopri5": dopri5, "predictor_corrector": predictor_corrector}
NEEDS_DATA = {"euler_maruyama", "predictor_corrector"}  # no drift at alpha = 0
MEAN, STD = 0.7, 0.4


def target_of(path):
    """One that holds on the whole span, at the paths' infinite derivatives too."""
    return (
        targets.velocity if isinstance(path, Linear) else targets.v if path(path.span[1]).alpha < 1 else targets.EDM()
    )


def grid(path, name, fractions):
    """On the path's clock; a little later than pure noise for a solver that needs some data."""
    low, high = path.span
    scale = 0.999 if name in NEEDS_DATA and path(high).alpha == 0 else 1.0
    return [low + (high - low) * scale * f for f in fractions]


def exact(path, x, t):
    c = path(t)
    v = (c.alpha * STD) ** 2 + c.sigma**2
    z = x - c.alpha * MEAN
    return Prediction(MEAN + c.alpha * STD**2 / v * z, c.sigma / v * z)


def flow(path, x, t, s):
    """Where the probability flow takes x from t to s."""
    a, b = path(t), path(s)
    spread = (((b.alpha * STD) ** 2 + b.sigma**2) / ((a.alpha * STD) ** 2 + a.sigma**2)) ** 0.5
    return b.alpha * MEAN + spread * (x - a.alpha * MEAN)


def no_noise(k):
    raise AssertionError("a deterministic solver asked for noise")
