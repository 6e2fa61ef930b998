"""Models of other libraries, trained and sampled as docs/quality.py asks: networks of their own examples.

diffusers: von Platen et al., 2022, https://github.com/huggingface/diffusers. torchcfm: Tong et al., 2023,
arXiv:2302.00482. normflows: Stimper et al., 2023, arXiv:2302.12014. Pythae: Chadebec, Vincent and Allassonniere, 2022,
arXiv:2206.08309.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from flows import normflows_glow
from torch import Tensor, nn

from gensys.engine.optim import Optim, adamw, rate
from gensys.likelihood import bin_width, bits_per_dim

__all__ = ["CODEC_SHARE", "DDIM_STEPS", "PEERS", "Done", "Task", "size"]

CODEC_SHARE = 1 / 3  # of the time, as `gensys compare` has it
DDIM_STEPS, FLOW_STEPS = 20, 10  # of all diffusion and flow models alike; each of the latter is two calls
BATCH = 32  # of U-Nets: their examples' 128 would be a few dozen steps in two minutes


@dataclass(frozen=True)
class Task:
    """What a peer is given: images to train on in [-1, 1], their labels, the labels to draw, its time, peak rate."""

    x: Tensor
    labels: Tensor
    wanted: Tensor
    held: Tensor
    classes: int
    seconds: float
    seed: int
    lr: float


@dataclass(frozen=True)
class Done:
    """Samples (n, C, H, W) and the labels they were to have, bits per dimension of held-out images, rows trained on,
    and what else is to be said."""

    samples: Tensor
    labels: Tensor | None
    bits: float | None
    rows: int
    parameters: int
    note: str = ""


Loss = Callable[[Tensor, Tensor], Tensor]


def fit(task: Task, model: nn.Module, loss: Loss, *, batch: int) -> int:
    """Train until the processor has been busy for the task's seconds; returns the rows that it saw."""
    optim = Optim(lr=task.lr)
    optimizer = adamw(list(model.parameters()), optim)
    g = torch.Generator().manual_seed(task.seed)
    model.train()
    began, step = time.process_time(), 0
    while (spent := (time.process_time() - began) / task.seconds) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = rate(optim, step, spent)
        rows = torch.randint(len(task.x), (batch,), generator=g)
        optimizer.zero_grad()
        loss(task.x[rows], task.labels[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    model.eval()
    return step * batch


def size(model: nn.Module) -> int:
    """How many parameters it has."""
    return sum(p.numel() for p in model.parameters())


def torchcfm_unet(task: Task) -> Done:
    """The network of its example of conditional MNIST; drawn by its own ODE package."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet import UNetModel
    from torchdiffeq import odeint

    shape = tuple(task.x.shape[1:])
    # its norms have 32 groups: where a resolution has 32 channels they take out again what is added for time and label
    model: Any = UNetModel(
        dim=shape, num_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, num_classes=task.classes, class_cond=True
    )
    flow = ConditionalFlowMatcher(sigma=0.0)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        t, x_t, velocity = flow.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (model(t, x_t, labels) - velocity).square().mean()

    rows = fit(task, model, loss, batch=BATCH)
    ends, options = torch.tensor([0.0, 1.0]), {"step_size": 1 / FLOW_STEPS}

    def draw(labels: Tensor, noise: Tensor) -> Tensor:
        return odeint(lambda t, x: model(t, x, labels), noise, ends, method="midpoint", options=options)[-1]

    return Done(_drawn(task, draw), task.wanted, None, rows, size(model))


def diffusers_ddpm(task: Task) -> Done:
    """The network and schedule of its course's conditional MNIST, narrower, with one block a resolution for two."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    model: Any = UNet2DModel(
        sample_size=task.x.shape[-1],
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,  # of two channels or more, or a norm takes out what is added for time and label
        num_class_embeds=task.classes,
    )
    noising: Any = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        noise, t = torch.randn_like(x), torch.randint(1000, (len(x),))
        return (model(noising.add_noise(x, noise, t), t, labels).sample - noise).square().mean()

    rows = fit(task, model, loss, batch=BATCH)
    solver: Any = DDIMScheduler.from_config(noising.config, timestep_spacing="trailing")
    solver.set_timesteps(DDIM_STEPS)

    def draw(labels: Tensor, x: Tensor) -> Tensor:
        for t in solver.timesteps:
            x = solver.step(model(x, t, labels).sample, t, x).prev_sample
        return x

    return Done(_drawn(task, draw), task.wanted, None, rows, size(model))


def _drawn(task: Task, draw: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Samples of the wanted labels, from normal noise."""
    torch.manual_seed(task.seed)
    with torch.no_grad():
        parts = [draw(labels, torch.randn(len(labels), *task.x.shape[1:])) for labels in task.wanted.split(100)]
    return torch.cat(parts)


def normflows_glow_(task: Task) -> Done:
    """Glow of as many scales, steps and channels as ours, as in docs/flows.py."""
    made = normflows_glow()
    assert made is not None  # it is installed
    model, log_prob = made
    width, g = bin_width(), torch.Generator().manual_seed(task.seed)

    def spread(x: Tensor) -> Tensor:
        return x + (torch.rand(x.shape, generator=g) - 0.5) * width

    log_prob(spread(task.x[:256]))  # ActNorm is set by the first data, before the optimizer looks at it
    rows = fit(task, model, lambda x, _: -log_prob(spread(x)).mean() / x[0].numel(), batch=32)
    with torch.no_grad():
        torch.manual_seed(task.seed)
        u, drawn = task.x[:0], 0
        while len(u) < len(task.wanted) and drawn < 10 * len(task.wanted):
            some = model.sample(100)[0]  # type: ignore[operator]
            u, drawn = torch.cat([u, some[some.flatten(1).isfinite().all(1)]]), drawn + 100
        nats = torch.cat([log_prob(spread(part)) for part in task.held.split(64)])
    bits = bits_per_dim(nats, math.prod(task.x.shape[1:]), width)
    lost = drawn - len(u)
    note = f"{lost:,} of {drawn:,} that it drew had NaN, and others were drawn for them" if lost else ""
    samples = u[: len(task.wanted)] * 256 * width - 1.0 - 0.5 * width
    return Done(samples, None, float(bits.mean()), rows, size(model), note)


def pythae_vae(task: Task) -> Done:
    """Its default networks, with a latent of 16 numbers and the cross-entropy, as its benchmark of MNIST has them."""
    from pythae.models import VAE, VAEConfig

    shape = tuple(task.x.shape[1:])
    model: Any = VAE(VAEConfig(input_dim=shape, latent_dim=16, reconstruction_loss="bce"))
    rows = fit(task, model, lambda x, _: model({"data": 0.5 * x + 0.5}).loss, batch=64)
    with torch.no_grad():
        torch.manual_seed(task.seed)
        x = model.decoder(torch.randn(len(task.wanted), 16))["reconstruction"].reshape(-1, *shape)
    return Done(2.0 * x - 1.0, None, None, rows, size(model))


def pythae_vq(task: Task) -> Done:
    """Its VQ-VAE with its residual networks for MNIST, 4 x 4 codes of 512 that are averages of what they stand for, and
    the PixelCNN of its sampler, which knows no labels. They want 28 x 28 pixels: the frame of padding is cut off, and
    put on again.

    A third of the time is the codec's, as of ours.
    """
    from pythae.models import VQVAE, VQVAEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_VQVAE_MNIST, Encoder_ResNet_VQVAE_MNIST
    from pythae.models.normalizing_flows import PixelCNN, PixelCNNConfig

    inner = 0.5 * task.x[:, :, 2:30, 2:30] + 0.5
    # with the loss for its codebook, or faster, it ends with a handful of codes, or black images
    config = VQVAEConfig(input_dim=(1, 28, 28), latent_dim=16, use_ema=True)
    codec: Any = VQVAE(config, Encoder_ResNet_VQVAE_MNIST(config), Decoder_ResNet_VQVAE_MNIST(config))
    first = replace(task, x=inner, seconds=task.seconds * CODEC_SHARE)
    fit(first, codec, lambda x, _: codec({"data": x}).loss, batch=64)
    with torch.no_grad():
        codes = torch.cat([codec({"data": x}).quantized_indices for x in inner.split(256)]).float()
    prior: Any = PixelCNN(PixelCNNConfig(input_dim=tuple(codes.shape[1:]), n_embeddings=512))
    second = replace(task, x=codes, seconds=task.seconds * (1 - CODEC_SHARE))
    rows = fit(second, prior, lambda x, _: prior({"data": x}).loss, batch=64)
    with torch.no_grad():
        torch.manual_seed(task.seed)
        z = torch.zeros(len(task.wanted), *codes.shape[1:])
        for i, j in product(range(z.shape[2]), range(z.shape[3])):
            logits = prior({"data": z}).out[:, :, 0, i, j]
            z[:, 0, i, j] = torch.multinomial(logits.softmax(1), 1)[:, 0].float()
        embedded = codec.quantizer.embeddings[z.long().flatten(1)].transpose(1, 2).unflatten(2, z.shape[2:])
        x = codec.decoder(embedded).reconstruction
    samples = nn.functional.pad(2.0 * x - 1.0, (2, 2, 2, 2), value=-1.0)
    return Done(samples, None, None, rows, size(codec) + size(prior))


@dataclass(frozen=True)
class Peer:
    """package: what is to be installed. lr: the peak rate, the best of those tried at two minutes of the digits."""

    package: str
    train: Callable[[Task], Done]
    lr: float


PEERS = {
    "torchcfm": Peer("torchcfm", torchcfm_unet, 1e-3),
    "diffusers": Peer("diffusers", diffusers_ddpm, 3e-3),
    "normflows": Peer("normflows", normflows_glow_, 3e-3),
    "pythae_vae": Peer("pythae", pythae_vae, 1e-3),
    "pythae_vq": Peer("pythae", pythae_vq, 1e-4),
}
