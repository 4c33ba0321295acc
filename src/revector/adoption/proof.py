"""Owns the proof that vectors are of a model: sampled rows, embedded in the likely forms of their text and its cuts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.adoption.look import AdoptionLook
from revector.adoption.table import TableLook, numbers_sql, vector_sql
from revector.adoption.terms import ROW, AdoptedTable, column_of
from revector.interfaces import Progress, Vectors
from revector.spec import Chunking

SAMPLED = 128
FIRST_LOOK = 24
"""Rows over which the likely forms are compared; the best of them is then tried on all that are sampled."""

GLANCE, LIKELY = 3, 8
"""Where there are more forms than ``LIKELY``, as many are left over by a look at so few rows."""

MOST_JOINED = 3
"""Columns that are joined, where nobody said which are the text."""

SAME, FAMILY = 0.999, 0.95
"""Least cosine of a vector to be the model's own; and, in the median, to be of a near relative or a rounded copy.

As the import of files: MiniLM in float16 or int8, and across libraries, stays above 0.999; another text of the same
corpus is below 0.9 (median of 1,398 titles with and without their bodies: 0.83).
"""

SHARE_OTHER = 0.05
"""Up to this share of rows that are the model's own, by chance or as empty texts, it is not this model."""

UNIT_TOLERANCE = 0.01
"""As in verification: how far from 1 the length of a normalised vector may be."""

SEPARATORS = ("\n", " ", "\n\n", ". ")

