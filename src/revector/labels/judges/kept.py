"""Owns what judges said, as it is kept: beside the labels and never among them, with who said it, how and when."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from revector.labels.judges.asking import JudgeAnswer
from revector.labels.judges.settings import JudgeIdentity


class PairKey(NamedTuple):
    """A query and a document by the SHA-256 of their texts, in hex."""

    query: str
    document: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A ``score``, None where the answer was refused, and the model that gave it."""

    score: int | None
    by: str


@dataclass(frozen=True, slots=True)
class StoredText:
    """A document's hash, and its length in characters."""

    content: str
    chars: int


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text in hex, as PostgreSQL keeps it of a document."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def read_stored(connection: sa.Connection, cid: int, documents: Collection[str]) -> dict[str, StoredText]:
    """Return hash and length of those documents that exist."""
    sql = sa.text(
        "SELECT doc_id, content_hash, char_length(content) AS chars FROM document WHERE cid = :cid AND NOT deleted AND "
        "doc_id = ANY(:ids)"
    )
    rows = connection.execute(sql, {"cid": cid, "ids": list(documents)})
    return {row.doc_id: StoredText(row.content_hash, row.chars) for row in rows}


def read_answers(connection: sa.Connection, cid: int, judge: JudgeIdentity) -> dict[PairKey, KeptAnswer]:
    """Return all that a judge said of a collection."""
    sql = sa.text("SELECT query, document, score, answered_by FROM proxy_score WHERE cid = :cid AND judge = :judge")
    rows = connection.execute(sql, {"cid": cid, "judge": judge.fingerprint})
    return {PairKey(row.query, row.document): KeptAnswer(row.score, row.answered_by) for row in rows}


def keep_answers(
    connection: sa.Connection, cid: int, judge: JudgeIdentity, answers: Mapping[PairKey, JudgeAnswer]
) -> int:
    """Keep answers, and return how many of them are new: what is kept stays as it is."""
    sql = sa.text(
        "INSERT INTO proxy_score (cid, judge, query, document, score, refused, name, model, prompt, answered_by, "
        "tokens_in, tokens_out) VALUES (:cid, :judge, :query, :document, :score, :refused, :name, :model, :prompt, "
        ":by, :tokens_in, :tokens_out) ON CONFLICT DO NOTHING"
    )
    new = 0
    for pair, answer in answers.items():
        told = {
            "cid": cid,
            "judge": judge.fingerprint,
            "name": judge.name,
            "model": judge.model,
            "prompt": judge.prompt,
            "query": pair.query,
            "document": pair.document,
            "score": answer.score,
            "refused": None if answer.refused is None else answer.refused.replace("\0", "�"),
            "by": answer.by.replace("\0", "�"),
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }
        new += connection.execute(sql, told).rowcount
    return new


def read_spent(connection: sa.Connection, cid: int, judge: JudgeIdentity) -> tuple[int, int]:
    """Return the tokens, in and out, of all that a judge said of a collection."""
    sql = sa.text(
        "SELECT coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0) FROM proxy_score WHERE cid = :cid AND "
        "judge = :judge"
    )
    tokens_in, tokens_out = connection.execute(sql, {"cid": cid, "judge": judge.fingerprint}).one()
    return int(tokens_in), int(tokens_out)
