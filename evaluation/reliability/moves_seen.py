"""What each move of the slots finds in its own transaction, noted by SQL of ours, whatever the move itself tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa

from revector.registry import moves
from revector.registry.control import Control

NAMES = ("register", "swap", "rollback", "retire", "abort")

_SLOTS = "SELECT epoch, active_gen, standby_gen, building_gen FROM collection WHERE cid = :cid"
_BEFORE = """
SELECT coalesce((SELECT passed FROM gate_result WHERE gen = :gen AND kind = 'verify' ORDER BY id DESC LIMIT 1), false)
    AS verified,
  coalesce((SELECT passed FROM gate_result WHERE gen = :gen AND kind = 'recall' ORDER BY id DESC LIMIT 1), false)
    AS recalled,
  coalesce((SELECT clock_timestamp() >= rollback_deadline FROM collection WHERE cid = :cid), false) AS deadline_passed,
  (SELECT token FROM lease WHERE cid = :cid) AS token
"""
_WAITING = """
SELECT count(*) AS waiting, count(w.gen) AS waived
FROM pending p LEFT JOIN waiver w ON (w.gen, w.doc_id, w.version) = (p.gen, p.doc_id, p.version) WHERE p.gen = :gen
"""
_UNLIKE = """
SELECT count(*) FROM document d
  LEFT JOIN (SELECT DISTINCT doc_id, version FROM {name}) i
    ON i.doc_id = d.doc_id AND (d.deleted OR i.version = d.version)
WHERE d.cid = :cid AND d.deleted = (i.doc_id IS NOT NULL)
"""

Note = Callable[[dict[str, Any]], None]
"""Takes ``op``, ``gen``, ``epoch`` and ``detail`` of a move that has been made and is not yet committed."""


@contextmanager
def watched_moves(
    note: Note, *, rows: bool = False, quiet: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[None]:
    """Note every move of this process. ``rows``: a swap counts documents that the index itself shows otherwise, too.

    What is asked for the notes happens inside ``quiet``.
    """

    def watched(op: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def move(control: Control, *arguments: Any, **options: Any) -> Any:
            with quiet():
                before = control.connection.execute(sa.text(_SLOTS), {"cid": control.collection.cid}).one()
                target = arguments[0] if op == "swap" else None
                gen = target.gen if target else before.building_gen if op == "abort" else before.standby_gen
                detail = _found(control, gen, options) | {"old": before.active_gen}
                name = target.physical_name if target and rows else None
                unlike = int(control.scalar(_UNLIKE.format(name=name), cid=control.collection.cid) or 0) if name else 0
            made = original(control, *arguments, **options)
            # After it: workers go on under the gate, but nothing can be added there.
            with quiet():
                after = control.connection.execute(sa.text(_SLOTS), {"cid": control.collection.cid}).one()
                if after.epoch != before.epoch:
                    gen = after.building_gen if op == "register" else gen
                    detail |= control.connection.execute(sa.text(_WAITING), {"gen": gen}).one()._mapping
                    detail["waiting"] += unlike
                    note({"op": op, "gen": gen, "epoch": after.epoch, "detail": detail})
            return made

        return move

    originals = {name: getattr(moves, name) for name in NAMES}
    for name, original in originals.items():
        setattr(moves, name, watched(name, original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(moves, name, original)


def _found(control: Control, gen: int | None, options: dict[str, Any]) -> dict[str, Any]:
    values = {"gen": gen, "cid": control.collection.cid}
    row = control.connection.execute(sa.text(_BEFORE), values).one()
    return {
        "verified": row.verified,
        "recalled": row.recalled,
        "deadline_passed": row.deadline_passed,
        "taken_over": control.token is not None and control.token != row.token,
        "forced": bool(options.get("force")),
        "given_up": bool(options.get("now")),
    }
