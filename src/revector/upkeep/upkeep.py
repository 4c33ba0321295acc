"""Upkeep by night: stale index entries are re-embedded, a source is read again, dead letters are tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from revector.documents.deadletters import retry_dead
from revector.documents.documents import Documents
from revector.errors import ConfigError
from revector.indexing.rearm import rearm
from revector.interfaces import Progress, Source
from revector.registry.control import add_event
from revector.upkeep import stale
from revector.upkeep.rereading import Reread, reread_source

PAGE_IDS = 500
"""Documents re-armed in one transaction, which holds their rows against writers."""

MOST_ENTRIES = 10_000
"""Index entries made due by one run, unless said otherwise: the live lane must follow new writes meanwhile."""

MOST_RETRIES = 200
"""Dead letters tried by one run, unless said otherwise; the history names each of them."""

TRIES = 3
"""How often a dead letter whose failure is final is tried again by upkeep, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class StaleReport:
    """What one look for stale vectors found; an entry is one document in one live index.

    ``entries``: looked at; ``old`` and ``behind``: older than the limit, or not at their document's version and nobody
    at work on it; ``due``: made due again, a worker embeds them; ``left``: over the limit, for the next run;
    ``waiting``: made due by an earlier run and not done yet, which the limit counts, too.
    """

    collection: str
    entries: int
    old: int
    behind: int
    due: int
    left: int
    reread: Reread | None
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class RetryReport:
    """What one run did with the dead letters, in documents.

    ``dead = retried + left + given_up + waived``: made due again; over the limit, for the next run; final and tried
    often enough; accepted by a person. ``refused``: by ingestion, which are fixed at their source.
    """

    collection: str
    dead: int
    retried: int
    left: int
    given_up: int
    waived: int
    refused: int


def refresh_stale(
    engine: sa.Engine,
    cid: int,
    collection: str,
    documents: Documents,
    source: Source | None,
    *,
    actor: str,
    max_age_days: float | None = None,
    limit: int = MOST_ENTRIES,
    max_missing: float | None = None,
    progress: Progress | None = None,
) -> StaleReport:
    """Make every stale entry of every live index due again, up to ``limit``, and keep the counts as an event.

    What is behind comes first, then what is old, of the active index before others. ``wait_until_done`` waits for it.

    ``source`` is read again first: what differs there is written, **also over what was written directly since**, so
    name one only where it is the truth; ``max_missing``: see ``reread_source``. Entries above ``max_age_days`` lose
    their hash, so that they are re-embedded and not taken from another index; they are served until then. None: age
    does not count. Raises ``ConfigError`` for numbers out of range, as ``reread_source``, and ``GateBusy`` when
    documents are held by others; what was done before stays done, and the call may be repeated.
    """
    if limit < 1 or (max_age_days is not None and not max_age_days > 0):
        raise ConfigError(
            f"max_age_days must be above 0 and limit 1 or more, found {max_age_days} and {limit}. Nothing has run."
        )
    reread = None
    if source is not None:
        reread = reread_source(engine, cid, documents, source, actor=actor, max_missing=max_missing, progress=progress)
    with engine.connect() as connection:
        found = stale.find_stale(connection, cid, max_age_days=max_age_days, limit=limit)
    due = sum(_make_due(engine, cid, gen, kinds, actor) for gen, kinds in found.chosen.items())
    chosen = sum(len(ids) for kinds in found.chosen.values() for ids in kinds.values())
    left = found.old + found.behind - chosen
    report = StaleReport(collection, found.entries, found.old, found.behind, due, left, reread, found.waiting)
    detail = asdict(report) | {"max_age_days": max_age_days}
    if detail["reread"]:
        del detail["reread"]["ingested"]  # the event of the ingestion says it
    with engine.begin() as connection:
        add_event(connection, cid, actor, "stale", None, detail)
    return report


def _make_due(engine: sa.Engine, cid: int, gen: int, kinds: Mapping[str, Sequence[str]], actor: str) -> int:
    pages = ((kind, ids[at : at + PAGE_IDS]) for kind, ids in kinds.items() for at in range(0, len(ids), PAGE_IDS))
    return sum(rearm(engine, cid, gen, {kind: page}, actor=actor) for kind, page in pages)


def retry_dead_letters(
    engine: sa.Engine, cid: int, collection: str, *, actor: str, limit: int = MOST_RETRIES, tries: int = TRIES
) -> RetryReport:
    """Make dead letters due again, up to ``limit`` documents, those tried least often first.

    Always where the failure may pass: it was of a kind that is tried 8 times (device, connection, memory). Up to
    ``tries`` times for one text where it was final, or where processes died of it; how often is counted from the
    history, and a new version of the document starts again. What a person waived is left alone. Raises ``ConfigError``
    for numbers out of range.
    """
    if limit < 1 or tries < 0:
        raise ConfigError(f"limit must be 1 or more and tries 0 or more, found {limit} and {tries}. Nothing has run.")
    with engine.begin() as connection:
        found = stale.find_dead(connection, cid, tries=tries, limit=limit)
        chosen = list(found.chosen)
        if chosen:
            retry_dead(connection, cid, chosen, actor)
            add_event(connection, cid, actor, stale.RETRIED, None, {"documents": chosen})
    left = found.worth - len(chosen)
    return RetryReport(collection, found.dead, len(chosen), left, found.given_up, found.waived, found.refused)