Verdict = Literal["same", "family", "mixture", "other", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class SampledRow:
    """The vectors of one row, ``(c, dim)``, of which mostly there is one, and the value of each sampled column.

    ``whole``: the text of the terms, where it is more than its columns, see ``AdoptedTable.node``.
    """

    vectors: Vectors
    texts: tuple[str | None, ...]
    whole: str = ""


EncodeTexts = Callable[[str, Sequence[str]], Vectors]
"""Embeds texts as documents with a prompt before each: ``(n, dim)``."""

CutText = Callable[[Chunking, str], Sequence[str]]
"""Returns the chunks of a text."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """A way in which vectors may have been made: columns, what joins them, how it was cut, and a prompt before each."""

    columns: tuple[str, ...]
    separator: str
    prompt: str
    chunking: Chunking
    node: str | None = None
    """LlamaIndex's column of metadata, which stand before the text."""

    @property
    def said(self) -> str:
        """How a person would write it."""
        prompt = f"{self.prompt!r} + " if self.prompt else ""
        node = f"the metadata in {self.node} + " if self.node else ""
        return prompt + node + f" + {self.separator!r} + ".join(self.columns) + self._cut

    @property
    def _cut(self) -> str:
        one = self.chunking
        if one.unit == "document":
            return ""
        if one.unit == "sentences":
            return f", cut into {one.min_sentences} to {one.max_sentences} sentences"
        return f", cut at {one.max_tokens} tokens with {one.overlap_tokens} in common"


@dataclass(frozen=True, slots=True)
class ModelProof:
    """What the sample says. Cosines are from -1 to 1, over ``compared`` rows; ``share``: of them above ``SAME``."""

    verdict: Verdict
    form: TextForm | None
    compared: int
    share: float
    lowest: float | None
    median: float | None
    unit: bool = True
    """Whether the vectors have length 1."""
    others: tuple[tuple[str, float], ...] = ()
    """Every form that was tried, and its median cosine over the first rows."""
    longer: float = 0.0
    """Share of the rows whose text is longer than the model reads: their vectors prove it, and are embedded again."""
    text_s: float = 0.0
    """Seconds that a text took to embed, here and now."""

    def as_data(self) -> dict[str, object]:
        """Return it for the history and for ``--json``."""
        form = None if self.form is None else self.form.said
        return {
            "verdict": self.verdict, "said": self.said, "form": form, "compared": self.compared,
            "share": round(self.share, 4), "lowest": self.lowest, "median": self.median, "tried": dict(self.others),
            "longer": round(self.longer, 4),
        }  # fmt: skip

    @property
    def said(self) -> str:
        """The verdict in a sentence."""
        if self.form is None:
            return "there are no vectors to prove; all texts will be embedded"
        found = f"{self.share:.1%} of {self.compared} sampled rows have cosine {SAME} or more to what the model makes"
        found += f" of {self.form.said} (median {self.median:.4f}, lowest {self.lowest:.4f})"
        return {
            "same": f"same model: {found}",
            "family": f"a relative of this model, or its rounded vectors, but not the same: {found}",
            "mixture": f"a mixture: {found}; the others are of another model or of older texts",
            "other": f"not this model, or not of these texts: {found}",
            "none": found,
        }[self.verdict]


class Prover:
    """Embeds rows by ``encode`` and compares them with the vectors that are there.

    ``max_tokens``: what the model sees of a text; where each row has one vector, it is of that beginning.
    """

    def __init__(
        self, columns: Sequence[str], encode: EncodeTexts, cut: CutText, max_tokens: int, progress: Progress
    ) -> None:
        self._columns, self._encode, self._cut, self._progress = tuple(columns), encode, cut, progress
        self._whole = Chunking(unit="document", max_tokens=max_tokens, overlap_tokens=0)

    def prove(
        self, rows: Sequence[SampledRow], terms: AdoptedTable, candidates: Sequence[str], prompt: str
    ) -> ModelProof:
        """Return whether the vectors are the model's, and of which form of the text.

        ``rows``: at least one; ``terms``: as they were declared, ``candidates``: see ``AdoptionLook``; ``prompt``: the
        model's own for documents.
        """
        few = rows[:FIRST_LOOK]
        forms = [
            replace(form, chunking=chunking)
            for form in forms_of(terms, candidates, prompt, self._whole)
            for chunking in self._chunkings(form, rows, few)
        ]
        glanced = len(forms) * GLANCE if candidates and len(forms) > LIKELY else 0
        self._progress.start(
            "prove the model", glanced + (LIKELY if glanced else len(forms)) * len(few) + len(rows), "texts"
        )
        if glanced:
            medians = {form: float(np.median(self._cosines(form, rows[:GLANCE]))) for form in forms}
            forms = sorted(forms, key=lambda form: -medians[form])[:LIKELY]  # of equals the first, as declared
        looked = [(form, self._cosines(form, few)) for form in forms]
        # By what is the model's own, for a mixture's median says nothing; of equals the first: as it was declared.
        best = max(looked, key=lambda one: (float((one[1] >= SAME).mean()), float(np.median(one[1]))))[0]
        proof = self.check(rows, best)
        self._progress.done()
        return replace(proof, others=tuple((form.said, round(float(np.median(found)), 4)) for form, found in looked))

    def check(self, rows: Sequence[SampledRow], form: TextForm) -> ModelProof:
        """Return whether the vectors of ``rows``, at least one, are the model's in this form of the text."""
        began = time.perf_counter()
        cosines = self._cosines(form, rows)
        text_s = (time.perf_counter() - began) / len(rows)
        share, median = float((cosines >= SAME).mean()), float(np.median(cosines))
        lengths = np.concatenate([np.linalg.norm(row.vectors, axis=1) for row in rows])
        return ModelProof(
            _verdict(share, median),
            form,
            len(rows),
            share,
            round(float(cosines.min()), 6),
            round(median, 6),
            bool(np.abs(lengths - 1).max() <= UNIT_TOLERANCE),
            longer=sum(self._is_longer(form, row) for row in rows) / len(rows),
            text_s=text_s,
        )

    def _chunkings(self, form: TextForm, rows: Sequence[SampledRow], few: Sequence[SampledRow]) -> list[Chunking]:
        """Return the ways of cutting that give most rows as many chunks as they have vectors; embeds nothing."""
        if all(len(row.vectors) == 1 for row in rows):
            return [self._whole]
        fitting = []
        for one in chunkings_of(self._whole.max_tokens):
            counted = [len(self._pieces(replace(form, chunking=one), row)) == len(row.vectors) for row in few]
            if 2 * sum(counted) > len(few):
                fitting.append(one)
        return fitting or [self._whole]

    def _text(self, form: TextForm, row: SampledRow) -> str:
        values = (row.texts[self._columns.index(name)] for name in form.columns)
        return row.whole if form.node else form.separator.join(str(value) for value in values if value)

    def _is_longer(self, form: TextForm, row: SampledRow) -> bool:
        """Whether the model reads the beginning of a text alone: the piece that it is cut to ends before it."""
        text = self._text(form, row).rstrip()
        return form.chunking.unit == "document" and not text.endswith(tuple(self._cut(form.chunking, text)))

    def _pieces(self, form: TextForm, row: SampledRow) -> Sequence[str]:
        text = self._text(form, row)
        if form.chunking.unit == "document":  # cut by the encoder, as the model cuts it: between tokens, not characters
            return [text if text.strip() else "-"]
        return self._cut(form.chunking, text) or ["-"]

    def _cosines(self, form: TextForm, rows: Sequence[SampledRow]) -> npt.NDArray[np.float64]:
        """Return each row's lowest cosine; -1 where it has not as many vectors as this form gives."""
        pieces = [self._pieces(form, row) for row in rows]
        fits = [len(texts) == len(row.vectors) for texts, row in zip(pieces, rows, strict=True)]
        found = np.full(len(rows), -1.0)
        some = [n for n, fit in enumerate(fits) if fit]
        if some:
            ours = np.asarray(self._encode(form.prompt, [text for n in some for text in pieces[n]]), np.float64)
            theirs = np.concatenate([rows[n].vectors for n in some]).astype(np.float64)
            of = np.repeat(some, [len(pieces[n]) for n in some])
            if ours.shape == theirs.shape:
                lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
                cosines = np.where(lengths > 0, (ours * theirs).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), -1.0)
                found[some] = 1.0
                np.minimum.at(found, of, cosines)
        self._progress.advance(len(rows))
        return found


