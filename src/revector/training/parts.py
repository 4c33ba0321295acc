"""Owns the parts of the pairs: trained on, stopped by and held out; no query of one is in another, nor one like it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from revector.errors import LabelError
from revector.labels import in_random_order
from revector.training.pairs import Pair, same_query

LEAST_PAIRS = 100
"""Pairs to train on: with fewer, batches hold too few other answers to learn from (our choice)."""
LEAST_HELD_OUT = 30
"""Queries to judge by: with fewer, the interval of a difference is wider than what training brings (our choice)."""
STOP_SHARE = 0.1
"""Of the queries that are not held out: by their loss training stops early, and the best weights are kept."""
NEAR = 0.85
"""Cosine of two queries' counts of letters in threes to fives from which on one counts as the other, reworded: a plural
has .88. Of 500 queries of CoSQA, 11 are so near one of 500 others (our choice)."""
BLOCK = 2_000


@dataclass(frozen=True, slots=True)
class Parts:
    """Pairs by what they are for. ``leaked``: queries that were left out, as they are in, or like, one to judge by.

    ``shared``: of the queries held out, those whose answer is the answer of a query that is trained on.
    """

    train: tuple[Pair, ...]
    stop: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    leaked: tuple[str, ...] = field(default=())

    @property
    def shared(self) -> int:
        """How many queries held out have an answer that other queries teach."""
        taught = {pair.doc_id for pair in self.train}
        return len({pair.query for pair in self.held_out if pair.doc_id in taught})


def part(
    pairs: Sequence[Pair],
    *,
    share: float,
    held_out: Sequence[Pair] = (),
    keep_out: Collection[str] = (),
    taught: Collection[str] = (),
    seed: int = 0,
) -> Parts:
    """Part pairs by their queries.

    Held out are the pairs ``held_out``, or, where there are none, those of a ``share`` (0 to 1) of the queries. Which
    these are depends on each query and ``seed`` alone, so that pairs that come later move none. ``keep_out``: further
    queries by which the model will be judged. Queries that are among those, or near one, are not trained on; and
    those that the base was ``taught``, or near one, are not held out.

    Raises ``LabelError`` where fewer than ``LEAST_PAIRS`` pairs or ``LEAST_HELD_OUT`` queries are left.
    """
    if not held_out:
        ordered = in_random_order({same_query(pair.query) for pair in pairs}, seed=seed)
        chosen = set(ordered[: round(share * len(ordered))])
        held_out = [pair for pair in pairs if same_query(pair.query) in chosen]
    known = among_or_near({same_query(pair.query) for pair in held_out}, {same_query(query) for query in taught})
    held_out = [pair for pair in held_out if same_query(pair.query) not in known]
    judged = {same_query(query) for query in (*keep_out, *(pair.query for pair in held_out))}
    left = sorted({same_query(pair.query) for pair in pairs} - {same_query(pair.query) for pair in held_out})
    leaked = among_or_near(set(left), judged)
    ordered = in_random_order((query for query in left if query not in leaked), seed=seed + 1)
    stop = set(ordered[: round(STOP_SHARE * len(ordered))])
    train = set(ordered) - stop
    found = Parts(
        tuple(pair for pair in pairs if same_query(pair.query) in train),
        tuple(pair for pair in pairs if same_query(pair.query) in stop),
        tuple(held_out),
        tuple(sorted(leaked | known)),
    )
    _refuse_few(found, len(pairs))
    return found


def among_or_near(queries: set[str], others: set[str]) -> set[str]:
    """Return those of ``queries`` that are among ``others``, or near one."""
    return (queries & others) | near(sorted(queries - others), sorted(others))


def near(queries: Sequence[str], judged: Sequence[str]) -> set[str]:
    """Return those of ``queries`` whose text is near one of ``judged``: cosine of counts of letters at least ``NEAR``.

    Letters are counted in threes to fives inside of words, as scikit-learn's ``char_wb`` does, so it holds for any
    language with words between spaces. Memory is that of ``BLOCK`` rows of similarities.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    if not queries or not judged:
        return set()
    counts = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False, dtype=np.float32)
    others, found = counts.transform(judged).T.tocsr(), set[str]()
    for at in range(0, len(queries), BLOCK):
        block = queries[at : at + BLOCK]
        nearest = (counts.transform(block) @ others).max(axis=1).toarray().ravel()
        found.update(query for query, cosine in zip(block, nearest, strict=True) if cosine >= NEAR)
    return found


def _refuse_few(parts: Parts, given: int) -> None:
    queries = len({same_query(pair.query) for pair in parts.held_out})
    if len(parts.train) >= LEAST_PAIRS and queries >= LEAST_HELD_OUT:
        return
    raise LabelError(
        f"of {given:,} pairs, {len(parts.train):,} are left to train on (at least {LEAST_PAIRS} are needed), and "
        f"{queries:,} queries are held out (at least {LEAST_HELD_OUT}); {len(parts.leaked):,} queries were left out "
        "as they are near one to judge by. Nothing was trained; collect more pairs, or hold out another share."
    )
