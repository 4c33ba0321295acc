"""The trained model that needs no download."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest

from extras import needs
from revector.encoders.loading import load_encoder
from revector.encoders.lsa import train_lsa
from revector.errors import ConfigError
from revector.interfaces import Encoder, whole_texts
from revector.spec import ModelSpec

needs("torch", "sklearn")

TOPICS = {
    "space": ["rocket", "orbit", "moon", "launch", "satellite", "astronaut", "engine", "fuel", "telescope", "star"],
    "food": ["bread", "butter", "oven", "recipe", "flour", "salt", "kitchen", "dinner", "soup", "pepper"],
    "law": ["court", "judge", "lawyer", "trial", "verdict", "statute", "appeal", "witness", "contract", "jury"],
}


def corpus() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, size=8)) for words in TOPICS.values() for _ in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "lsa"
    train_lsa(iter(corpus()), folder, dim=16, vocabulary=500)
    return folder


def load(folder: Path, **settings: Any) -> Encoder:
    return load_encoder(ModelSpec(f"./{folder.name}", **{"dim": 16, **settings}), root=folder.parent, device="cpu")


def test_words_of_one_topic_are_near_without_a_word_in_common(tmp_path: Path) -> None:
    train_lsa(iter(corpus()), tmp_path / "lsa", dim=3, vocabulary=500)
    encoder = load(tmp_path / "lsa", dim=3)
    documents = encoder.encode("document", whole_texts(["judge and jury", "salt in the soup", "moon and star"]))
    assert (documents @ encoder.encode("query", whole_texts(["lawyer appeal verdict"]))[0]).argmax() == 0
    assert (documents @ encoder.encode("query", whole_texts(["satellite orbit"]))[0]).argmax() == 2


def test_the_saved_model_equals_lsa_by_its_definition(folder: Path) -> None:
    """Mean of idf * V rows, normalised, is the projection of TF-IDF onto the components, normalised."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectorizer = TfidfVectorizer(
        lowercase=False,
        analyzer=lambda text: tokenizer.encode(text).ids,
        vocabulary={t: t for t in range(tokenizer.get_vocab_size())},
    )
    expected = normalize(TruncatedSVD(16, random_state=0).fit_transform(vectorizer.fit_transform(corpus())))
    np.testing.assert_allclose(load(folder).encode("document", whole_texts(corpus())), expected, atol=1e-3)


@pytest.mark.parametrize("text", ["zzz", "日本語", "😀", "ß", "!", "\x01"])
def test_no_text_maps_to_zero(folder: Path, text: str) -> None:
    np.testing.assert_allclose(np.linalg.norm(load(folder).encode("document", whole_texts([text]))), 1.0, atol=1e-5)


def test_training_is_deterministic_by_seed(folder: Path, tmp_path: Path) -> None:
    train_lsa(iter(corpus()), tmp_path / "again", dim=16, vocabulary=500)
    train_lsa(iter(corpus()), tmp_path / "other", dim=16, vocabulary=500, seed=1)
    assert load(tmp_path / "again").fingerprint == load(folder).fingerprint
    assert load(tmp_path / "other").fingerprint != load(folder).fingerprint


def test_static_models_are_cut_at_max_tokens(folder: Path) -> None:
    encoder = load(folder, max_tokens=8)
    long, cut, whole = encoder.encode(
        "document", whole_texts(["moon " * 8 + "soup", "moon " * 8, "moon " * 7 + "soup"])
    )
    np.testing.assert_allclose(long, cut, atol=1e-6)
    assert np.abs(whole - cut).max() > 1e-3
    assert encoder.count_tokens("moon " * 20) == 20


def test_too_few_documents_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16 dimensions need at least 16 documents, found 3"):
        train_lsa(["a b", "c d", "e f"], tmp_path / "lsa", dim=16)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_and_a_tiny_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        train_lsa(corpus(), tmp_path, dim=16)
    with pytest.raises(ConfigError, match="vocabulary is 100"):
        train_lsa(corpus(), tmp_path / "lsa", dim=16, vocabulary=100)
    assert list(tmp_path.iterdir()) == []
