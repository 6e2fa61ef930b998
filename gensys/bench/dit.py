"""The model of the sampling and training rows: a DiT-S/2 of gensys, and the one of diffusers with the same weights.

Peebles and Xie, 2022, "Scalable diffusion models with transformers", arXiv:2212.09748, table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gensys.bench.peers import library
from gensys.bench.timing import Call
from gensys.engine.precision import Precision
from gensys.families.diffusion import Diffusion, Sampler
from gensys.guidance import Guidance
from gensys.kernels.dispatch import force
from gensys.nn.dit import DiT
from gensys.solvers.euler import euler
from gensys.systems.flow_dit import flow_dit

__all__ = ["PRECISION", "SCALE", "TIMES", "Size", "network", "of_diffusers", "of_gensys", "plain"]

SCALE = 2.0
"""Of the guidance."""

TIMES = (1.0, 0.5, 0.0)
"""The grid: two steps of Euler's method, the first from pure noise."""

PRECISION: Mapping[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}
"""dtype of a row -> what autocast is told."""


@dataclass(frozen=True)
class Size:
    """The defaults are DiT-S/2 on latents of images of 256 x 256, with the classes of ImageNet."""

    shape: tuple[int, int, int] = (4, 32, 32)
    width: int = 384
    depth: int = 12
    heads: int = 6
    classes: int = 1000
    batch: int = 8

    @classmethod
    def of(cls, quick: bool) -> Size:
        return cls((4, 8, 8), 32, 2, 2, 10, 2) if quick else cls()

    def __str__(self) -> str:
        return f"{self.batch}x{'x'.join(map(str, self.shape))}"


def of_gensys(size: Size) -> Diffusion:
    """Our model. Its weights are random everywhere: an untrained one returns 0, and would agree with anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = flow_dit(
            size.shape,
            classes=size.classes,
            width=size.width,
            depth=size.depth,
            heads=size.heads,
            sampler=Sampler(euler, TIMES, Guidance(SCALE)),
        )
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return model


def network(model: Diffusion) -> DiT:
    """The transformer in a model of `of_gensys`."""
    net = model.denoiser.net
    assert isinstance(net, DiT)
    return net


def plain(call: Call) -> Call:
    """The call with every op as its reference, in plain torch."""

    def forced() -> object:
        with force("reference"):
            return call()

    return forced


def of_diffusers(net: DiT, size: Size) -> Any:
    """diffusers' DiTTransformer2DModel that computes what `net` does, given 1000 t and a label (classes = none).

    It embeds time and label anew in every block, with weights of its own: each block gets a copy of ours. Its time
    embedding has 256 inputs of other frequencies; it is made with ours, by its own classes.
    """
    embeddings = library("diffusers.models.embeddings")
    model = library("diffusers.models.transformers.dit_transformer_2d").DiTTransformer2DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.width // size.heads,
        in_channels=size.shape[0],
        num_layers=size.depth,
        sample_size=size.shape[1],
        patch_size=net.patch,
        num_embeds_ada_norm=size.classes,
        norm_eps=1e-6,
    )
    frequencies = net.condition.time.frequencies
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj = embeddings.Timesteps(frequencies, flip_sin_to_cos=True, downscale_freq_shift=0)
        block.norm1.emb.timestep_embedder = embeddings.TimestepEmbedding(frequencies, size.width)
        block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are dropped outside, where ours are
    model.load_state_dict(_translated(net, size))
    model.pos_embed.pos_embed.copy_(net.positions)  # theirs has the axes and sines in another order
    return model


def _translated(net: DiT, size: Size) -> dict[str, Tensor]:
    """Our weights under the names and in the order of diffusers."""
    ours = net.state_dict()
    channels, patch = size.shape[0], net.patch
    theirs: dict[str, Tensor] = {}

    def put(name: str, weight: Tensor, bias: Tensor) -> None:
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = weight, bias

    def both(name: str) -> tuple[Tensor, Tensor]:
        return ours[f"{name}.weight"], ours[f"{name}.bias"]

    weight, bias = both("embed")
    put("pos_embed.proj", weight.view(-1, channels, patch, patch), bias)
    *modulations, last = zip(*(part.split(6 * size.width) for part in both("modulation")), strict=True)
    for k, modulation in enumerate(modulations):
        block, mine = f"transformer_blocks.{k}", f"blocks.{k}"
        put(f"{block}.norm1.emb.timestep_embedder.linear_1", *both("condition.time.mlp.0"))
        put(f"{block}.norm1.emb.timestep_embedder.linear_2", *both("condition.time.mlp.2"))
        theirs[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = ours["condition.label.table.weight"]
        put(f"{block}.norm1.linear", *modulation)
        for name, weight, bias in zip("qkv", *(part.chunk(3) for part in both(f"{mine}.qkv")), strict=True):
            put(f"{block}.attn1.to_{name}", weight, bias)
        put(f"{block}.attn1.to_out.0", *both(f"{mine}.out"))
        put(f"{block}.ff.net.0.proj", *both(f"{mine}.up"))
        put(f"{block}.ff.net.2", *both(f"{mine}.down"))
    put("proj_out_1", *last)
    weight, bias = both("out")  # a patch is (C, p, p) here and (p, p, C) there
    put("proj_out_2", _channels_last(weight, channels, patch), _channels_last(bias, channels, patch))
    return theirs


def _channels_last(x: Tensor, channels: int, patch: int) -> Tensor:
    return x.view(channels, patch * patch, -1).transpose(0, 1).reshape(x.shape)
