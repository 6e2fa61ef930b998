"""Scores by an encoder of images and texts, a tiny one with random weights: what it says, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gensys.errors import ConfigError
from gensys.evaluate import clip as scores
from gensys.evaluate.clip import Head, clip_score, evaluate_clip, open_clip, open_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP model of 8 numbers and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers", reason="pip install 'gensys[text]'")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("clip")
    words = {word: k for k, word in enumerate(["[UNK]", "[EOS]", "a", "photo", "of", "cat", "dog"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", words["[EOS]"])]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(
        path
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": 7, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    vision = small | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(path)
    return path


def pictures(n, seed, channels=3):
    return torch.rand(n, channels, 20, 24, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def test_a_score_is_the_cosine_that_the_model_itself_computes(folder):
    found = open_clip(folder)
    x, texts = pictures(3, 0), ["a photo of cat", "a photo of dog", "a photo of cat"]
    got = clip_score(found.images(x), found.texts(texts))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (scores._MEAN, scores._STD))
    pixels = ((scores.resized(x, 32, 32) + 1.0) / 2.0 - mean) / std
    for k, text in enumerate(texts):
        with torch.no_grad():
            out = found.model(pixel_values=pixels[k : k + 1], **found.tokenizer(text, return_tensors="pt"))
        cosine = float((out.image_embeds * out.text_embeds).sum())
        assert float(got[k]) == pytest.approx(100.0 * max(0.0, cosine), abs=1e-3)
    assert found.side == 32
    assert torch.equal(found.images(x)[1], found.images(x[1:])[0])  # whoever is beside it


def test_grey_images_and_long_texts(folder):
    found = open_clip(folder)
    assert found.images(pictures(2, 0, 1)).shape == (2, 8)
    assert found.texts(["cat " * 50]).norm() == pytest.approx(1.0)


def test_metrics_have_the_score_of_real_images_for_a_floor(folder, tmp_path):
    found, x, real = open_clip(folder), pictures(6, 0), pictures(4, 1)
    save_file({"weight": torch.randn(1, 8), "bias": torch.tensor([2.0])}, tmp_path / "head.safetensors")
    head = open_head(tmp_path / "head.safetensors")
    got = evaluate_clip(found, x, ["cat"] * 6, real, ["dog"] * 4, head)
    assert got["clip_score"].value == float(clip_score(found.images(x), found.texts(["cat"] * 6)).mean())
    assert got["clip_score"].floor == float(clip_score(found.images(real), found.texts(["dog"] * 4)).mean())
    assert got["aesthetic"].value == pytest.approx(float((found.images(x) @ head.weight + 2.0).mean()))
    assert found.weights[:16] in got["aesthetic"].about
    assert set(evaluate_clip(found, x, None, real, None, head)) == {"aesthetic"}


def test_what_is_no_encoder_or_head_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"must be a folder with config\.json, model\.safetensors and a tokenizer"):
        open_clip(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ConfigError, match="holds no CLIP model that can be read"):
        open_clip(tmp_path)
    with pytest.raises(ConfigError, match="is no safetensors file that can be read"):
        open_head(tmp_path / "config.json")
    save_file({"weight": torch.randn(2, 8)}, tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match="must hold 'weight'"):
        open_head(tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match="the aesthetic head is of 3 numbers, and the encoder makes 8"):
        Head(torch.ones(3), torch.ones(()), "")(torch.ones(2, 8))


def test_without_transformers_the_line_that_installs_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'gensys\[text\]'"):
        open_clip(tmp_path)
