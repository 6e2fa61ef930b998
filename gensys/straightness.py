"""How straight a flow is, what it carries how far, and what a solver pays for its bends.

    x_0 = where the flow takes x_1 = eps,   d = x_1 - x_0,   v_t = dx_t/dt

    transport cost   E |d|^2
    path energy      E integral |v_t|^2 dt
    straightness     S = E integral |d - v_t|^2 dt = path energy - transport cost;   0 = straight: one step is exact

Of all flows between two laws, that of optimal transport has the least energy, the squared 2-Wasserstein distance of the
laws (Benamou and Brenier, 2000, "A computational fluid mechanics solution to the Monge-Kantorovich mass transfer
problem").

Liu, Gong and Liu, 2022, "Flow straight and fast", arXiv:2209.03003, theorems 3.5 (the cost) and 3.7 (S).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gensys import targets
from gensys.core import Cond, Generative
from gensys.families.diffusion import Diffusion
from gensys.families.mapped import prior_of
from gensys.noise import Noise
from gensys.paths import Linear, Path
from gensys.solvers.dopri5 import by_rows
from gensys.solvers.euler import drift
from gensys.solvers.solver import Draw, Predict, tensors_only
from gensys.targets import Prediction

__all__ = ["Straightness", "flow_of", "require_pairs", "straightness"]


class Straightness(NamedTuple):
    """Of every row, (B,) float64; squares are summed over the elements of a datum, and their means are what is told.

    cost, energy: see above. one_step: |x_0 by a single step of Euler - x_0|^2. evaluations: network calls of dopri5.
    """

    cost: Tensor
    energy: Tensor
    one_step: Tensor
    evaluations: Tensor

    @property
    def straightness(self) -> Tensor:
        """integral |d - v_t|^2 dt."""
        return self.energy - self.cost


def flow_of(model: Generative) -> Diffusion:
    """The flow that a model draws by, before a codec decodes its samples.

    Raises: ValueError if it is no flow along straight lines: another path or target, or another family.
    """
    flow = prior_of(model)
    if not isinstance(flow, Diffusion):
        raise ValueError(f"a flow is wanted, got {type(flow).__name__}: train flow_matching, ot_cfm or rectified_flow")
    path, target = flow.denoiser.path, flow.denoiser.target
    if not isinstance(path, Linear) or target is not targets.velocity:
        name = getattr(target, "__name__", repr(target))
        raise ValueError(
            f"a flow with the path Linear() and the target velocity is wanted, got {path} and {name}: train "
            "flow_matching, ot_cfm or rectified_flow"
        )
    return flow


def require_pairs(flow: Diffusion) -> None:
    """Refuse a sampler whose samples are no function of the noise that they begin with. Raises: ValueError."""
    sampler, drawn = flow.sampler, list[int]()

    def draw(k: int) -> Tensor:
        drawn.append(k)
        return torch.zeros(1, *flow.shape)

    if sampler.fractions[0] != 1.0:
        raise ValueError(f"its grid begins at t = {sampler.fractions[0]:g}, and noise is at 1: choose another 'grid'")
    sampler.solver(
        lambda x, t: Prediction(x, x), flow.denoiser.path, torch.zeros(1, *flow.shape), sampler.fractions, draw
    )
    if drawn:
        raise ValueError("its solver adds fresh noise, so that a sample has no one noise: give solver=heun and eta=0")


def straightness(
    model: Generative, cond: Cond, noise: Noise, *, steps: int = 50, rtol: float = 1e-5, atol: float = 1e-5
) -> Straightness:
    """Measure the flow of a model from the noise of each id, with the model's guidance.

    steps: of the midpoint rule, for everything but `evaluations`; then d is the mean of the slopes at midpoints, and S
    their variance along the way, exactly. rtol, atol: of dopri5.

    Raises: ValueError as `flow_of`; ArithmeticError as `integrate`.
    """
    if steps < 1:
        raise ValueError(f"'steps' must be at least 1, got {steps}")
    flow, found = flow_of(model), list[Straightness]()

    def walk(predict: Predict, path: Path, x: Any, times: Any, draw: Draw) -> Any:
        tensors_only("straightness", "looks at its states", x)
        y, d, energy, first = x, torch.zeros_like(x, dtype=torch.float64), x.new_zeros(x.shape[0]).double(), x
        for k in range(steps):
            v = drift(predict, path, y, 1.0 - k / steps)
            first = x - v if k == 0 else first
            v = drift(predict, path, y - v / (2 * steps), 1.0 - (k + 0.5) / steps)
            y = y - v / steps
            d, energy = d + v.double() / steps, energy + _square(v) / steps
        evaluations = by_rows(predict, path, x, 1.0, 0.0, rtol=rtol, atol=atol).evaluations
        found.append(Straightness(_square(d), energy, _square(first - y), evaluations.double()))
        return y

    sampler = replace(flow.sampler, solver=walk, fractions=(1.0, 0.0))
    Diffusion(flow.denoiser, flow.shape, sampler=sampler).sample(cond, noise)
    return found[-1]  # a model of another base has its solver walked before, to see whether it adds noise


def _square(x: Tensor) -> Tensor:
    """|x|^2 of each row, float64."""
    return x.double().flatten(1).square().sum(1)
