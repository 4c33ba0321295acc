"""The guards of the protocol, each a switch: what it is in the code, which races it keeps out, where its loss is seen.

A guard that another one covers changes nothing when it alone is removed; it names what must go with it, and both
facts are tested. ``hunt`` removes a guard and looks for the shortest way to a broken promise.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.reliability.model.explore import Explored, Trace, explore
from evaluation.reliability.model.settings import SHORT, models


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard. In each of the settings ``seen_in`` its loss breaks a promise.

    ``covered_by`` are guards that must be removed too before anything breaks; ``switches`` are what is removed where a
    guard of class B is one of class A under the name that Appendix A gives it.
    """

    says: str
    races: str
    seen_in: tuple[str, ...]
    covered_by: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()


def _guard(says: str, races: str, seen_in: str, *, covered_by: str = "", switches: str = "") -> Guard:
    return Guard(says, races, tuple(seen_in.split("; ")), tuple(covered_by.split()), tuple(switches.split()))


CLASS_A = {
    "gate": _guard("writers hold the advisory lock shared, control steps exclusively", "R04 R35",
        "A migration; B migration"),
    "row_lock_for_repeatable_read": _guard("a writer whose snapshot is older than the slots is told to repeat", "R05",
        "A repeatable read"),
    "version_under_row_lock": _guard("a version is drawn under the document's row lock", "R11", "A two writers"),
    "tombstone_kept": _guard("deletes leave a row; DELETE and TRUNCATE are refused", "R12", "A writes"),
    "standby_fed": _guard("the fan-out reaches the standby slot", "R48", "A migration"),
    "version_check": _guard("publish locks the document and finds the version it embedded", "R01 R02",
        "A two workers; A sealed parts; B slow store", covered_by="item_by_version"),
    "item_by_version": _guard("publish consumes an item only up to its own version", "R03",
        "A two workers; B slow store", covered_by="version_check"),
    "item_must_exist": _guard("publish writes only what it consumed an item for", "R78",
        "A two workers; A sealed parts", covered_by="version_check only_forward"),
    "only_forward": _guard("a trigger refuses a ledger row that goes back", "R01", "A two workers; A sealed parts",
        covered_by="version_check item_must_exist"),
    "lease_is_not_safety": _guard("publish rests on versions, not on a lease that the worker believes to hold", "R60",
        "A two workers"),
    "failure_by_version": _guard("only what was tried can become a dead letter", "R16", "A dead letters"),
    "unchanged_checks_tombstone": _guard("content from before a delete does not count as shown", "R74", "A writes"),
    "items_read_before_ledger": _guard("the shortcut for unchanged content reads the document first, the ledger after",
        "R01", "A two workers", covered_by="unchanged_asked_again"),
    "unchanged_asked_again": _guard("publish asks again, under its locks, whether content is shown", "R30",
        "A repairs"),
    "seed_only_ends_on_empty": _guard("an error is not the end of the data", "R14", "A migration"),
    "seeded_before_swap": _guard("the alias moves only to a generation that was seeded", "R14", "A migration"),
    "cut_test_under_gate": _guard("the emptiness test is a statement of its own, after the lock", "R36",
        "A dead letters; A migration"),
    "dead_block": _guard("dead letters block the alias", "R41", "A dead letters"),
    "waiver_by_version": _guard("a new version voids a waiver", "R41", "A waivers"),
    "one_migration": _guard("a generation is registered only into an empty slot", "R58", "A three generations"),
    "one_way_back": _guard("a swap waits until the standby slot is free", "R56", "A three generations"),
    "rollback_test": _guard("a rollback needs an empty work set, too", "R49", "A two documents; A two workers"),
    "rollback_no_toggle": _guard("a rollback asked for again changes nothing", "R59", "A migration"),
    "retire_lock": _guard("a retirement acts on the row that it locked", "R50", "A retirements"),
    "retire_epoch": _guard("a retirement is refused when the slots have moved", "R50 R54", "A retirements"),
    "token_fence": _guard("a run that was taken over can move nothing", "R57 R60", "A aborts"),
    "forward_again_epoch": _guard("a run that began before a rollback does not move the alias forward again", "R47 R57",
        "A runs"),
    "rollback_again_counts": _guard("a rollback that was done before still ends runs that began before it", "R57 R59",
        "A runs"),
    "evidence_current": _guard("evidence ages with the documents", "R42", "A evidence"),
    "evidence_of_generation": _guard("evidence belongs to one generation", "R42 R61", "A evidence and aborts"),
    "evidence_token": _guard("only the newest run's verdict is kept", "R43", "A evidence"),
    "changes_seen_under_gate": _guard("what evidence has seen is read while no write is in flight", "R42",
        "A writes in flight"),
    "pinned_query": _guard("encoder and index are resolved once, together", "R31", "A migration"),
    "alias_recheck": _guard("the search's own statement checks the alias", "R32 R79",
        "A dead letters; A migration; B swap"),
    "drop_waits": _guard("an index is dropped after any query ends", "R53", "A migration", covered_by="resolve_again"),
    "resolve_again": _guard("a query that finds no index resolves again", "R32 R53", "A migration",
        covered_by="drop_waits"),
    "read_filter": _guard("the search joins the document and leaves deleted ones out", "R02", "A writes",
        covered_by="tombstone_filter"),
    "tombstone_filter": _guard("rows older than the latest delete are left out", "R74", "A writes; B writes"),
}  # fmt: skip
"""Guards of revector as it is; those of the slots and the write path hold in class B too."""

