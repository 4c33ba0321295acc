"""Trains the models of the demo with images: a tower for pictures beside a text model that is left as it is.

python -m revector.local.emoji_towers FOLDER
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revector.local import own_models
from revector.local.emoji import EmojiSet, draw

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn
    from transformers import ResNetModel

SIDE, SCALE = 32, 20.0
"""Pixels of a side that the tower sees, and what cosines are multiplied by in the loss (a temperature of 0.05)."""

WIDTHS = (16, 32, 64, 128)
"""Of the stages of the tower."""

BATCH, RATE = 256, 3e-3


@dataclass(frozen=True, slots=True)
class PictureTower:
    """A small ResNet, and what makes the mean of what it sees as wide as the vectors of texts."""

    sees: ResNetModel
    wide: nn.Linear

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the vectors of pictures, ``(n, dim)``, as the saved model has them before they get their length."""
        seen: Tensor = self.wide(self.sees(pixels).last_hidden_state.mean((2, 3)))
        return seen


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a version is trained: the first layers of all-MiniLM-L6-v2 as its text model (or all of it), and for long."""

    text: str
    steps: int


FIRST, SECOND = Recipe("shallow", 40), Recipe("whole", 150)
VERSIONS: Mapping[str, Recipe] = {"first": FIRST, "second": SECOND}

LONE = "words-alone"
"""The tower for pictures of the first version under the text model of the second: what must not be deployed."""


def train_versions(emoji: EmojiSet, folder: Path) -> None:
    """Train and save both versions, and the one whose text tower alone changed, as models of sentence-transformers.

    Each is trained on all emoji but those held out, by one thread, which is as quick for so small a tower; the seed is
    the same each time.
    """
    shallow = folder.with_name(f"{folder.name}-shallow")
    own_models.make_shallow_model(shallow)
    texts = {"shallow": shallow, "whole": own_models.package_folder()}
    towers = {name: train(emoji, recipe, own_models.load(texts[recipe.text], 1)) for name, recipe in VERSIONS.items()}
    for name, recipe in VERSIONS.items():
        save(own_models.load(texts[recipe.text]), towers[name], folder / name)
    save(own_models.load(texts[SECOND.text]), towers["first"], folder / LONE)
    shutil.rmtree(shallow)


def train(emoji: EmojiSet, recipe: Recipe, text: SentenceTransformer) -> PictureTower:
    """Return a tower for pictures, a small ResNet, that puts each near the vector of its name (InfoNCE, both ways)."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    kept = [n for n, one in enumerate(emoji.emoji) if one.code not in emoji.held_out]
    names = [emoji.emoji[n].name for n in kept]
    vectors = torch.as_tensor(text.encode(names, normalize_embeddings=True, show_progress_bar=False))
    small = [np.asarray(emoji.pictures[n].resize((SIDE, SIDE))) for n in kept]
    pixels = torch.as_tensor(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1
    tower = PictureTower(_resnet(), nn.Linear(WIDTHS[-1], vectors.shape[1]))
    optimizer = torch.optim.AdamW([*tower.sees.parameters(), *tower.wide.parameters()], lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=recipe.steps)
    for _ in range(recipe.steps):
        drawn = torch.as_tensor(rng.permutation(len(kept))[:BATCH])
        seen = nn.functional.normalize(tower(_moved(pixels[drawn])), dim=1)
        scores, right = SCALE * seen @ vectors[drawn].T, torch.arange(len(drawn))
        loss = nn.functional.cross_entropy(scores, right) + nn.functional.cross_entropy(scores.T, right)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    tower.sees.eval()
    return tower


def _resnet() -> ResNetModel:
    from transformers import ResNetConfig, ResNetModel

    depths = [1] * len(WIDTHS)
    return ResNetModel(
        ResNetConfig(embedding_size=WIDTHS[0], hidden_sizes=list(WIDTHS), depths=depths, layer_type="basic")
    )


def _moved(pixels: Tensor) -> Tensor:
    """Return a batch turned over by chance, and moved by up to 3 pixels."""
    import torch

    turned = pixels.flip(3) if torch.rand(()) < 0.5 else pixels
    down, right = (int(n) for n in torch.randint(-3, 4, (2,)))
    return turned.roll((down, right), (2, 3))


def save(text: SentenceTransformer, tower: PictureTower, folder: Path) -> None:
    """Save both towers as one model with a route for each, which is loaded without code of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, Transformer
    from torch import nn
    from transformers import ViTImageProcessorPil

    parts = folder.with_name(f"{folder.name}-parts")
    tower.sees.save_pretrained(parts)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(parts)
    wide = Dense(WIDTHS[-1], tower.wide.out_features, activation_function=nn.Identity())
    wide.linear.load_state_dict(tower.wide.state_dict())
    pooled = Pooling(WIDTHS[-1], pooling_mode="mean")
    reads: list[Any] = [text.get_submodule(name) for name in "01"]  # its transformer and its pooling
    router = Router(
        {"text": reads, "image": [Transformer(str(parts)), pooled, wide]},
        route_mappings={(None, "text"): "text", (None, "image"): "image"},
    )
    SentenceTransformer(modules=[router, Normalize()], device="cpu").save(str(folder), create_model_card=False)
    shutil.rmtree(parts)


if __name__ == "__main__":
    train_versions(draw(), Path(sys.argv[1]))
