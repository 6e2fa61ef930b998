"""Activations that are computed again in the backward pass instead of being kept: less memory for a third more time.

Chen, Xu, Zhang and Guestrin, 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174. A backbone that
can be trained so lists its blocks in an attribute `blocks`, a ModuleList, and knows nothing else of it. Of a block only
its inputs are kept. The numbers are the same: torch's generator and autocast are set back for the second pass.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from gensys.errors import ConfigError

__all__ = ["recompute_blocks"]


def recompute_blocks(model: nn.Module) -> None:
    """Let every block of every backbone in `model` recompute its activations; the names of its state do not change.

    Raises: ConfigError if no module lists its blocks, or if a block has state that a second pass would change again.
    """
    blocks = [
        b for m in model.modules() if isinstance(lists := getattr(m, "blocks", None), nn.ModuleList) for b in lists
    ]
    if not blocks:
        raise ConfigError("'recompute' needs a backbone that lists its blocks in an attribute `blocks`; this has none")
    for block in blocks:
        state = block.state_dict().keys() & {name for name, _ in block.named_buffers()}
        if state:
            raise ConfigError(
                f"'recompute' would change the buffer {min(state)!r} of a block ({type(block).__name__}) twice a step: "
                f"register it with persistent=False if it is a constant, or train without 'recompute'"
            )
        # on the instance: a wrapper module would change the names in checkpoints
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