CLASS_B = {
    "standby": _guard("as standby_fed", "R48", "B migration; B swap", switches="standby_fed"),
    "cutcheck": _guard("as cut_test_under_gate", "R36", "B migration; B swap", switches="cut_test_under_gate"),
    "retirelock": _guard("as retire_lock", "R50", "A retirements", switches="retire_lock"),
    "attempt_id": _guard("points have a fresh id for each attempt", "R09 R22", "B queries"),
    "intent": _guard("SQL knows an attempt before the store does", "R27 R28", "B queries"),
    "intent_cas": _guard("publish finds its intent still open", "R27", "B queries"),
    "doom_first": _guard("the collector dooms in SQL before it deletes", "R27", "B queries"),
    "close_waits": _guard("an attempt is closed when no request can be under way", "R28", "B queries"),
    "consume_first": _guard("publish consumes the item before it reads the ledger", "R78", "B queries"),
    "readback": _guard("publish waits until a search finds the points", "R25", "B slow store"),
    "filter": _guard("SQL says which attempts a query may show", "R22 R24", "B writes"),
    "superseded_since_accepted": _guard("the filter accepts what was superseded after the query began", "R73",
        "B queries"),
    "collector_waits": _guard("superseded points stay for the longest query time", "R73", "B queries"),
    "reconciled": _guard("the native alias is read back and set again", "R45", "native alias"),
    "drop_reads_sql": _guard("a drop asks SQL, not the native alias", "R54", "native alias"),
    "drop_reads_native": _guard("a drop reads the native alias back", "R46", "native alias"),
    "drop_waits_for_requests": _guard("a drop waits until no request can be under way", "R46", "native alias"),
}  # fmt: skip
"""Guards of the protocol for stores outside of PostgreSQL."""

GUARDS = CLASS_A | CLASS_B

ASKED_FOR = ("forward_again_epoch", "rollback_again_counts", "changes_seen_under_gate")
"""Guards of class A that revector lacked when this model showed what happens without them.

It has the first and the third since. The second it does not follow: a rollback that finds itself done already does not
call off a run that someone else began before; that run goes forward again as if it had been asked for afterwards.
"""


def removed_with(name: str) -> frozenset[str]:
    """Return the switches that are off when ``name`` is removed together with what covers it."""
    return frozenset({*(GUARDS[name].switches or (name,)), *GUARDS[name].covered_by})


def without(off: frozenset[str], setting: str) -> Explored:
    """Explore a setting with guards removed, up to the first broken promise."""
    return explore(models(SHORT)[setting](off), setting=setting)


def hunt(name: str) -> Trace | None:
    """Remove a guard, with what covers it, and return the shortest way to a broken promise.

    None if in one of its settings none is found. Raises ``KeyError`` for a name that is no guard.
    """
    traces = [without(removed_with(name), setting).trace for setting in GUARDS[name].seen_in]
    found = [trace for trace in traces if trace is not None]
    return min(found, key=lambda trace: len(trace.steps)) if len(found) == len(traces) else None


def is_covered(name: str) -> bool:
    """Whether removing the guard alone breaks nothing, as its ``covered_by`` claims."""
    alone = frozenset(GUARDS[name].switches or (name,))
    return all(without(alone, setting).trace is None for setting in GUARDS[name].seen_in)
