"""What tests of pipelines begin with: images in three classes, a codec and a flow on its latents, hardly trained."""

import numpy as np
import torch
from gensys.pipelines.encode import encode
from gensys.pipelines.pool import Pool
from gensys.pipelines.train import train
from PIL import Image

from gensys.progress import Screen
from gensys.run import resolve
from gensys.run_folder import RunFolder

SCREEN = Screen(quiet=True)
TINY = {"width": "16", "batch": "16", "budget": "32", "precision": "fp32"}


def flow_on_latents(root, **knobs):
    """root/images, root/codec, root/latents.zarr and root/flow; knobs: of the flow besides the tiny ones."""
    generator = np.random.default_rng(0)
    for k in range(120):
        folder = root / "images" / ("ant", "bee", "cat")[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (28, 28), np.uint8)).save(folder / f"{k:03d}.png")
    torch.set_num_threads(1)
    codec = RunFolder(root / "codec")
    of_codec = {"data": str(root / "images"), "size": "28", "channels": "2", **TINY}
    train(codec, resolve("kl_autoencoder", of_codec), workers=0, fresh=False, screen=SCREEN)
    encode(codec, root / "latents.zarr", data=None, shard=64, workers=0, screen=SCREEN)
    of_flow = {"data": str(root / "latents.zarr"), "depth": "2", "heads": "2", "patch": "1", "steps": "2", **TINY}
    train(RunFolder(root / "flow"), resolve("latent_dit", of_flow | knobs), workers=0, fresh=False, screen=SCREEN)


class Disturbed(Pool):
    """Is interrupted when it has done so many shards; a driver begins where it likes, so the order differs too."""

    def __init__(self, after):
        super().__init__(0)
        self.after = after

    def map(self, job, shards, done):
        for count, shard in enumerate(shards):
            if count == self.after:
                raise KeyboardInterrupt
            super().map(job, [shard], done)
