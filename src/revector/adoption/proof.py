"""Owns the proof that a table's vectors are of a model: sampled rows, embedded in the likely forms of their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from revector.adoption.table import TableLook, numbers_sql, vector_sql
from revector.adoption.terms import ROW, AdoptedTable, column_of
from revector.interfaces import Progress, Vectors

SAMPLED = 128
FIRST_LOOK = 24
"""Rows over which the likely forms are compared; the best of them is then tried on all that are sampled."""

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


SampledRow = sa.Row[tuple[object, ...]]
"""The vector's numbers, float32 in network order, and the value of each text column."""

EncodeTexts = Callable[[str, Sequence[str]], Vectors]
"""Embeds texts as documents with a prompt before each, cut to what the model sees: ``(n, dim)``."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """A way in which a text may have been made: columns, what joins them, and a prompt before it."""

    columns: tuple[str, ...]
    separator: str
    prompt: str

    @property
    def said(self) -> str:
        """How a person would write it."""
        prompt = f"{self.prompt!r} + " if self.prompt else ""
        return prompt + f" + {self.separator!r} + ".join(self.columns)


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

    def as_data(self) -> dict[str, object]:
        """Return it for the history and for ``--json``."""
        form = None if self.form is None else self.form.said
        return {
            "verdict": self.verdict, "said": self.said, "form": form, "compared": self.compared,
            "share": round(self.share, 4), "lowest": self.lowest, "median": self.median, "tried": dict(self.others),
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
    """Embeds rows of a table by ``encode`` and compares them with the vectors that are there."""

    def __init__(self, terms: AdoptedTable, encode: EncodeTexts, progress: Progress) -> None:
        self._terms, self._encode, self._progress = terms, encode, progress

    def prove(self, rows: Sequence[SampledRow], prompt: str) -> ModelProof:
        """Return whether the vectors are the model's, and of which form of the text.

        ``rows``: at least one; ``prompt``: the model's own for documents.
        """
        forms, few = list(forms_of(self._terms, prompt)), rows[:FIRST_LOOK]
        self._progress.start("prove the model", len(forms) * len(few) + len(rows), "texts")
        looked = [(form, self._cosines(form, few)) for form in forms]
        # By what is the model's own, for a mixture's median says nothing; of equals the first: as it was declared.
        best = max(looked, key=lambda one: (float((one[1] >= SAME).mean()), float(np.median(one[1]))))[0]
        cosines = self._cosines(best, rows)
        self._progress.done()
        share, median = float((cosines >= SAME).mean()), float(np.median(cosines))
        return ModelProof(
            _verdict(share, median),
            best,
            len(rows),
            share,
            round(float(cosines.min()), 6),
            round(median, 6),
            bool(np.abs(np.linalg.norm(_numbers(rows), axis=1) - 1).max() <= UNIT_TOLERANCE),
            tuple((form.said, round(float(np.median(found)), 4)) for form, found in looked),
        )

    def _cosines(self, form: TextForm, rows: Sequence[SampledRow]) -> npt.NDArray[np.float64]:
        theirs = _numbers(rows)
        places = [self._terms.text.index(name) + 1 for name in form.columns]
        texts = [form.separator.join(str(row[n]) for n in places if row[n]) for row in rows]
        ours = np.asarray(self._encode(form.prompt, [text if text.strip() else "-" for text in texts]), np.float64)
        self._progress.advance(len(rows))
        if ours.shape != theirs.shape:
            return np.full(len(rows), -1.0)
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return np.where(lengths > 0, (ours * theirs).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), -1.0)


def sample(connection: sa.Connection, look: TableLook) -> Sequence[SampledRow]:
    """Return rows with a text and a vector of the usual width: from all over the table, in random order."""
    terms = look.terms
    if terms.vector is None or look.dim is None:
        return []
    column = column_of(terms.vector)
    width, sound = vector_sql(column, look.columns[terms.vector].type)
    texts = ", ".join(f"CAST({column_of(name)} AS text)" for name in terms.text)
    statement = (
        f"SELECT {numbers_sql(column)} AS v, {texts} FROM {terms.table} {ROW} WHERE ({terms.where or 'true'}) AND "
        f"{width} = {look.dim} AND {sound} AND {terms.content()} ~ '\\S' AND "
        f"random() <= {min(1.0, 40 * SAMPLED / max(look.documents, 1))} ORDER BY random() LIMIT {SAMPLED}"
    )
    return connection.execute(sa.text(statement.replace(":", "\\:"))).all()


def forms_of(terms: AdoptedTable, prompt: str) -> Iterator[TextForm]:
    """Yield the likely forms of the text, the declared one first."""
    for before in dict.fromkeys((prompt, "")):
        yield TextForm(terms.text, terms.separator, before)
        if len(terms.text) == 1:
            continue
        for separator in SEPARATORS:
            if separator != terms.separator:
                yield TextForm(terms.text, separator, before)
        for name in terms.text:
            yield TextForm((name,), terms.separator, before)


def _numbers(rows: Sequence[SampledRow]) -> npt.NDArray[np.float64]:
    return np.array([np.frombuffer(row[0], ">f4") for row in rows], np.float64)  # type: ignore[call-overload]


def _verdict(share: float, median: float) -> Verdict:
    if share == 1.0:  # one row of 128 that is not: up to 4 % of all (95 %), and nothing tells which
        return "same"
    if share > SHARE_OTHER:
        return "mixture"
    return "family" if median >= FAMILY else "other"
