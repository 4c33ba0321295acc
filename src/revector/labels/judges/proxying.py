"""Owns having a judge judge what old and new found: what it will take, and the work, each answer kept at once.

A process that is killed goes on where it was: a pair that has an answer is never sent again, also one whose answer was
refused. Only requests that were under way when it was killed are paid for nothing, at most as many as run at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import sqlalchemy as sa

from revector.database.sessions import holder, try_hold
from revector.errors import LabelError
from revector.interfaces import Progress
from revector.labels.judges.asking import AskedPair, Judge, JudgeAnswer
from revector.labels.judges.kept import (
    PairKey,
    StoredText,
    keep_answers,
    read_answers,
    read_spent,
    read_stored,
    text_hash,
)
from revector.labels.judges.settings import CrossEncoderJudge, JudgeIdentity, OpenAIJudge

LOCK = 1919252080
"""First key of the advisory lock of the process that asks a judge."""

Candidates: TypeAlias = Mapping[str, Sequence[str]]
"""Query id → documents that old or new found for it, in a random order of the queries."""


@dataclass(frozen=True, slots=True)
class DuePair:
    """A pair that was not judged yet: the query's text, the document, and what asking is estimated to take."""

    key: PairKey
    query: str
    document: str
    tokens_in: int


@dataclass(frozen=True, slots=True)
class ProxyPlan:
    """What judging takes: ``due`` pairs of ``due_queries``, of ``pairs`` of all ``queries`` that differ.

    ``tokens_in`` and ``tokens_out`` are estimates for what is due, ``usd`` their price; ``spent_usd`` is that of all
    that this judge has answered before.
    """

    judge: JudgeIdentity
    queries: int
    pairs: int
    due_queries: int
    due: Sequence[DuePair] = field(repr=False)
    tokens_in: int
    tokens_out: int
    usd: float
    spent_usd: float


@dataclass(slots=True)
class ProxyReport:
    """What came of it: pairs ``asked``, of which ``refused`` were not answered on the scale, and ``left`` undone."""

    asked: int = 0
    refused: int = 0
    left: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    refused_first: str = ""


class _Waiting(dict[Future[list[JudgeAnswer]], Sequence[DuePair]]):
    """Requests that are under way, and what they ask for."""


