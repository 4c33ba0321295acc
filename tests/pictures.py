"""Images made in code, and encoders of two towers: a fake that sees colours, and small real models."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from revector.encoders.hashing import HashingEncoder
from revector.formats.images import picture
from revector.interfaces import Kind, Piece, Side, Vectors, whole_texts
from revector.spec import ModelSpec

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40)}


def image(colour: str, size: tuple[int, int] = (40, 30), *, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002
    """A file of one colour; ``options`` are those of Pillow's ``save``."""
    return saved(Image.new("RGB", size, COLOURS[colour]), format, **options)


def saved(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def colour_of(data: bytes) -> str:
    """The name of the colour that is nearest to the mean of an image."""
    mean = np.asarray(picture(data), dtype=np.float64).reshape(-1, 3).mean(axis=0)
    return min(COLOURS, key=lambda name: float(np.square(mean - COLOURS[name]).sum()))


class ColourEncoder(HashingEncoder):
    """Texts by their words, images as the name of their colour: "red" is near every red image."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model, seed=2 if model.name.endswith("seed2") else 0)
        self.seen: list[str] = []

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("text", "image")

    def encode(self, side: Side, pieces: Sequence[Piece]) -> Vectors:
        words = [colour_of(one.content.blob.read()) if one.content.kind == "image" else one.text for one in pieces]
        self.seen += [one.content.sha256 for one in pieces if one.content.kind == "image"]
        return super().encode(side, whole_texts(words))


def words_and_colours(folder: Path, *, texts: int = 0, images: int = 0) -> Path:
    """Save a small model of two towers in which a colour's name is near images of it; return its folder.

    Texts: a vector for each word. Images: the mean of their patches, their colour; no layer. ``texts`` and ``images``
    turn the spaces of the towers, which are one space where both are equal.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Router,
        StaticEmbedding,
        Transformer,
    )
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    words = ["[UNK]", *COLOURS, "a", "of", "sky", "rose"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=0, num_attention_heads=1, intermediate_size=4, image_size=16, patch_size=8
    )
    vit = ViTModel(config, add_pooling_layer=False)
    grey = (127.5, 127.5, 127.5)
    colours = torch.tensor([COLOURS.get(word, grey) for word in words]) / 127.5 - 1
    with torch.no_grad():
        for weights in vit.parameters():
            weights.zero_()
        vit.layernorm.weight.fill_(1.0)
        # Three numbers and their opposites have the mean 0, which the last norm takes away.
        for n in range(3):
            vit.embeddings.patch_embeddings.projection.weight[(n + images) % 8, n] = 1 / 64
            vit.embeddings.patch_embeddings.projection.weight[(n + 3 + images) % 8, n] = -1 / 64
    parts = folder.with_name(f"{folder.name}-parts")
    vit.save_pretrained(parts)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(parts)
    table = torch.zeros(len(words), 8)
    table[:, :3], table[:, 3:6] = colours, -colours
    table[0, 7] = table[5:, 6] = 1.0
    text = StaticEmbedding(tokenizer, embedding_weights=table.roll(texts, dims=1).numpy())
    router = Router(
        {"text": [text], "image": [Transformer(str(parts)), Pooling(8, pooling_mode="mean")]},
        route_mappings={(None, "text"): "text", (None, "image"): "image"},
    )
    SentenceTransformer(modules=[router, Normalize()]).save(str(folder))
    return folder


def tiny_clip(folder: Path) -> Path:
    """Save a CLIP model of random weights, as the hub has them: one file for both towers; return its folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.WordLevel({begin: 0, end: 1, "<unk>": 2, "red": 3, "blue": 4}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 0), (end, 1)]
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        unk_token="<unk>",
        model_max_length=77,
    )
    scaling = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(image_processor=scaling, tokenizer=words).save_pretrained(folder)
    return folder
