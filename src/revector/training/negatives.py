"""Owns hard negatives: documents that share words with a query and do not answer it, found by BM25."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revector.errors import LabelError
from revector.interfaces import Encoder, Vectors
from revector.training.corpus import Corpus
from revector.training.pairs import Pair, same_query

DEEPER = 4
"""So many times the negatives that are wanted are looked at, as some are answers, or too like one."""
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Mined:
    """Of each pair, the rows of its negatives in the corpus: int64 ``(pairs, negatives)``.

    ``false``: candidates left out as they may well be answers; ``drawn``: negatives drawn at random where BM25 found
    too few.
    """

    rows: npt.NDArray[np.int64]
    false: int
    drawn: int


def mine(
    pairs: Sequence[Pair],
    answers: Mapping[str, set[str]],
    corpus: Corpus,
    encoder: Encoder,
    vectors: Vectors,
    queries: Vectors,
    *,
    negatives: int,
    margin: float,
    seed: int = 0,
) -> Mined:
    """Return the ``negatives`` best documents by BM25 for each pair that are none of its query's ``answers``.

    A candidate that ``encoder`` puts nearer to the query than the answer, by more than ``margin`` of cosine, may well
    be an answer that nobody named: it is left out, as is one of an answer's very text. ``vectors`` of the corpus and
    ``queries`` of the pairs are of length 1. Words are the tokens of the encoder, so it holds for any language.

    Raises ``LabelError`` where there are too few documents.

    Source: Robertson & Zaragoza, *The Probabilistic Relevance Framework: BM25 and Beyond* (2009), by bm25s; filtering
    by a margin to the answer's score: Moreira et al., *NV-Retriever*, arXiv:2407.15831 (2024).
    """
    found, false, drawn = np.empty((len(pairs), negatives), np.int64), 0, 0
    row_of = {doc_id: row for row, doc_id in enumerate(corpus.ids)}
    ranked = _ranked(pairs, corpus, encoder, min(len(corpus.ids), negatives * DEEPER))
    rng = np.random.default_rng(seed)
    for at, (pair, candidates) in enumerate(zip(pairs, ranked, strict=True)):
        right = {corpus.texts[row_of[doc_id]] for doc_id in answers[same_query(pair.query)]}
        wrong = [row for row in candidates if corpus.texts[row] not in right]
        limit = float(queries[at] @ vectors[row_of[pair.doc_id]]) + margin
        near = vectors[wrong] @ queries[at] > limit
        false += int(near.sum())
        kept = [row for row, is_near in zip(wrong, near, strict=True) if not is_near][:negatives]
        if len(kept) < negatives:
            drawn += negatives - len(kept)
            shuffled = rng.permutation(len(corpus.ids)).tolist()
            others = [row for row in shuffled if corpus.texts[row] not in right and row not in kept]
            kept += others[: negatives - len(kept)]
        if len(kept) < negatives:
            raise LabelError(
                f"{negatives} negatives of each query were asked for, and {len(kept)} documents are no answers of "
                f"{pair.query!r:.80}. Nothing was trained; ask for fewer, or ingest more documents first."
            )
        found[at] = kept
    return Mined(found, false, drawn)


def _ranked(pairs: Sequence[Pair], corpus: Corpus, encoder: Encoder, depth: int) -> npt.NDArray[np.int64]:
    """Return the ``depth`` best rows of the corpus for each pair's query, best first."""
    import bm25s

    tokenizer = encoder.tokenizer
    numbers = list(range(tokenizer.get_vocab_size()))  # one object for each: a list of tokens is 8 bytes a token then

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [
            [numbers[one] for one in encoded.ids]
            for at in range(0, len(texts), CHUNK)
            for encoded in tokenizer.encode_batch(list(texts[at : at + CHUNK]), add_special_tokens=False)
        ]

    index = bm25s.BM25(backend="numpy")
    vocabulary = {str(number): number for number in numbers}
    index.index(bm25s.tokenization.Tokenized(tokens(corpus.texts), vocabulary), show_progress=False)
    asked = tokens([pair.query for pair in pairs])
    found = index.retrieve(asked, k=depth, show_progress=False, backend_selection="numpy")
    return np.asarray(found.documents, np.int64)