class Proxying:
    """The work of one judge on one collection."""

    def __init__(
        self, engine: sa.Engine, cid: int, settings: OpenAIJudge | CrossEncoderJudge, identity: JudgeIdentity
    ) -> None:
        self._engine, self._cid, self._settings, self._identity = engine, cid, settings, identity

    def plan(self, candidates: Candidates, texts: Mapping[str, str], *, limit: int | None = None) -> ProxyPlan:
        """Return what judging takes; ``texts``: query id → text. ``limit``: of how many queries at most."""
        with self._engine.connect() as connection:
            stored = read_stored(connection, self._cid, {doc for found in candidates.values() for doc in found})
            known = read_answers(connection, self._cid, self._identity)
            spent = read_spent(connection, self._cid, self._identity)
        pairs = {query: self._pairs(texts[query], found, stored) for query, found in candidates.items()}
        due = {query: [pair for pair in found if pair.key not in known] for query, found in pairs.items()}
        chosen = [query for query, found in due.items() if found][:limit]
        every = {pair.key: pair for query in chosen for pair in due[query]}
        tokens_in, tokens_out = sum(one.tokens_in for one in every.values()), len(every) * self._settings.output_tokens
        return ProxyPlan(
            judge=self._identity,
            queries=len(candidates),
            pairs=sum(map(len, pairs.values())),
            due_queries=len(chosen),
            due=list(every.values()),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            usd=self._settings.usd(tokens_in, tokens_out),
            spent_usd=self._settings.usd(*spent),
        )

    def run(self, plan: ProxyPlan, judge: Judge, progress: Progress, *, budget_usd: float | None = None) -> ProxyReport:
        """Ask the judge for all that is due, or until the next request would take this run beyond ``budget_usd``.

        Raises ``LabelError`` while another process asks the same judge, ``JudgeUnavailable`` as ``Judge.ask``; what was
        answered is kept.
        """
        held = holder(self._engine)
        try:
            if not try_hold(held, LOCK, f"{self._cid} {self._identity.fingerprint}"):
                raise LabelError(
                    f"another process asks judge {self._identity.name!r} about this collection. Nothing was sent, or "
                    "pairs would be paid twice; wait for it, or end it."
                )
            progress.start(f"judge {self._identity.name}", len(plan.due), unit="documents")
            report = self._run(plan, judge, progress, budget_usd)
            progress.done(f"{report.refused:,} answers refused" if report.refused else "")
        finally:
            held.close()
        return report

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _pairs(self, query: str, found: Sequence[str], stored: Mapping[str, StoredText]) -> list[DuePair]:
        """Return the pairs of a query; a document that was deleted meanwhile is left out."""
        hashed = text_hash(query)
        return [
            DuePair(
                PairKey(hashed, stored[document].content),
                query,
                document,
                self._settings.input_tokens(len(query), stored[document].chars),
            )
            for document in found
            if document in stored
        ]

    def _run(self, plan: ProxyPlan, judge: Judge, progress: Progress, budget_usd: float | None) -> ProxyReport:
        report, waiting = ProxyReport(left=len(plan.due)), _Waiting()
        with ThreadPoolExecutor(judge.workers) as pool:  # whatever ends it, what is under way is answered and kept
            for at in range(0, len(plan.due), judge.at_once):
                some = plan.due[at : at + judge.at_once]
                spent = report.usd + sum(map(self._estimate, (*waiting.values(), some)))
                if budget_usd is not None and spent > budget_usd:
                    break
                waiting[pool.submit(self._ask, judge, some)] = some
                if len(waiting) == judge.workers:
                    self._count(report, waiting, progress, FIRST_COMPLETED)
            self._count(report, waiting, progress, ALL_COMPLETED)
        return report

    def _ask(self, judge: Judge, some: Sequence[DuePair]) -> list[JudgeAnswer]:
        with self._engine.connect() as connection:
            sql = sa.text("SELECT doc_id, content, content_hash FROM document WHERE cid = :cid AND doc_id = ANY(:ids)")
            rows = connection.execute(sql, {"cid": self._cid, "ids": [one.document for one in some]})
            texts = {(row.doc_id, row.content_hash): row.content for row in rows}
        there = [one for one in some if (one.document, one.key.document) in texts]
        said = judge.ask([AskedPair(one.query, texts[one.document, one.key.document]) for one in there])
        answers = [self._counted(one, answer) for one, answer in zip(there, said, strict=True)]
        with self._engine.begin() as connection:
            kept = {one.key: answer for one, answer in zip(there, answers, strict=True)}
            keep_answers(connection, self._cid, self._identity, kept)
        return answers

    def _counted(self, pair: DuePair, answer: JudgeAnswer) -> JudgeAnswer:
        """Return an answer with the estimate where the server counts no tokens."""
        tokens_in = answer.tokens_in or pair.tokens_in
        return replace(answer, tokens_in=tokens_in, tokens_out=answer.tokens_out or self._settings.output_tokens)

    def _count(self, report: ProxyReport, waiting: _Waiting, progress: Progress, when: str) -> None:
        """Wait and count what was answered. Raises what a request failed with."""
        for one in wait(waiting, return_when=when).done:
            some = waiting.pop(one)
            for answer in one.result():
                report.asked += 1
                report.tokens_in += answer.tokens_in
                report.tokens_out += answer.tokens_out
                report.refused += answer.score is None
                report.refused_first = report.refused_first or answer.refused or ""
            report.left -= len(some)
            report.usd = self._settings.usd(report.tokens_in, report.tokens_out)
            progress.advance(len(some))

    def _estimate(self, some: Sequence[DuePair]) -> float:
        tokens_in = sum(one.tokens_in for one in some)
        return self._settings.usd(tokens_in, len(some) * self._settings.output_tokens)
