"""The perceptual distance of two images: how far their features are apart, place by place and layer by layer.

    d(x, y) = sum over layers l of  mean over places p of |f_l(x)_p - f_l(y)_p|^2

where f_l(x)_p are the features of layer l at p, divided by their length.

Zhang, Isola, Efros, Shechtman and Wang, 2018, "The unreasonable effectiveness of deep features as a perceptual metric",
arXiv:1801.03924, equation 1 with all weights 1 (there w_l is a vector a layer, learned from people's answers: LPIPS).
With unit weights and features that are never negative, a layer gives 0 to 2. Comparable only for the same network and
layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["perceptual_distance"]

_TINY = 1e-10  # added to the length of features: a place where all are 0 has no direction, and counts as 0


def _unit(x: Tensor) -> Tensor:
    x = x.double()
    return x / (x.norm(dim=1, keepdim=True) + _TINY)


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The distances of n pairs of images, from feature maps of several layers: (n,) float64, 0 for equal ones.

    a, b: a tensor (n, C_l, H_l, W_l) for each layer, of the first and of the second images; shapes of layers differ.
    ValueError for other numbers of layers, shapes that differ, or features that are not finite.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"'b' must hold feature maps of as many layers as 'a', one or more, got {len(a)} and {len(b)}")
    total: Tensor | None = None
    for layer, (x, y) in enumerate(zip(a, b, strict=True)):
        if x.ndim != 4 or x.shape != y.shape:
            raise ValueError(
                f"'a' and 'b' must be (n, C, H, W) in layer {layer}, the same, got {tuple(x.shape)} and "
                f"{tuple(y.shape)}"
            )
        for name, maps in (("a", x), ("b", y)):
            if not maps.isfinite().all():
                raise ValueError(f"'{name}' must be finite, got NaN or infinity in layer {layer}")
        part = (_unit(x) - _unit(y)).square().sum(1).mean((1, 2))
        total = part if total is None else total + part
    assert total is not None  # there is a layer
    return total
