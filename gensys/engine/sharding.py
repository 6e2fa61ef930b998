"""Weights, gradients and optimizer state shared out among the workers: FSDP2, applied from outside a model.

A model's networks are its outermost modules that are no `Generative` themselves, such as an encoder or a decoder; a
list of modules is each of them, and what only wraps one module, as a denoiser does, is that one. Every block that a
backbone lists in `blocks`, and then every network, gathers its weights before it computes and frees them after; its
gradients are added and left in shards as the backward pass goes on. A checkpoint holds whole tensors, so a run may go
on with another number of workers, or unsharded.

Zhao et al., 2023, "PyTorch FSDP: experiences on scaling fully sharded data parallel", arXiv:2304.11277; this is
`torch.distributed.fsdp.fully_shard`, which shards every parameter along its first dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gensys.core import Generative
from gensys.engine.parallel import World
from gensys.errors import ConfigError

__all__ = ["gathered", "like", "networks", "shard_weights"]


def networks(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that gather their weights: see above. model: it may be one of its wrappers or lists too."""
    for child in model.children():
        inside = [part for part in child.children() if next(part.parameters(), None) is not None]
        wraps = len(inside) == 1 and not [*child.parameters(recurse=False)]
        if wraps or isinstance(child, Generative | nn.ModuleList):
            yield from networks(child)
        elif next(child.parameters(), None) is not None:
            yield child


def shard_weights(model: Generative, world: World, device: torch.device, *, bf16: bool) -> None:
    """Share out the networks' weights among all workers. They must hold the same values everywhere, and be all that
    there is: raises ConfigError otherwise, and for a loss that differentiates gradients.

    bf16: weights are gathered as bfloat16, half the traffic, unless the model asks for `full_precision`; gradients are
    added in float32, and the shards, which the optimizer changes, stay float32.
    """
    inside = {id(p) for network in networks(model) for p in network.parameters()}
    if outside := [name for name, p in model.named_parameters() if id(p) not in inside]:
        raise ConfigError(
            f"weights cannot be sharded: {outside[0]!r} lies in no network, whose forward pass would gather it; train "
            f"this model without --shard-weights"
        )
    parts = [m for m in model.modules() if isinstance(m, Generative)]
    if any(part.second_order for part in parts):
        raise ConfigError(
            "weights cannot be sharded: this model's loss has a penalty on gradients, or a weight that is found from "
            "them, for which they must stay in place between two backward passes; train it without --shard-weights, or "
            "without the penalty (adaptive=false for the weight)"
        )
    mesh = init_device_mesh(device.type, (world.size,))
    # inputs are left alone: a time rounded to bfloat16 is another time; autocast rounds what enters a product
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = policy if bf16 and not any(part.full_precision for part in parts) else MixedPrecisionPolicy()
    for network in networks(model):
        lists = [found for m in network.modules() if isinstance(found := getattr(m, "blocks", None), nn.ModuleList)]
        for part in [*(block for found in lists for block in found), network]:
            # freed after each forward pass, the outermost too: a network whose pass has no backward one, as a game's
            # generator when the critic learns, would go on showing its gathered weights in place of its own
            sharded = fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            sharded.set_gradient_divide_factor(1.0)  # a sum: gradients are weighted by their rows, see `Turns`
            sharded.set_force_sum_reduction_for_comms(True)  # Gloo knows no other


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors from sharded ones, on every worker alike; those who need not `keep` them free each at once."""
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            whole[name] = full
    return whole


def like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, sharded as `example` is if it is of its shape: what an optimizer keeps for each weight."""
    if isinstance(example, DTensor) and value.shape == example.shape:
        return distribute_tensor(value.to(example.device), example.device_mesh, example.placements)
    return value
