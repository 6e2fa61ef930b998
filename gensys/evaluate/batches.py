"""Networks on many images, so that what a row gets does not depend on how many rows came with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gensys.evaluate.checks import check_images, one_thread

__all__ = ["in_batches"]


def in_batches(
    compute: Callable[[Tensor], Sequence[Tensor]], images: Tensor, batch: int, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """What `compute` makes of (n, C, H, W) images: for each of its tensors (batch, ...) one (n, ...), on the CPU.

    Every batch has `batch` rows, float32 on `device`, the last filled up with zeros: matrix kernels choose their
    blocking by the batch size, and with it the order of every sum. Run on one thread, for the same reason.
    """
    if batch < 1:
        raise ValueError(f"'batch' must be at least 1, got {batch}")
    check_images("images", images, scaled=False)
    rows: list[Sequence[Tensor]] = []
    with one_thread(), torch.inference_mode():
        for part in images.split(batch):
            full = torch.zeros(batch, *images.shape[1:], device=device)
            full[: part.shape[0]] = part
            rows.append([found[: part.shape[0]].cpu() for found in compute(full)])
    return [torch.cat(parts).clone() for parts in zip(*rows, strict=True)]  # clone: ordinary tensors, not of inference
