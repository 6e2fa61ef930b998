"""Models of codes: every code is drawn given those before it, grid after grid, in raster order.

    log p(codes | cond) = sum over grids l and places t of log p(code_lt | codes_l before t, grids before l, cond)

It is exact, by the chain rule. A residual quantiser's codes are several grids of one size, a hierarchical one's are of
growing sizes, and most have one grid. van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete representation
learning", arXiv:1711.00937, section 3.3 (the prior); Razavi, van den Oord and Vinyals, 2019, "Generating diverse
high-fidelity images with VQ-VAE-2", arXiv:1906.00446, section 3.2 (the hierarchy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import ModuleList
from torch.nn.functional import cross_entropy

from gensys.core import Batch, Cond, Generative, Loss
from gensys.families.diffusion import BY_ROW
from gensys.guidance import drop, without
from gensys.kernels.linear import frozen
from gensys.nn.gpt import GPT
from gensys.noise import Noise, Stream
from gensys.objectives.nll import nll

__all__ = ["Choice", "Tokens"]


@dataclass(frozen=True)
class Choice:
    """How a code is chosen by its logits. All knobs but guidance make samples likelier and less diverse than the model.

    temperature: logits are divided by it; 0 = the likeliest code always. top_k: only the k likeliest codes; 0 = all
    (Fan, Lewis and Dauphin, 2018, arXiv:1805.04833, section 5.4). top_p: of those, only as many of the likeliest as
    have this probability together (Holtzman, Buys, Du, Forbes and Choi, 2019, arXiv:1904.09751, section 3.1).
    guidance: logits = unconditional + guidance (conditional - unconditional); 1 = the conditional model (Gafni et al.,
    2022, "Make-A-Scene", arXiv:2203.13131, section 3.4).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"'temperature' must be 0 or more and finite, got {self.temperature}")
        if self.top_k < 0 or not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                f"'top_k' must be 0 (all codes) or more and 'top_p' lie in (0, 1], got {self.top_k} and {self.top_p}"
            )
        if not math.isfinite(self.guidance):
            raise ValueError(f"'guidance' must be finite, got {self.guidance}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, K) -> (B, K) float64: with what probability each code is chosen."""
        logits = logits.double()
        if self.temperature == 0.0:
            return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
        logits = logits / self.temperature
        if not self.top_k and self.top_p == 1.0:
            return logits.softmax(1)
        logits, order = logits.sort(dim=1, descending=True, stable=True)
        if self.top_k:
            logits[:, self.top_k :] = -math.inf
        p = logits.softmax(1)
        before = p.cumsum(1) - p  # of likelier codes: 0 for the first, which always stays
        p = p.masked_fill(before >= self.top_p, 0.0) if self.top_p < 1.0 else p
        return torch.empty_like(p).scatter_(1, order, p / p.sum(1, keepdim=True))

    def draw(self, logits: Tensor, u: Tensor) -> Tensor:
        """The code at which the cumulative probability passes u, uniform in (0, 1): (B, K), (B,) -> (B,) int64."""
        ends = self.probabilities(logits).cumsum(1)
        # The first end above u: codes of probability 0 end where the one before them does. u times the last end, as it
        # is 1 up to rounding only.
        return torch.searchsorted(ends, u.double()[:, None] * ends[:, -1:], right=True)[:, 0]


class Tokens(Generative):
    """nets: one for each grid, from coarse to fine, given the grids before it. shape: of one datum, whose numbers in
    order are the codes of all grids.

    dropout: the probability that a row is trained without its condition, for guidance.
    """

    full_precision = True  # logits are of full precision

    def __init__(
        self, nets: Sequence[GPT], shape: tuple[int, ...], *, dropout: float = 0.0, choice: Choice = Choice()
    ) -> None:
        super().__init__()
        counts = [net.tokens for net in nets]
        if sum(counts) != math.prod(shape):
            raise ValueError(f"'nets' are of {' + '.join(map(str, counts))} codes, and 'shape' {shape} holds others")
        self.nets, self.shape, self.dropout, self.choice = ModuleList(nets), shape, dropout, choice

    def _nets(self) -> Sequence[GPT]:
        return cast("Sequence[GPT]", self.nets)

    @property
    def conditions(self) -> frozenset[str]:
        """What the networks take, and "guidance" and "seed" row by row; see `sample`."""
        return BY_ROW.union(*(net.conditions for net in self._nets()))

    @property
    def evaluations(self) -> int:
        """A pass for every code, of one place each."""
        return math.prod(self.shape) * (1 if self.choice.guidance == 1.0 else 2)

    def grids(self, x: Tensor) -> Sequence[Tensor]:
        """(B, *shape) -> the codes of each grid, (B, T). Raises ValueError for another shape or what are no codes."""
        if tuple(x.shape[1:]) != self.shape or x.is_floating_point():
            raise ValueError(f"'x' must be codes, int64 (B, *{self.shape}), got {tuple(x.shape)} of {x.dtype}")
        return x.flatten(1).long().split([net.tokens for net in self._nets()], 1)

    def log_prob(self, x: Tensor, cond: Cond) -> Tensor:
        """log p(x | cond) in nats, (B,): of codes, exact."""
        grids = self.grids(x)
        total = x.new_zeros(len(x), dtype=torch.float64)
        for k, (net, codes) in enumerate(zip(self._nets(), grids, strict=True)):
            logits = net(codes, cond, grids[:k])
            total = total - cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1)
        return total

    def loss(self, batch: Batch, noise: Noise, player: str) -> Loss:
        """The mean negative log-likelihood, in nats per code; the term "bits" is in bits per code."""
        cond = drop(batch.cond, noise, self.dropout if self.training else 0.0)
        return nll(self.log_prob(batch.x, cond), math.prod(self.shape))

    @torch.no_grad()
    def sample(self, cond: Cond, noise: Noise) -> Tensor:
        """Codes, (B, *shape) int64: each by a uniform number of its own, a function of (seed, id, place).

        Besides what the networks are conditioned on, cond may hold "guidance", (B,), and "seed", (B,) int64: a scale
        and a seed for each row in place of the choice's and the noise's.
        """
        u, rows = self._uniforms(cond, noise), len(noise.ids)
        scale = cond["guidance"][:, None].float() if "guidance" in cond else self.choice.guidance
        cond = {name: value for name, value in cond.items() if name not in BY_ROW}
        guided = bool(cond) and (isinstance(scale, Tensor) or scale != 1.0)
        # one after the other, not as a batch of twice the rows, which might round otherwise: at a scale of 1 the bits
        # are those of the conditional model
        conds, drawn = [cond, without(cond)] if guided else [cond], list[Tensor]()
        with frozen():  # weights are cast for autocast once, not at every code
            for net, mine in zip(self._nets(), u.split([net.tokens for net in self._nets()], 1), strict=True):
                decodings, codes = [net.decoding(c, drawn, rows) for c in conds], list[Tensor]()
                for t in range(net.tokens):
                    logits, *reference = [decoding.next(codes[-1] if t else None) for decoding in decodings]
                    if reference:
                        logits = scale * logits + (1.0 - scale) * reference[0]
                    codes.append(self.choice.draw(logits, mine[:, t]))
                drawn.append(torch.stack(codes, 1))
        return torch.cat(drawn, 1).view(rows, *self.shape)

    def _uniforms(self, cond: Cond, noise: Noise) -> Tensor:
        """One for each code, (B, codes), from the seed of each row where it has one."""
        count = (math.prod(self.shape),)
        if "seed" not in cond:
            return noise.uniform(count, Stream.PRIOR)
        pairs = zip(cond["seed"].tolist(), noise.ids.split(1), strict=True)
        return torch.cat([Noise(seed, row, noise.step).uniform(count, Stream.PRIOR) for seed, row in pairs])