def sample(connection: sa.Connection, look: TableLook) -> Sequence[SampledRow]:
    """Return rows with a text and a vector of the usual width: from all over the table, in random order."""
    terms = look.terms
    if terms.vector is None or look.dim is None:
        return []
    column = column_of(terms.vector)
    width, sound = vector_sql(column, look.columns[terms.vector].type)
    texts = ", ".join(f"CAST({column_of(name)} AS text)" for name in sampled_columns(look))
    statement = (
        f"SELECT {numbers_sql(column)} AS v, {texts}, {terms.content()} FROM {terms.table} {ROW} WHERE "
        f"({terms.where or 'true'}) AND {width} = {look.dim} AND {sound} AND {terms.content()} ~ '\\S' AND "
        f"random() <= {min(1.0, 40 * SAMPLED / max(look.documents, 1))} ORDER BY random() LIMIT {SAMPLED}"
    )
    rows = connection.execute(sa.text(statement.replace(":", "\\:"))).all()
    return [
        SampledRow(np.frombuffer(row[0], ">f4").astype(np.float32)[None], tuple(row[1:-1]), str(row[-1]))
        for row in rows
    ]


def sampled_columns(look: AdoptionLook) -> list[str]:
    """Return the columns whose values a sample has."""
    return list(dict.fromkeys((*look.terms.text, *look.candidates)))


def forms_of(terms: AdoptedTable, candidates: Sequence[str], prompt: str, chunking: Chunking) -> Iterator[TextForm]:
    """Yield the likely forms of the text, each once, the declared one first; ``candidates``: see ``AdoptionLook``."""
    sets = [terms.text, *((name,) for name in terms.text)]
    for many in range(1, min(MOST_JOINED, len(candidates)) + 1):
        sets += combinations(candidates, many)
    for before in dict.fromkeys((prompt, "")):
        if terms.node:
            yield TextForm(terms.text, terms.separator, before, chunking, terms.node)
        for columns in dict.fromkeys(sets):
            yield TextForm(columns, terms.separator, before, chunking)
            for separator in SEPARATORS if len(columns) > 1 else ():
                if separator != terms.separator:
                    yield TextForm(columns, separator, before, chunking)


def chunkings_of(max_tokens: int) -> Iterator[Chunking]:
    """Yield the usual ways of cutting a text for a model that sees ``max_tokens``, our own default first."""
    for size in (256, 512, 128, 384, 200, 100, 64):
        for overlap in dict.fromkeys((32, 0, size // 8, size // 10, size // 5, 50, 20, size // 4)):
            if size <= max_tokens and overlap <= size // 2:
                yield Chunking("tokens", size, overlap)
    yield Chunking("sentences", min(256, max_tokens))


def _verdict(share: float, median: float) -> Verdict:
    if share == 1.0:  # one row of 128 that is not: up to 4 % of all (95 %), and nothing tells which
        return "same"
    if share > SHARE_OTHER:
        return "mixture"
    return "family" if median >= FAMILY else "other"
