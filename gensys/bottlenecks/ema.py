"""A codebook that follows its latents by moving averages instead of gradients.

    N_k <- g N_k + (1 - g) n_k,     m_k <- g m_k + (1 - g) sum of the latents of code k,     e_k = m_k / N_k

n_k: how many latents of the batch have code k. van den Oord, Vinyals and Kavukcuoglu, 2017, "Neural discrete
representation learning", arXiv:1711.00937, appendix A.1, equations 6 to 8; as there, N_k in e_k is smoothed after
Laplace, (N_k + a) / (n + K a) n with n = sum of N, so that a code nobody takes is divided by more than nothing.

Here n_k and the sums are divided by the number of latents in the batch. That changes no e_k, and makes the averages of
a batch the mean of those of its parts: several workers keep the same codebook as one (see `Generative`). For that
reason e_k is no state of its own, and what revives a code is decided from the averages alone, never from latents.

A code whose share falls below `revive` of a fair one is dead: it takes half of the load of the most used one, from a
place beside it (the splitting of Linde, Buzo and Gray, 1980, "An algorithm for vector quantizer design"). The first
batch sets the codebook by k-means.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensys.bottlenecks.vq import Quantised, check_latents, check_sizes, nearest, straight_through
from gensys.kernels.vq_nearest import vq_nearest
from gensys.noise import Noise, Stream

__all__ = ["EmaQuantiser", "kmeans"]

_SPLIT = 0.01  # how far apart the halves of a split code begin, in lengths of it: the latents decide the rest
_ROUNDS = 10  # of k-means: it only has to spread the codes, training goes on from there


def kmeans(latents: Tensor, codes: int, rounds: int = _ROUNDS) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on latents (N, D): centres (K, D), counts (K,).

    It begins with k-means++: each centre is a latent, drawn with a probability that grows with the square of its
    distance from those before it (Arthur and Vassilvitskii, 2007, section 2.2); the draws are always the same. A centre
    that no latent is nearest to stays where it is. With fewer different latents than codes some centres are equal.
    """
    rows = latents.shape[0]
    if rows == 0:
        raise ValueError("'latents' is empty: a codebook begins with those of a batch")
    u = Noise(0, torch.arange(codes, device=latents.device)).uniform((), Stream.INITIAL)
    index = (u[:1] * rows).long().clamp(max=rows - 1)
    centres, distance = latents[index], latents.new_full((rows,), torch.inf)
    for k in range(1, codes):
        distance = torch.minimum(distance, (latents - centres[-1]).square().sum(1))
        ends = distance.double().cumsum(0)
        index = torch.searchsorted(ends, u[k : k + 1] * ends[-1]).clamp(max=rows - 1)
        centres = torch.cat([centres, latents[index]])
    counts = latents.new_zeros(codes)
    for _ in range(rounds):
        counts, sums = _tally(latents, vq_nearest(latents, centres), codes)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1.0)[:, None], centres)
    return centres, counts


def _tally(latents: Tensor, index: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """How many latents (N, D) each code has, (K,), and their sums, (K, D)."""
    counts = torch.bincount(index, minlength=codes).to(latents.dtype)
    return counts, latents.new_zeros(codes, latents.shape[1]).index_add_(0, index, latents)


class EmaQuantiser(nn.Module):
    """`codes` vectors of `dim` numbers, without parameters: what it knows is in buffers, and changes in training only.

    decay: g above. smoothing: a, as a share of a batch. revive: the part of a fair share, 1 / codes, below which a code
    is dead; 0 = codes may die.
    """

    counts: Tensor
    sums: Tensor
    begun: Tensor

    def __init__(
        self, codes: int, dim: int, *, decay: float = 0.99, smoothing: float = 1e-6, revive: float = 0.1
    ) -> None:
        super().__init__()
        check_sizes(codes, dim)
        if not 0.0 <= decay < 1.0 or smoothing < 0.0 or not 0.0 <= revive < 1.0:
            raise ValueError(
                f"'decay' and 'revive' must lie in [0, 1) and 'smoothing' not be negative, got {decay}, {revive} and "
                f"{smoothing}"
            )
        self.size, self.dim = codes, dim
        self.decay, self.smoothing, self.revive = decay, smoothing, revive
        share = 1.0 / codes
        self.register_buffer("counts", torch.full((codes,), share))
        self.register_buffer("sums", torch.empty(codes, dim).uniform_(-share, share) * share)  # see `VectorQuantiser`
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))  # whether k-means has been

    @property
    def codebook(self) -> Tensor:
        """e, (K, D) float32."""
        return self.sums.float() / self._smoothed(self.counts.float())[:, None]

    def _smoothed(self, counts: Tensor) -> Tensor:
        total = counts.sum()
        return (counts + self.smoothing) / (total + self.size * self.smoothing) * total

    def forward(self, z: Tensor) -> Quantised:
        """z: (B, D, *S). In training the averages move after the codes were chosen."""
        check_latents(z, self.dim)
        z = z.float()
        latents = z.detach().movedim(1, -1).flatten(0, -2)
        if self.training:
            self._prepare(latents)
        codebook = self.codebook
        codes = nearest(z, codebook)
        chosen = F.embedding(codes, codebook).movedim(-1, 1)
        if self.training:
            self._follow(latents, codes.flatten())
        return Quantised(
            z=straight_through(z, chosen),
            codes=codes,
            codebook=z.new_zeros(()),  # learnt without a gradient
            commitment=(z - chosen).square().mean(),
        )

    @torch.no_grad()
    def _prepare(self, latents: Tensor) -> None:
        """Set the codebook at the first batch; later, revive what is dead."""
        if not bool(self.begun):
            centres, counts = kmeans(latents, self.size)
            share = (counts + 1.0) / (counts.sum() + self.size)  # a centre without latents is not dead at once
            self.counts.copy_(share)
            self.sums.copy_(centres * self._smoothed(share)[:, None])
            self.begun.fill_(1)
        elif self.revive:
            self._split()

    def _split(self) -> None:
        """Each dead code, from the least used on, and one of the most used ones become two halves of the latter."""
        order = self.counts.argsort(stable=True)
        dead = int((self.counts < self.revive / self.size).sum())
        few = order[: min(dead, self.size // 2)]
        many = order.flip(0)[: len(few)]
        if not len(few):
            return
        codebook, half = self.codebook, 0.5 * self.counts[many]
        places = codebook[many]
        self.counts[many], self.counts[few] = half, half
        weight = self._smoothed(self.counts)[:, None]
        self.sums[many] = places * (1.0 + 0.5 * _SPLIT) * weight[many]
        self.sums[few] = places * (1.0 - 0.5 * _SPLIT) * weight[few]

    @torch.no_grad()
    def _follow(self, latents: Tensor, index: Tensor) -> None:
        counts, sums = _tally(latents, index, self.size)
        rows = max(1, latents.shape[0])
        self.counts.lerp_((counts / rows).to(self.counts.dtype), 1.0 - self.decay)
        self.sums.lerp_((sums / rows).to(self.sums.dtype), 1.0 - self.decay)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors with these numbers: (B, *S) int64 -> (B, D, *S)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def shape(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        return grid

    def grids(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (grid,)
