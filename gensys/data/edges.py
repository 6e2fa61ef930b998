"""Edge drawings of images: a domain that can be computed from any other, which a translator can be held to.

|grad|, bright on black, by the filters of Sobel and Feldman (1968, "A 3 x 3 isotropic gradient operator")
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

__all__ = ["edges"]

_SMOOTH, _SLOPE = torch.tensor([1.0, 2.0, 1.0]) / 4.0, torch.tensor([-1.0, 0.0, 1.0])


def edges(x: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] -> drawings of the same shape, -1 where nothing changes, 1 at the edge of black
    and white. Colours: the edges of their mean, alike in all channels."""
    grey = pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = _SMOOTH[:, None] * _SLOPE
    kernels = torch.stack([across, across.T])[:, None].to(x)
    size = conv2d(grey, kernels).square().sum(1, keepdim=True).sqrt()
    # a straight edge from -1 to 1 has a slope of 2 by these filters: size - 1 is 1 there; corners have a little more
    return (size - 1.0).clamp(max=1.0).expand_as(x).clone()
