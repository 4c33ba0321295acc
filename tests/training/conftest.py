"""A tiny static model, and a place to train it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toys import WORDS, Documents, write_pairs

from revector.encoders.loading import load_encoder
from revector.interfaces import Encoder
from revector.spec import ModelSpec
from revector.training.finetune import TrainingSite


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static model of a few hundred tokens, whose vectors are random: it has everything to learn."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(0).standard_normal((len(WORDS) + 1, 32)).astype(np.float32)
    folder = tmp_path_factory.mktemp("models") / "static"
    modules = [StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def make_site(static: Path) -> Callable[[Path], TrainingSite]:
    """Puts the model and pairs into a folder."""

    def make(root: Path) -> TrainingSite:
        (root / "static").symlink_to(static)
        write_pairs(root)

        def load(model: ModelSpec) -> Encoder:
            return load_encoder(model, root=root, device="cpu")

        return TrainingSite(root, Documents(), None, load, "cpu")

    return make


@pytest.fixture
def site(tmp_path: Path, make_site: Callable[[Path], TrainingSite]) -> TrainingSite:
    return make_site(tmp_path)
