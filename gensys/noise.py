"""Counter-based noise: every random number of gensys is a function of (seed, sample id, step, stream, element).

Nothing else enters: no rank, no batch size, no call order. So sample 4711 is the same on one core and on a
cluster, a resumed run draws what the uninterrupted one would have drawn, and a test can ask for one row alone.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011, "Parallel random numbers: as easy as 1, 2, 3"):

    key     = (seed low, seed high)
    counter = (element // 4, id low, step, stream | id high << 8)      four 32-bit words give four elements

Normals come by Box and Muller (1958) from pairs of words. The logarithm, sine and cosine are written here with
correctly rounded operations only (+, -, *, /, sqrt, never a fused multiply-add), so that this file and the compiled
kernel (csrc/philox.h) return the same bits; which of the two runs is a matter of speed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from gensys import native

__all__ = ["MAX_ID", "Noise", "Stream", "philox", "philox_normal", "philox_uniform"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, the key's increments
_ROUNDS = 10
MAX_ID = 1 << 56  # the id has 32 + 24 bits of the counter


class Stream(IntEnum):
    """What a number is drawn for: draws of one sample at one step never meet if their streams differ."""

    INITIAL = 0  # x at the noisy end of a path, or the latent of a one-shot generator
    SOLVER = 1  # fresh noise inside a stochastic solver; step = the solver's step
    TIME = 2  # the training time t
    EPS = 3  # the training noise eps
    DROP = 4  # condition dropout
    POSTERIOR = 5  # a latent drawn from an encoder's posterior
    AUGMENT = 6  # data augmentation
    PRIOR = 7  # samples of a fixed prior
    ORDER = 8  # the order of the training data; the id's place holds the epoch
    PROBE = 9  # Hutchinson's probes of a divergence
    DEQUANTISE = 10  # where within its bin an integer lies
    INSTANCE = 11  # noise on what a critic sees
    HISTORY = 12  # whether a critic sees a sample of the generator, or of one as it was earlier
    PARTNER = 13  # which row of another domain a row is given
    TEXTURE = 15  # the noise inputs of a generator's layers
    STYLE = 16  # the latent of a second style in one sample
    MIXING = 17  # whether, and from which layer on, a sample has a second style
    OBSERVE = 20  # data drawn from what a decoder says of them
    CONSTANT = 21  # what a density learns in the place of an element that never changes


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b; int64 wraps modulo 2^64, and the mask undoes the arithmetic shift's sign."""
    product = b * a
    return (product >> 32) & _MASK, product & _MASK


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words in [0, 2^32) (int64 tensors of one shape) for a four-word counter and a 64-bit seed."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(seed: int, ids: Tensor, step: int, stream: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of every counter that covers elements 0..n-1 of each id: each (B, ceil(n / 4))."""
    quads = torch.arange((n + 3) // 4, device=ids.device)
    shape = (ids.shape[0], quads.shape[0])
    counter = (
        quads.expand(shape),
        (ids & _MASK)[:, None].expand(shape),
        torch.full(shape, step, device=ids.device),
        ((ids >> 32 << 8) | stream)[:, None].expand(shape),
    )
    return philox(counter, seed)


def _unit(word: Tensor) -> Tensor:
    """A word's upper 23 bits as the centre of one of 2^23 cells of (0, 1): exact in float32, never 0 or 1."""
    return ((word >> 9).float() + 0.5) * 2.0**-23


def _log(u: Tensor) -> Tensor:
    """ln u for u in (0, 1), float32: u = m 2^e with m in [1/sqrt 2, sqrt 2), ln m = 2 artanh((m - 1) / (m + 1)).

    The series is cut after s^9: |s| <= 0.172, so the remainder is below 3e-9 relative, less than half an ulp.
    """
    bits = u.view(torch.int32)
    e = (bits - 0x3F3504F3) >> 23  # 0x3F3504F3 = the bits of sqrt(1/2): the exponent counted from there
    m = (bits - (e << 23)).view(torch.float32)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = (((z * (1 / 9) + 1 / 7) * z + 1 / 5) * z + 1 / 3) * z * s + s
    return e.float() * math.log(2.0) + (series + series)


def _cos_sin(word: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) of an angle uniform on the circle: two bits choose the quadrant, 21 the angle within it.

    |x| < pi/4, where the Taylor series of degree 10 and 9 err by less than 4e-9.
    """
    x = (((word >> 9) & 0x1FFFFF).float() + 0.5) * 2.0**-21 - 0.5
    x = x * (math.pi / 2)
    z = x * x
    sin = (((z * (1 / 362880) - 1 / 5040) * z + 1 / 120) * z - 1 / 6) * z * x + x
    cos = ((((z * (-1 / 3628800) + 1 / 40320) * z - 1 / 720) * z + 1 / 24) * z - 0.5) * z + 1.0
    quadrant = word >> 30
    odd = (quadrant & 1).bool()
    c, s = torch.where(odd, -sin, cos), torch.where(odd, cos, sin)
    flip = (quadrant & 2).bool()  # half a turn
    return torch.where(flip, -c, c), torch.where(flip, -s, s)


def _check(ids: Tensor, step: int, stream: int) -> None:
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(f"'ids' must be a 1-D int64 tensor, got {tuple(ids.shape)} of {ids.dtype}")
    if not 0 <= step <= _MASK:
        raise ValueError(f"'step' must lie in [0, 2^32), got {step}")
    if not 0 <= stream < 256:
        raise ValueError(f"'stream' must lie in [0, 256), got {stream}")
    if ids.numel() and ids.device.type == "cpu":  # on a GPU the answer would have to be waited for, step after step
        low, high = (int(end) for end in ids.aminmax())
        if low < 0 or high >= MAX_ID:
            raise ValueError(f"'ids' must lie in [0, 2^56), got {low}..{high}")


def philox_uniform(seed: int, ids: Tensor, step: int, stream: int, n: int) -> Tensor:
    """n uniforms in the open interval (0, 1) for each id, (B, n) float32."""
    _check(ids, step, stream)
    words = _words(seed, ids, step, stream, n)
    return torch.stack([_unit(w) for w in words], dim=-1).flatten(1)[:, :n]


def philox_normal(seed: int, ids: Tensor, step: int, stream: int, n: int) -> Tensor:
    """n standard normals for each id, (B, n) float32: the definition that the compiled kernel equals bit for bit."""
    _check(ids, step, stream)
    w0, w1, w2, w3 = _words(seed, ids, step, stream, n)
    normals = []
    for radius_word, angle_word in ((w0, w1), (w2, w3)):
        # The square root in float64: torch's in float32 is MKL's, which is off by an ulp for one number in six.
        radius = torch.sqrt((_log(_unit(radius_word)) * -2.0).double()).float()
        cos, sin = _cos_sin(angle_word)
        normals += [radius * cos, radius * sin]
    return torch.stack(normals, dim=-1).flatten(1)[:, :n]


@dataclass(frozen=True)
class Noise:
    """The random numbers of some samples at one step.

    seed: of the run, 64 bits. ids: (B,) int64, global sample indices in [0, 2^56). step: of the training or the solver.
    """

    seed: int
    ids: Tensor
    step: int = 0

    def at(self, step: int) -> Noise:
        """The same samples at another step."""
        return replace(self, step=step)

    def arguments(self, stream: int) -> tuple[Tensor, int, int, int]:
        """(ids, seed, step, stream) as the compiled kernels take them: checked, the seed as a signed 64-bit integer."""
        _check(self.ids, self.step, stream)
        seed = (self.seed + (1 << 63)) % (1 << 64) - (1 << 63)
        return self.ids.contiguous(), seed, self.step, int(stream)

    def normal(self, shape: tuple[int, ...], stream: Stream) -> Tensor:
        """Standard normals, (B, *shape) float32, on the device of `ids`."""
        rows, n = self.ids.shape[0], math.prod(shape)
        if native.extension is not None and self.ids.device.type == "cpu":
            out = torch.empty(rows, n, dtype=torch.float32, device="cpu")
            torch.ops.gensys.philox_normal(out, *self.arguments(stream))
        else:
            out = philox_normal(self.seed, self.ids, self.step, int(stream), n)
        return out.view(rows, *shape)

    def uniform(self, shape: tuple[int, ...], stream: Stream) -> Tensor:
        """Uniforms in (0, 1), (B, *shape) float32, on the device of `ids`."""
        rows, n = self.ids.shape[0], math.prod(shape)
        if native.extension is not None and self.ids.device.type == "cpu":
            out = torch.empty(rows, n, dtype=torch.float32, device="cpu")
            torch.ops.gensys.philox_uniform(out, *self.arguments(stream))
        else:
            out = philox_uniform(self.seed, self.ids, self.step, int(stream), n)
        return out.view(rows, *shape)
