"""The seeded bugs: 35 mistakes, each one switch, planted into the real code, the real SQL or the model.

A suite that has never seen a bug proves nothing. ``plant(name, engine)`` takes one guard away, as a careless change
would; ``python -m evaluation.reliability.hunt`` then asks the layers of the proof to find it. One is planted into
the model alone: no code of ours asks the alias that a store keeps before it drops an index.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from evaluation.reliability import mistakes

from revector.guards import instead


@dataclass(frozen=True, slots=True)
class Bug:
    """One mistake: where it is planted, which races of the catalogue it lets in, and who should see it, best first.

    ``guards``: what is put in the place of guards of ``revector.guards``, by name; ``functions``: whether functions of
    the database are replaced by those of ``mistakes.sql``; ``patch`` replaces Python; ``switch`` is the guard's name in
    the model; ``test`` is the fast test that fails while the bug is there.
    """

    name: str
    says: str
    races: tuple[str, ...]
    layers: tuple[str, ...]
    guards: Mapping[str, str] = field(default_factory=dict)
    functions: bool = False
    statements: tuple[str, ...] = ()
    patch: Callable[[], AbstractContextManager[object]] | None = None
    switch: str | None = None
    test: str | None = None


MISTAKES = Path(__file__).with_name("mistakes.sql")
FUNCTION = re.compile(r"^-- (\w+) in place of (\w+) (\w+): .*\n((?:(?!-- ).*\n)+)", re.MULTILINE)
"""A function of that file: the bug, what it replaces, the MD5 of the body that it was written for, and its own."""

_TOMBSTONES = "DROP TRIGGER IF EXISTS c_tombstones ON revector.document"
_LANES = "test_moves.py::test_a_swap_is_refused_while_work_waits_in_either_lane"
_ORDER = "test_publish.py::test_chunks_are_numbered_in_the_order_of_the_text"
_TOGETHER = "test_searcher.py::test_index_and_encoder_change_together"
_LANE = "test_lane.py::test_"
_REPAIR = "test_publish.py::test_a_worker_that_found_the_content_unchanged_leaves_what_a_repair_armed_meanwhile"


def _bug(name: str, says: str, races: str, layers: str, **planted: Any) -> Bug:
    return Bug(name, says, tuple(races.split()), tuple(layers.split("; ")), **planted)


_ALL = (
    _bug("no_gate", "writers do not hold the gate", "R04 R35", "L2; L0",
         guards={"write.gate": "1"}, functions=True, switch="gate"),
    _bug("advisory_gate_only", "writers hold the advisory lock, not the row", "R05", "L2, directed",
         functions=True),
    _bug("row_gate_only", "writers hold the row, not the advisory lock, and overtake a waiting swap", "R37",
         "L2, directed",
         guards={"write.gate": "1"}, functions=True),
    _bug("test_in_lock_statement", "the swap tests for waiting work in a snapshot older than its lock", "R36",
         "L2, directed; L2", patch=mistakes.old_snapshot),
    _bug("no_version_check", "publish does not ask whether the document is still what was embedded", "R01 R02",
         "L1; L2", guards={"publish.version": "true"}, switch="version_check"),
    _bug("item_deleted_by_id", "publish neither locks the document nor looks at the work item's version", "R03", "L2",
         guards={"publish.document_lock": "", "publish.item_version": "true"}),
    _bug("version_before_lock", "a version is drawn before the document's row is locked", "R11", "L2",
         functions=True),
    _bug("fixed_point_ids", "points are named by version, not by attempt", "R22", "L1, store; L0",
         patch=mistakes.fixed_point_ids, switch="attempt_id"),
    _bug("no_intent", "points are written before SQL knows of them", "R27 R28", "L1, store; L0; test",
         patch=mistakes.no_intent, switch="intent",
         test=f"{_LANE}whatever_is_killed_sql_knows_every_point_and_no_document_is_lost"),
    _bug("publish_without_cas", "publish does not ask whether its attempt was given up", "R27", "L1, store; L0; test",
         guards={"reveal.open": "true"}, switch="intent_cas",
         test=f"{_LANE}an_attempt_that_was_given_up_is_not_published_and_its_document_stays_due"),
    _bug("no_read_filter", "search trusts the index on what is deleted", "R02 R74", "L1; L2",
         guards={"search.visible": "true"}, switch="filter"),
    _bug("search_by_alias", "a query searches what the alias names by then, with the vector that it has", "R31",
         "L1; L2", patch=mistakes.search_by_alias),
    _bug("alias_cached", "a process resolves the alias once and never again", "R32 R53 R79", "L1; L2",
         patch=mistakes.alias_cached),
    _bug("cache_by_text", "query vectors are cached by text alone", "R33", "L1; L2", patch=mistakes.cache_by_text),
    _bug("standby_not_fed", "writes after the swap do not reach the old index", "R48", "L1; L2",
         functions=True, switch="standby"),
    _bug("retire_without_lock", "what is retired is decided before the gate is held", "R50", "L2; L1",
         patch=mistakes.retire_without_lock, switch="retirelock"),
    _bug("retire_by_worker_clock", "the window's end is judged by the clock of the process that asks", "R51", "L1",
         guards={"window.clock": "clock_timestamp() + interval '3 days'"}),
    _bug("dead_ignored", "dead letters do not hold up a swap", "R41", "L1", patch=mistakes.dead_ignored),
    _bug("old_gate_accepted", "any passed verdict will do, however old", "R42 R43", "L1",
         patch=mistakes.old_gate_accepted),
    _bug("zombie_accepted", "control steps do not look at the run's token", "R57 R60", "L1; L2",
         patch=mistakes.zombie_accepted),
    _bug("seed_ends_on_error", "an error while seeding counts as the end of the data", "R14", "L1; L4",
         patch=mistakes.seed_ends_on_error),
    _bug("ack_before_searchable", "an acknowledgement counts as searchable", "R25", "L1, store; L0; test",
         patch=mistakes.ack_before_searchable, switch="readback",
         test=f"{_LANE}an_acknowledgement_counts_when_the_points_can_be_found"),
    _bug("short_batch_accepted", "a reply with too few vectors is spread over the texts", "R68", "L1; L4",
         patch=mistakes.short_batch_accepted),
    _bug("torn_part_accepted", "a sealed part is published whatever its hash", "R71", "L1; L4",
         patch=mistakes.torn_part_accepted),
    _bug("same_name_other_model", "an encoder is trusted by its name", "R65", "L1; L4",
         patch=mistakes.same_name_other_model, guards={"publish.encoder": "true"}),
    _bug("native_alias_trusted", "an index is dropped because the store's own alias points elsewhere", "R54 R45 R46",
         "L0", switch="drop_reads_sql"),
    _bug("tombstone_purged", "a deleted document's row is removed at once", "R12 R24", "L1; L2",
         patch=mistakes.tombstone_purged, statements=(_TOMBSTONES,)),
    _bug("lease_as_safety", "publish trusts the lease instead of the versions", "R60 R01", "L1; L2",
         guards={"publish.version": "true", "publish.item_version": "p.lease_until IS NOT NULL"}),
    _bug("bulk_lane_ignored", "what waits in the bulk lane does not hold up a swap", "R36 R41", "test",
         patch=mistakes.bulk_lane_ignored, test=_LANES),
    _bug("chunks_reversed", "a document's chunks are published in reverse order", "R08 R09", "test",
         patch=mistakes.chunks_reversed, test=_ORDER),
    _bug("old_query_encoder", "after a swap queries are still encoded by the model before, which is just as wide",
         "R31", "test", patch=mistakes.old_query_encoder, test=_TOGETHER),
    _bug("unchanged_not_asked_again", "that a text is unchanged is not asked again under the lock", "R01", "test",
         patch=mistakes.unchanged_not_asked_again, test=_REPAIR),
    _bug("lost_published", "what was put before a loss is published after it", "R30", "L1, store; test",
         guards={"reveal.canary": "true"}, test=f"{_LANE}what_was_put_before_a_loss_is_not_published_after_it"),
    _bug("superseded_shown", "search trusts the store on which attempt of a document counts", "R22 R28",
         "L1, store; test",
         guards={"search.attempt": "true"}, test=f"{_LANE}a_document_is_found_replaced_and_hidden_at_once"),
    _bug("shown_collected", "the collector removes what is shown", "R27", "L1, store; test",
         guards={"collect.unseen": "true"},
         test=f"{_LANE}superseded_attempts_are_removed_by_id_and_what_is_shown_stays"),
)  # fmt: skip
BUGS = {bug.name: bug for bug in _ALL}
"""In the order of reliability.md 4.6, and then those that a review planted and no test saw."""


@contextmanager
def plant(name: str, engine: sa.Engine) -> Iterator[None]:
    """Plant a bug in this process and in the engine's database; at the end everything is as it was.

    Planted again inside, nothing more happens, so that every engine of a simulation may ask. Raises ``LookupError`` if
    a database function holds nothing to be replaced: the bug would be none.
    """
    bug = BUGS[name]
    if name in _planted:
        yield
        return
    _planted.add(name)
    with ExitStack() as stack:
        stack.callback(_planted.discard, name)
        if bug.functions or bug.statements:
            stack.enter_context(changed_database(bug, engine))
        stack.enter_context(instead(bug.guards))
        if bug.patch is not None:
            stack.enter_context(bug.patch())
        yield


_planted: set[str] = set()


@contextmanager
def changed_database(bug: Bug, engine: sa.Engine) -> Iterator[None]:
    """Give the database a bug's functions, and run its statements, for as long as the block lasts."""
    spoilt = FUNCTION.findall(MISTAKES.read_text(encoding="utf-8")) if bug.functions else []
    wanted = {function: (md5, body) for name, function, md5, body in spoilt if name == bug.name}
    with engine.connect() as connection:
        source = sa.text("SELECT md5(prosrc), pg_get_functiondef(oid) FROM pg_proc WHERE oid = to_regproc(:name)")
        before = {name: connection.execute(source, {"name": f"revector.{name}"}).one() for name in wanted}
    if other := {name: before[name][0] for name, (md5, _) in wanted.items() if before[name][0] != md5}:
        raise LookupError(f"bug {bug.name}: {other} is not what {MISTAKES.name} replaces; write the bug again")
    _run(engine, [*(body for _, body in wanted.values()), *bug.statements])
    try:
        yield
    finally:
        _run(engine, [*(sound for _, sound in before.values()), *(mistakes.UNDO[one] for one in bug.statements)])


def _run(engine: sa.Engine, statements: list[str]) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


if __name__ == "__main__":
    sys.stdout.write("\n".join(f"{bug.name:24}{bug.says}" for bug in BUGS.values()) + "\n")
