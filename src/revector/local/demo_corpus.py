"""Owns how much of the quickstart's corpus the demo takes: what this machine embeds in about three minutes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from revector.indexing.chunking import make_chunker
from revector.interfaces import Content, Document, Encoder, whole_texts
from revector.spec import Chunking

BUDGET_S = 180.0
"""What a newcomer waits for the embedding."""

PROBE_S = 6.0
SHARE = 1 / 3
"""Of the probed rate: Airflow, the worker and the application work on the same processor meanwhile. Measured on two
cores with AVX2: 11.6 and 12.3 documents/s alone, 1,058 in 273 s and 770 in 181 s within the demo."""

LEAST_DISTRACTORS = 200
"""Beside the judged documents, however slow the machine: without any, every answer would be right."""

LEAST_QUESTIONS = 320
"""Labelled questions that stay answerable however slow the machine is: the gate demands 300."""

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Cut:
    """The documents that the demo takes, in the order of the corpus.

    ``judged`` of them answer ``questions`` of the ``asked`` labelled questions, the others are distractors; ``of`` is
    the whole corpus.
    ``documents_per_s`` is what the probe measured, alone on the machine; ``seconds`` what embedding them should take.
    """

    documents: tuple[Document, ...]
    judged: int
    questions: int
    asked: int
    of: int
    documents_per_s: float
    seconds: float

    @property
    def distractors(self) -> int:
        """Documents that answer no labelled question."""
        return len(self.documents) - self.judged


def documents_per_s(
    documents: Sequence[Document], encoder: Encoder, chunking: Chunking, *, seconds: float = PROBE_S
) -> float:
    """Cut and embed documents from all over the corpus for about ``seconds``; return how many a second it did."""
    chunker, drawn = make_chunker(chunking, encoder.tokenizer), sorted(documents, key=lambda one: _draw(one.id))
    encoder.encode("document", whole_texts(["The first call loads and tunes kernels, and counts for nothing."]))
    done, started = 0, time.perf_counter()
    while done < len(drawn) and time.perf_counter() - started < seconds:
        batch = drawn[done : done + _BATCH]
        held = [[Content("text", one.text or "")] for one in batch]
        encoder.encode("document", [piece for contents in held for piece in chunker.pieces(contents)])
        done += len(batch)
    return done / max(1e-9, time.perf_counter() - started)


def cut(documents: Sequence[Document], answers: Collection[Collection[str]], rate: float, *, full: bool = False) -> Cut:
    """Return as many documents as are embedded in ``BUDGET_S`` at ``rate`` (documents/s, alone), or all if ``full``.

    ``answers``: the ids that answer each labelled question. Where not even these fit, questions are given up down to
    ``LEAST_QUESTIONS``, with what answers only them; ``LEAST_DISTRACTORS`` are always kept. The choice depends on ids
    alone, so that a slower machine takes a part of what a faster one takes.
    """
    there = {one.id for one in documents}
    questions = sorted((found for ids in answers if (found := there & set(ids))), key=_draw_of)
    expected = rate * SHARE
    budget = int(expected * BUDGET_S)
    asked, wanted = len(questions), set[str]().union(*questions)
    while not full and len(questions) > LEAST_QUESTIONS and len(wanted) + LEAST_DISTRACTORS > budget:
        questions.pop()
        wanted = set().union(*questions)
    others = sorted(there - set[str]().union(*answers), key=_draw)
    chosen = there if full else wanted | set(others[: max(LEAST_DISTRACTORS, budget - len(wanted))])
    taken = tuple(one for one in documents if one.id in chosen)
    return Cut(taken, len(wanted), len(questions), asked, len(documents), rate, len(taken) / max(1e-9, expected))


def _draw(doc_id: str) -> bytes:
    return hashlib.sha256(doc_id.encode()).digest()


def _draw_of(doc_ids: Collection[str]) -> bytes:
    return min(map(_draw, doc_ids))


def said(found: Cut, model: str, words: Callable[[float], str]) -> str:
    """Return one sentence on what the wait is for; ``words`` names a number of seconds."""
    whole = len(found.documents) == found.of
    which = (
        f"all {found.of:,} documents"
        if whole
        else f"{len(found.documents):,} of {found.of:,} documents ({found.judged:,} that answer "
        f"{'all' if found.questions == found.asked else f'{found.questions:,} of the'} {found.asked:,} labelled "
        f"questions, and {found.distractors:,} distractors)"
    )
    rest = "" if whole else "; --full takes all of them"
    return (
        f"The wait is for embedding {which} with {model}, about {words(found.seconds)} at a third of the "
        f"{found.documents_per_s:.3g} documents/s that a probe of this machine found, as the rest of the demo works "
        f"beside it{rest}."
    )
