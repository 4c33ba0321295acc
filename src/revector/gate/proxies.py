"""Owns what a judge's word is worth to a verdict: its scores of what old and new found, beside people's.

Queries count in one random order up to the first that was not judged whole: so those that people judged and those that
they did not are asked about alike. In a query with an answer that was refused, the judge is taken to see no difference.
Whatever the judge says, it is corrected by people's judgements of the same queries (``measure.proxied``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import sqlalchemy as sa

from revector.errors import ConfigError, LabelError
from revector.formats.kept import Kept
from revector.gate.query_set import QuerySet
from revector.labels import in_random_order
from revector.labels.judges.kept import KeptAnswer, PairKey, read_answers, read_stored, text_hash
from revector.labels.judges.settings import JudgeIdentity
from revector.labels.opinions import agreement
from revector.measure.differing import answers_differ
from revector.spec import stable_hash

Rankings = Mapping[str, Sequence[str]]


class ProxyFigures(Kept):
    """A judge as a verdict names it, and how far it agrees with people.

    ``whole`` of ``differing`` queries have all its answers; of these, ``refused`` documents have none on the scale. Of
    ``pairs`` that people judged too it says the same, relevant or not, of ``alike``; ``alpha`` as of
    ``opinions.agreement``.
    """

    words: str
    fingerprint: str
    differing: int
    whole: int
    refused: int
    pairs: int
    alike: int
    alpha: float | None


@dataclass(frozen=True, slots=True)
class ProxyScores:
    """``items``: query → document → score, in the order in which they count; no document where one was refused."""

    items: Mapping[str, Mapping[str, int]]
    figures: ProxyFigures


def judge_of(judges: Mapping[str, JudgeIdentity], name: str) -> JudgeIdentity:
    """Return a judge by its name. Raises ``ConfigError`` where revector.toml has none of it."""
    if name not in judges:
        raise ConfigError(
            f"judge {name!r} was asked for as a proxy, and revector.toml names {', '.join(sorted(judges)) or 'none'}. "
            f"Nothing was measured; add a table [judges.{name}], or name another (gate.proxy in the migration file)."
        )
    return judges[name]


def candidates(queries: QuerySet, old: Rankings, new: Rankings, *, ordered: bool) -> dict[str, list[str]]:
    """Return the queries that differ, labelled or not, in a random order, with the documents that either found.

    ``old`` and ``new``: rankings of all that were asked, cut at the rank of the gate. Raises ``LabelError`` where
    passages are judged: a judge reads documents.
    """
    if queries.labels.spans:
        raise LabelError(
            f"a judge was to stand beside {queries.labels.name}, where passages are judged, and it judges documents. "
            "Nothing was asked; take gate.proxy out of the migration file, or label documents."
        )
    asked = [*queries.texts, *queries.others]
    differing = [query for query in asked if answers_differ(old[query], new[query], ordered=ordered)]
    return {query: sorted({*old[query], *new[query]}) for query in in_random_order(differing)}


def read_proxies(
    connection: sa.Connection,
    cid: int,
    judge: JudgeIdentity,
    queries: QuerySet,
    found: Mapping[str, Collection[str]],
) -> ProxyScores:
    """Return what a judge said of ``found``, which is as of ``candidates``."""
    stored = read_stored(connection, cid, {document for documents in found.values() for document in documents})
    said = read_answers(connection, cid, judge)
    texts = {**queries.texts, **queries.others}
    answers = {
        query: {
            document: said.get(PairKey(text_hash(texts[query]), stored[document].content))
            for document in documents
            if document in stored
        }
        for query, documents in found.items()
    }
    whole = list(takewhile(lambda query: None not in answers[query].values(), answers))
    kept = {query: {doc: one for doc, one in answers[query].items() if one is not None} for query in whole}
    _refuse_mixed(judge, kept)
    scores = {query: {doc: one.score for doc, one in of.items() if one.score is not None} for query, of in kept.items()}
    refused = {query: len(kept[query]) - len(scores[query]) for query in whole}
    items = {query: {} if refused[query] else scores[query] for query in whole}
    people = {
        (query, doc): score
        for query in whole
        for doc, score in {**queries.labels.qrels.get(query, {}), **queries.drawn.get(query, {})}.items()
    }
    judged = {(query, doc): score for query in whole for doc, score in scores[query].items()}
    agreed = agreement({"people": people, "judge": judged})
    told = ProxyFigures(
        words=judge.words,
        fingerprint=stable_hash({"judge": judge.fingerprint, "scores": items}),
        differing=len(found),
        whole=len(whole),
        refused=sum(refused.values()),
        pairs=agreed.pairs,
        alike=agreed.alike,
        alpha=agreed.alpha,
    )
    return ProxyScores(items, told)


def _refuse_mixed(judge: JudgeIdentity, kept: Mapping[str, Mapping[str, KeptAnswer]]) -> None:
    """Raise ``LabelError`` where the server exchanged the model: it must be the same for all queries."""
    by = sorted({answer.by for answers in kept.values() for answer in answers.values()})
    if len(by) > 1:
        raise LabelError(
            f"judge {judge.words} was answered by {len(by)} models: {', '.join(by[:5])}. Its scores cannot stand "
            "beside people's, as those of the judged queries may be of another model than the rest. Nothing was judged;"
            " name one model exactly in revector.toml and run `revector labels proxy` again, or take gate.proxy out."
        )
