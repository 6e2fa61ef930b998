"""How well images fit texts, and how they please: scores by an encoder of images and texts from a folder of yours.

    clip_score = 100 max(0, cos(f(image), g(text)))          f, g: the two encoders, into one space
    aesthetic  = w . f(image) / |f(image)| + b                (w, b): a linear head of yours, fitted to people's answers

Radford et al., 2021, "Learning transferable visual models from natural language supervision", arXiv:2103.00020; Hessel,
Holtzman, Forbes, Le Bras and Choi, 2021, "CLIPScore: a reference-free evaluation metric for image captioning",
arXiv:2104.08718, equation 1, with the weight 100 that tables of text-to-image models have, in place of 2.5.

Nothing is downloaded and no code of the folder is run: it holds what transformers saves of a CLIP model, config.json,
model.safetensors and a tokenizer. Scores of different encoders do not compare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gensys.errors import ConfigError
from gensys.evaluate.batches import in_batches
from gensys.evaluate.checks import one_thread
from gensys.evaluate.classifier import tensor_hash
from gensys.evaluate.metric import Metric, mean_metric
from gensys.evaluate.resize import resized

__all__ = ["Clip", "Head", "clip_score", "evaluate_clip", "open_clip", "open_head"]

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own training images
_BATCH = 32


@dataclass(frozen=True)
class Clip:
    """An encoder of images and texts. name: the folder's. weights: sha256 of them. side: of the images that it takes.
    mean, std: what their channels in [0, 1] are normalised by. model, tokenizer: of transformers."""

    name: str
    weights: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: Any
    tokenizer: Any

    def images(self, x: Tensor) -> Tensor:
        """Images (n, C, H, W) in [-1, 1], C = 1 or 3, stretched to squares -> unit vectors (n, d), float64."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))

        def embed(batch: Tensor) -> list[Tensor]:
            square = resized(batch.clamp(-1.0, 1.0), self.side, self.side).expand(-1, 3, -1, -1)
            return [_vectors(self.model.get_image_features(pixel_values=((square + 1.0) / 2.0 - mean) / std))]

        return torch.nn.functional.normalize(in_batches(embed, x, _BATCH)[0].double(), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut where the encoder ends -> unit vectors (n, d), float64; equal texts are encoded once."""
        different = list(dict.fromkeys(texts))
        with one_thread(), torch.inference_mode():
            found = [self._text(text) for text in different]  # one at a time: padding is in nobody's numbers
        rows = dict(zip(different, found, strict=True))
        return torch.nn.functional.normalize(torch.cat([rows[text] for text in texts]).double(), dim=1)

    def _text(self, text: str) -> Tensor:
        longest = int(self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return _vectors(self.model.get_text_features(**inputs)).clone()


@dataclass(frozen=True)
class Head:
    """A linear head. weight: (d,), bias: () float64. weights: sha256 of both."""

    weight: Tensor
    bias: Tensor
    weights: str

    def __call__(self, vectors: Tensor) -> Tensor:
        """Unit vectors (n, d) -> (n,). ConfigError for another d."""
        if vectors.shape[1] != self.weight.shape[0]:
            raise ConfigError(
                f"the aesthetic head is of {self.weight.shape[0]} numbers, and the encoder makes {vectors.shape[1]}: "
                f"give the head that was fitted to this encoder"
            )
        return vectors @ self.weight + self.bias


def _vectors(found: Any) -> Tensor:
    """What the projections of a CLIP model return, in any version of transformers."""
    return found if isinstance(found, Tensor) else found.pooler_output


def open_clip(folder: Path | str) -> Clip:
    """The encoder in a folder that `CLIPModel.save_pretrained` and a tokenizer's have written.

    Raises: ConfigError without transformers, or if the folder holds none.
    """
    try:
        from transformers import AutoTokenizer, CLIPModel  # pyright: ignore[reportMissingImports] - of an extra
    except ImportError as error:
        raise ConfigError(f"CLIP scores need transformers ({error}): pip install 'gensys[text]'") from error
    path = Path(folder)
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise ConfigError(
            f"{str(folder)!r} must be a folder with config.json, model.safetensors and a tokenizer, as "
            f"`CLIPModel.save_pretrained` writes it; weights that are pickles are not read"
        )
    try:
        # from this folder alone, tensors alone, and none of the code that it may hold
        model = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{str(folder)!r} holds no CLIP model that can be read: {error}") from error
    model.eval().requires_grad_(False)
    mean, std = _normalisation(path)
    side = int(model.config.vision_config.image_size)
    return Clip(path.name, tensor_hash(dict(model.state_dict())), side, mean, std, model, tokenizer)


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the images, as the folder has it, or CLIP's own."""
    file = folder / "preprocessor_config.json"
    told = json.loads(file.read_text()) if file.is_file() else {}
    return tuple(told.get("image_mean", _MEAN)), tuple(told.get("image_std", _STD))


def open_head(file: Path | str) -> Head:
    """A linear head, safetensors with "weight", (d,) or (1, d), and "bias", one number.

    Raises: ConfigError for a file that is none.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{str(file)!r} is no safetensors file that can be read: {error}") from error
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.squeeze(0).ndim != 1 or bias.numel() != 1:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ConfigError(f"{str(file)!r} must hold 'weight', (d,) or (1, d), and 'bias', one number, got {shapes}")
    return Head(weight.double().reshape(-1), bias.double().reshape(()), tensor_hash(tensors))


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 max(0, cos) of rows of unit vectors, (n,); texts: (n, d), one for each image."""
    if images.shape != texts.shape:
        raise ValueError(f"'texts' must be shaped like 'images', {tuple(images.shape)}, got {tuple(texts.shape)}")
    return 100.0 * (images * texts).sum(1).clamp_min(0.0)


def evaluate_clip(
    clip: Clip,
    samples: Tensor,
    texts: Sequence[str] | None,
    real: Tensor,
    told: Sequence[str] | None,
    head: Head | None,
) -> dict[str, Metric]:
    """Score samples (n, C, H, W) by the encoder, with what real images (m, C, H, W) get for a floor.

    texts: what each sample was asked to be; told: what each real image is; None = no clip_score. head: for aesthetic.

    Returns clip_score and aesthetic, as far as they can be taken.
    """
    fake, other = clip.images(samples), clip.images(real)
    found: dict[str, Metric] = {}
    if texts is not None and told is not None:
        floor = float(clip_score(other, clip.texts(told)).mean())
        about = f"100 cos of image and text, by the encoder {clip.name} ({clip.weights[:16]}), mean"
        found["clip_score"] = mean_metric(clip_score(fake, clip.texts(texts)), floor, "", "higher", about)
    if head is not None:
        about = f"a linear head ({head.weights[:16]}) on the encoder {clip.name} ({clip.weights[:16]}), mean"
        floor = float(head(other).mean())
        found["aesthetic"] = mean_metric(head(fake), floor, "", "higher", about, least=-math.inf)
    return found
