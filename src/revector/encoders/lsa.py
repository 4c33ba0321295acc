"""Owns training of the small model that needs no download: latent semantic analysis as a static embedding."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from revector.encoders.files import new_folder, refuse_existing
from revector.errors import ConfigError
from revector.interfaces import Vectors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNSEEN = 1e-3
"""Length of an unseen token's vector relative to the median of the seen: it counts only where nothing else does."""


def train_lsa(texts: Iterable[str], folder: Path, *, dim: int = 256, vocabulary: int = 20_000, seed: int = 0) -> None:
    """Train latent semantic analysis on ``texts`` and save it as a sentence-transformers folder.

    A byte-level BPE tokenizer of at most ``vocabulary`` tokens, TF-IDF over its tokens, and a truncated SVD to ``dim``
    components ``V`` (vocabulary, dim). A text with token counts ``tf`` folds in as ``sum_t tf_t * idf_t * V_t``
    (Deerwester et al., "Indexing by latent semantic analysis", 1990). Saved are the rows ``idf_t * V_t``: their mean
    over the tokens of a text is that sum divided by its length, so after normalisation both are equal.

    ``texts`` is read once and spooled to disk; memory holds the sparse counts, so pass a sample of a very large corpus.
    Equal texts and ``seed`` give an equal model. The folder appears whole or not at all. Raises ``ConfigError`` for an
    existing ``folder``, fewer documents than ``dim``, and a ``vocabulary`` below 256 (the bytes) or ``dim``.
    """
    refuse_existing(folder)
    if vocabulary < max(256, dim):
        raise ConfigError(
            f"vocabulary is {vocabulary}, at least {max(256, dim)} is needed (256 bytes, and dim). Nothing was saved."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder.parent) as spool:
        tokenizer = _train_tokenizer(_spooled(texts, spool), vocabulary)
        spool.seek(0)
        weights = _weights((json.loads(line) for line in spool), tokenizer, dim, seed)
    with new_folder(folder) as temporary:
        _save(tokenizer, weights, temporary)


def _spooled(texts: Iterable[str], spool: IO[str]) -> Iterator[str]:
    for text in texts:
        spool.write(json.dumps(text) + "\n")
        yield text


def _train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words = pre_tokenizers.Whitespace()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, min_frequency=2, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _weights(texts: Iterator[str], tokenizer: Tokenizer, dim: int, seed: int) -> Vectors:
    """Return ``idf_t * V_t`` for every token: ``(vocabulary, dim)`` float32, no row zero."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    columns = {token: token for token in range(tokenizer.get_vocab_size())}
    counts = CountVectorizer(analyzer=ids, vocabulary=columns, dtype=np.float32).transform(texts)
    if counts.shape[0] < dim:
        raise ConfigError(
            f"{dim} dimensions need at least {dim} documents, found {counts.shape[0]}. Nothing was saved; set dim to "
            "at most the number of documents, or give more of them."
        )
    tfidf = TfidfTransformer()
    svd = TruncatedSVD(dim, random_state=seed).fit(tfidf.fit_transform(counts))
    seen = np.asarray(counts.sum(axis=0)).ravel() > 0
    return _without_zero_rows(tfidf.idf_[:, None] * svd.components_.T, seen)


def _without_zero_rows(weights: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_]) -> Vectors:
    """Give tokens that the texts never showed a short vector in the mean direction, so that no text is zero."""
    lengths = np.linalg.norm(weights, axis=1)
    typical = np.median(lengths[seen])
    mean = weights[seen].mean(axis=0)
    weights = weights.copy()
    weights[~seen | (lengths < _UNSEEN * typical)] = mean / np.linalg.norm(mean) * typical * _UNSEEN
    return np.ascontiguousarray(weights, dtype=np.float32)


def _save(tokenizer: Tokenizer, weights: Vectors, folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from torch.nn import Module

    modules: list[Module] = [StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
