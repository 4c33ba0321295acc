"""Rules of applications: writes of every kind, and queries by sessions."""

from __future__ import annotations

import json

import sqlalchemy as sa
from evaluation.reliability.simulated.encoders import POISON, VENOM
from evaluation.reliability.simulated.look import demand
from evaluation.reliability.simulated.oracle import Query, Write
from evaluation.reliability.simulated.rules import fates, paces, rule
from evaluation.reliability.simulated.stage import Fate
from evaluation.reliability.simulated.world import World

from revector.documents.documents import WriteResult
from revector.errors import DocumentError
from revector.interfaces import Document

IDS = ("a", "A", "\u00e9", "e\u0301")
"""Alike in one system or another: in letter case, in Unicode form."""

DOCS = (*("a",) * 4, *IDS[1:])
"""One more often: what meets on one document is what matters."""

WORDS = (3, 1, 9, 20)
LANGUAGES = ("en", "de")
EXTRAS = ("", "", "", "", "", "", POISON, VENOM, VENOM)
VERSIONS = (1, 2, 3, 4, 5, 6)
FATES = fates("write.after_row", "write.after_commit")
SESSIONS = ("reader 1", "reader 2", "reader 3")


@rule(9, DOCS, WORDS, LANGUAGES, EXTRAS, FATES)
def put(world: World, doc_id: str, words: int, lang: str, extra: str, fate: Fate | None) -> bool:
    """Create, replace or create again."""
    text, meta = world.text(words, extra), {"lang": lang}
    world.write([Write(doc_id, text, meta)], lambda: world.documents.put(doc_id, text, meta), fate)
    return True


@rule(2, DOCS, LANGUAGES, FATES)
def put_same_text(world: World, doc_id: str, lang: str, fate: Fate | None) -> bool:
    """Write what is there already, perhaps with other metadata."""
    known = world.oracle.documents.get(doc_id)
    if known is None or known.content is None:
        return False
    text, meta = known.content, {"lang": lang}
    world.write([Write(doc_id, text, meta)], lambda: world.documents.put(doc_id, text, meta), fate)
    return True


@rule(2, WORDS, LANGUAGES, FATES)
def put_three(world: World, words: int, lang: str, fate: Fate | None) -> bool:
    """Write several documents in one call: all or none."""
    documents = [Document(doc_id, world.text(words), {"lang": lang}) for doc_id in IDS[:3]]
    writes = [Write(one.id, one.text, {"lang": lang}) for one in documents]
    world.write(writes, lambda: world.documents.put_many(documents), fate)
    return True


@rule(5, DOCS, FATES)
def delete(world: World, doc_id: str, fate: Fate | None) -> bool:
    """Delete; what does not exist is left alone."""
    known = world.oracle.documents.get(doc_id)
    writes = [] if known is None or known.deleted else [Write(doc_id, None, {})]
    world.write(writes, lambda: world.documents.delete(doc_id), fate)
    return True


@rule(2, DOCS, WORDS, VERSIONS, FATES)
def put_version(world: World, doc_id: str, words: int, version: int, fate: Fate | None) -> bool:
    """Write with the caller's own version, in whatever order they come."""
    text, meta = world.text(words), {"lang": "en"}
    writes = [Write(doc_id, text, meta, version)]
    world.write(writes, lambda: world.documents.put(doc_id, text, meta, version), fate)
    return True


@rule(1, DOCS, VERSIONS, FATES)
def delete_version(world: World, doc_id: str, version: int, fate: Fate | None) -> bool:
    """Delete with the caller's own version, perhaps before the document was ever seen."""
    world.write([Write(doc_id, None, {}, version)], lambda: world.documents.delete(doc_id, version), fate)
    return True


@rule(1, ("", " \n", "\x00", None))
def put_refused(world: World, text: str | None) -> bool:
    """Hand over what cannot be stored: nothing may change."""

    def refuse() -> None:
        try:
            world.documents.put("a", text)  # type: ignore[arg-type]
        except DocumentError:
            return
        raise AssertionError(f"{text!r} was taken")

    world.call("writer", refuse)
    return True


@rule(2, DOCS, WORDS, (False, True))
def write_past_library(world: World, doc_id: str, words: int, deleted: bool) -> bool:
    """Begin a foreign transaction under REPEATABLE READ; it writes when it is let go on, with an old snapshot."""
    if world.builds_hnsw or world.place.stage.place("foreign") or doc_id not in world.oracle.documents:
        return False
    text, meta = world.text(words), {"lang": "de"}

    def write() -> None:
        with world.place.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            connection.exec_driver_sql("SELECT 1 FROM document LIMIT 1")
            world.place.stage.stand("foreign.snapshot")
            old = world.oracle.documents[doc_id]
            new = old._replace(version=None, deleted=deleted, content=None if deleted else text, meta=meta)
            world.oracle.unknown({doc_id: new})
            connection.execute(
                sa.text(
                    "UPDATE document SET content = :text, deleted = :deleted, meta = CAST(:meta AS jsonb) WHERE cid = "
                    ":cid AND doc_id = :doc_id"
                ),
                {"text": text, "deleted": deleted, "meta": json.dumps(meta), "cid": world.cid, "doc_id": doc_id},
            )
            connection.commit()

    def write_or_fail() -> None:
        try:
            write()
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "40001":  # what PostgreSQL answers to an outdated snapshot
                raise

    world.call("foreign", write_or_fail)
    return True


PLACES = paces("outside encode query", "outside encode query", "outside encode query")
ROLES = (None, None, None, "standby", "building")


@rule(10, SESSIONS, ROLES, ("document", "chunk"), (100, 1, 2), (None, "en", "de"), DOCS, PLACES)
def query(
    world: World, session: str, role: str | None, by: str, k: int, lang: str | None, about: str, pace: int
) -> bool:
    """Ask, through the alias or a live generation by name."""
    if world.place.stage.place(session) or (role is not None and role not in world.seen.slots):
        return False
    known = world.oracle.documents.get(about)
    text = (known.content if known is not None and known.content else "w1x0 w2x0").split(" ")[0]
    world.query(session, Query(text, k, by, lang), role, pace)
    return True


@rule(1, DOCS, (1, 2, 4, 7))
def read_own_write(world: World, doc_id: str, pace: int | str) -> bool:
    """Wait until the alias shows what was written."""
    known = world.oracle.documents.get(doc_id)
    if known is None or known.version is None or world.seen.active is None or world.place.stage.place("waiting"):
        return False
    written = WriteResult({doc_id: known.version})

    def served(_: None) -> None:
        shown = world.seen.ledger.get((world.seen.active or 0, doc_id))
        right = shown is not None and shown.version >= written.versions[doc_id]
        demand(right, "lost", written, "is said to be shown, and the ledger says", shown)

    world.call("waiting", lambda: world.documents.wait_until_served(written, timeout_s=3.0), served, pace=pace)
    return True
