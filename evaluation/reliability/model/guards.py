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


CLASS_A = {
    "gate": Guard(
        "writers hold the advisory lock shared, control steps exclusively", "R04 R35", ("A migration", "B migration")
    ),
    "row_lock_for_repeatable_read": Guard(
        "a writer whose snapshot is older than the slots is told to repeat", "R05", ("A repeatable read",)
    ),
    "version_under_row_lock": Guard("a version is drawn under the document's row lock", "R11", ("A two writers",)),
    "tombstone_kept": Guard("deletes leave a row; DELETE and TRUNCATE are refused", "R12", ("A writes",)),
    "standby_fed": Guard("the fan-out reaches the standby slot", "R48", ("A migration",)),
    "version_check": Guard(
        "publish locks the document and finds the version it embedded",
        "R01 R02",
        ("A two workers", "A sealed parts", "B slow store"),
        ("item_by_version",),
    ),
    "item_by_version": Guard(
        "publish consumes an item only up to its own version",
        "R03",
        ("A two workers", "B slow store"),
        ("version_check",),
    ),
    "item_must_exist": Guard(
        "publish writes only what it consumed an item for",
        "R78",
        ("A two workers", "A sealed parts"),
        ("version_check", "only_forward"),
    ),
    "only_forward": Guard(
        "a trigger refuses a ledger row that goes back",
        "R01",
        ("A two workers", "A sealed parts"),
        ("version_check", "item_must_exist"),
    ),
    "lease_is_not_safety": Guard(
        "publish rests on versions, not on a lease that the worker believes to hold", "R60", ("A two workers",)
    ),
    "failure_by_version": Guard("only what was tried can become a dead letter", "R16", ("A dead letters",)),
    "unchanged_checks_tombstone": Guard("content from before a delete does not count as shown", "R74", ("A writes",)),
    "items_read_before_ledger": Guard(
        "the shortcut for unchanged content reads the document first, the ledger after",
        "R01",
        ("A two workers",),
        ("unchanged_asked_again",),
    ),
    "unchanged_asked_again": Guard(
        "publish asks again, under its locks, whether content is shown", "R30", ("A repairs",)
    ),
    "seed_only_ends_on_empty": Guard("an error is not the end of the data", "R14", ("A migration",)),
    "seeded_before_swap": Guard("the alias moves only to a generation that was seeded", "R14", ("A migration",)),
    "cut_test_under_gate": Guard(
        "the emptiness test is a statement of its own, after the lock", "R36", ("A dead letters", "A migration")
    ),
    "dead_block": Guard("dead letters block the alias", "R41", ("A dead letters",)),
    "waiver_by_version": Guard("a new version voids a waiver", "R41", ("A waivers",)),
    "one_migration": Guard("a generation is registered only into an empty slot", "R58", ("A three generations",)),
    "one_way_back": Guard("a swap waits until the standby slot is free", "R56", ("A three generations",)),
    "rollback_test": Guard("a rollback needs an empty work set, too", "R49", ("A two documents", "A two workers")),
    "rollback_no_toggle": Guard("a rollback asked for again changes nothing", "R59", ("A migration",)),
    "retire_lock": Guard("a retirement acts on the row that it locked", "R50", ("A retirements",)),
    "retire_epoch": Guard("a retirement is refused when the slots have moved", "R50 R54", ("A retirements",)),
    "token_fence": Guard("a run that was taken over can move nothing", "R57 R60", ("A aborts",)),
    "forward_again_epoch": Guard(
        "a run that began before a rollback does not move the alias forward again", "R47 R57", ("A runs",)
    ),
    "rollback_again_counts": Guard(
        "a rollback that was done before still ends runs that began before it", "R57 R59", ("A runs",)
    ),
    "evidence_current": Guard("evidence ages with the documents", "R42", ("A evidence",)),
    "evidence_of_generation": Guard("evidence belongs to one generation", "R42 R61", ("A evidence and aborts",)),
    "evidence_token": Guard("only the newest run's verdict is kept", "R43", ("A evidence",)),
    "changes_seen_under_gate": Guard(
        "what evidence has seen is read while no write is in flight", "R42", ("A writes in flight",)
    ),
    "pinned_query": Guard("encoder and index are resolved once, together", "R31", ("A migration",)),
    "alias_recheck": Guard(
        "the search's own statement checks the alias", "R32 R79", ("A dead letters", "A migration", "B swap")
    ),
    "drop_waits": Guard("an index is dropped after any query ends", "R53", ("A migration",), ("resolve_again",)),
    "resolve_again": Guard("a query that finds no index resolves again", "R32 R53", ("A migration",), ("drop_waits",)),
    "read_filter": Guard(
        "the search joins the document and leaves deleted ones out", "R02", ("A writes",), ("tombstone_filter",)
    ),
    "tombstone_filter": Guard("rows older than the latest delete are left out", "R74", ("A writes", "B writes")),
}
"""Guards of revector as it is; those of the slots and the write path hold in class B too."""

CLASS_B = {
    "standby": Guard("as standby_fed", "R48", ("B migration", "B swap"), switches=("standby_fed",)),
    "cutcheck": Guard("as cut_test_under_gate", "R36", ("B migration", "B swap"), switches=("cut_test_under_gate",)),
    "retirelock": Guard("as retire_lock", "R50", ("A retirements",), switches=("retire_lock",)),
    "attempt_id": Guard("points have a fresh id for each attempt", "R09 R22", ("B queries",)),
    "intent": Guard("SQL knows an attempt before the store does", "R27 R28", ("B queries",)),
    "intent_cas": Guard("publish finds its intent still open", "R27", ("B queries",)),
    "doom_first": Guard("the collector dooms in SQL before it deletes", "R27", ("B queries",)),
    "close_waits": Guard("an attempt is closed when no request can be under way", "R28", ("B queries",)),
    "consume_first": Guard("publish consumes the item before it reads the ledger", "R78", ("B queries",)),
    "readback": Guard("publish waits until a search finds the points", "R25", ("B slow store",)),
    "filter": Guard("SQL says which attempts a query may show", "R22 R24", ("B writes",)),
    "superseded_since_accepted": Guard(
        "the filter accepts what was superseded after the query began", "R73", ("B queries",)
    ),
    "collector_waits": Guard("superseded points stay for the longest query time", "R73", ("B queries",)),
    "reconciled": Guard("the native alias is read back and set again", "R45", ("native alias",)),
    "drop_reads_sql": Guard("a drop asks SQL, not the native alias", "R54", ("native alias",)),
    "drop_reads_native": Guard("a drop reads the native alias back", "R46", ("native alias",)),
    "drop_waits_for_requests": Guard("a drop waits until no request can be under way", "R46", ("native alias",)),
}
"""Guards of the protocol for external stores, which revector does not have yet."""

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
