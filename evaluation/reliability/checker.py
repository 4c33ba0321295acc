"""Judges a recorded history: which promise broke, and by which call.

    python -m evaluation.reliability.checker FILE… [--bench] [--operations N]

Every file is a history of its own, as ``history.save`` wrote it. Linear in the records. What a call without an answer
did is unknown until something shows it, and concurrent calls may have come in either order: neither is ever a finding.
``documents`` and ``index`` are read when no write is in hand.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.bench.common import Figure
from evaluation.reliability.checker_documents import Documents
from evaluation.reliability.checker_moves import MOVES, Moves
from evaluation.reliability.history import Hit, Record, load
from evaluation.reliability.pieces import RESULTS, add_piece

PROMISES = {
    "lost": "an acknowledged put is absent after heal",
    "stale": "after heal an index shows other content than the document table",
    "resurrected": "what was deleted is served by a query asked after it, or is there after heal",
    "went back": "a session was shown an older version than before",
    "wrong model": "a query was encoded by another encoder than the index's own",
    "mixed chunks": "one answer or index has chunks of two contents, wrong chunk numbers, or an incomplete set",
    "phantom": "content that nobody put, or that no write made with this version",
    "swap history": "moves that do not follow each other, lacked their proof, or an answer of an index not active",
    "window": "the standby index was incomplete, retired early, or used after its end",
    "double effect": "one call took effect twice, or two moves made one epoch",
    "half": "an unanswered put took effect in one place and not in another",
}


MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that broke: a name of ``PROMISES`` where a history shows it, by what, and where that was seen."""

    promise: str
    detail: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail}" + (f" [{self.where}]" if self.where else "")


def check(records: Iterable[Record]) -> list[Finding]:
    """Return every broken promise of a history; empty if none. ``records`` in the order of time.

    Raises ``ValueError`` for records out of order: what came first could not be told.
    """
    found: list[Finding] = []

    def report(promise: str, detail: str) -> None:
        found.append(Finding(promise, detail))

    documents, moves = Documents(report), Moves(report)
    begun: dict[int, tuple[int, Record]] = {}
    answered: dict[int, str] = {}
    at = float("-inf")
    for place, record in enumerate(records):
        if record.at < at:
            raise ValueError(f"record {place} is of {record.at}, the one before of {at}: sort the history by time.")
        at, op = record.at, record.op
        answer = None if record.kind == "invoke" else record
        if answer is None:
            start, invoke = begun[record.call] = place, record
        else:
            start, invoke = begun.pop(record.call, (place, record))
            if record.call in answered:
                if "ok" in (record.kind, answered[record.call]):
                    report("double effect", f"{op} {record.call}: {answered[record.call]}, then {record.kind}")
                continue
            answered[record.call] = record.kind
        if op in ("put", "delete"):
            documents.write(invoke, answer, start, place)
        elif op in MOVES:
            moves.move(invoke, answer, start, place)
        elif record.kind == "ok":
            _read(documents, moves, record, start, place)
    documents.end()
    moves.end()
    return found


def _read(documents: Documents, moves: Moves, answer: Record, begun: int, place: int) -> None:
    if answer.op == "query":
        documents.query(answer, begun, place)
        moves.query(answer, begun, place)
    elif answer.op == "standby":
        moves.sample(answer)
    elif answer.op in ("documents", "index"):
        documents.healed(answer, begun)
    else:
        raise ValueError(f"the history has an operation {answer.op!r}; the checker knows no such thing.")


# The command line -----------------------------------------------------------------------------------------------------


def sound_history(operations: int, seed: int) -> Iterator[Record]:
    """Yield a history without a fault: six writes in ten, else queries of five hits, a swap each 10,000 operations."""
    draw = random.Random(seed)
    versions, epochs, calls = itertools.count(1), itertools.count(2), itertools.count(1)
    state: dict[str, tuple[str, int]] = {}
    active, at = 1, itertools.count()

    def pair(op: str, answer: dict[str, Any], **facts: Any) -> Iterator[Record]:
        call, process = next(calls), f"p{draw.randrange(8)}"
        yield Record(call, "invoke", op, process, next(at), **facts)
        yield Record(call, "ok", op, process, next(at), **answer)

    for number in range(operations):
        doc_id = f"d{draw.randrange(10_000)}"
        if number % 10_000 == 9_999:
            old, active = active, active % 9 + 1
            detail = {"old": old, "verified": True, "recalled": True, "waiting": 0, "waived": 0}
            yield from pair("swap", {"epoch": next(epochs), "detail": detail}, gen=active)
        elif draw.random() < 0.54:
            state[doc_id] = f"c{number}", next(versions)
            yield from pair("put", {"version": state[doc_id][1]}, doc_id=doc_id, content=f"c{number}")
        elif draw.random() < 0.13:
            gone = state.pop(doc_id, None)
            yield from pair("delete", {"version": next(versions) if gone else None}, doc_id=doc_id)
        else:
            ids = {f"d{draw.randrange(10_000)}" for _ in range(5)} & state.keys()
            hits = tuple(Hit(one, *state[one], 0, 1) for one in ids)
            yield from pair("query", {"gen": active, "encoder": "e", "index_encoder": "e", "hits": hits})
    found = tuple(Hit(one, *state[one], 0, 1) for one in state)
    yield from pair("documents", {"hits": found})
    yield from pair("index", {"gen": active, "hits": found})


def bench(operations: int, seed: int) -> tuple[float, int]:
    """Check a history of so many operations; return the seconds of processor time and the findings."""
    records = list(sound_history(operations, seed))
    started = time.process_time()
    found = check(records)
    return time.process_time() - started, len(found)


def _figures(pieces: Sequence[Any]) -> list[Figure]:
    return [
        figure
        for piece in pieces
        for figure in (
            Figure("operations of the history", piece["operations"], "operations"),
            Figure("to check them, on one core", piece["seconds"], "s", "less than 60", piece["seconds"] < 60),
            Figure("false alarms", piece["findings"], "findings", "0", piece["findings"] == 0),
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Check files, or measure; return 1 if a promise broke or the goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--bench", action="store_true", help="measure with a history of a million operations")
    parser.add_argument("--operations", type=int, default=1_000_000, help="of --bench, default %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS / "checker.json")
    given = parser.parse_args(argv)
    if not given.files and not given.bench:
        parser.error("name a history, or --bench")
    findings = 0
    for file in given.files:
        found = check(load(file))
        findings += len(found)
        print(f"{file}: {dict(Counter(one.promise for one in found)) or 'no promise broken'}")
        for one in found[:MOST_SHOWN]:
            print(f"  {one.promise} ({PROMISES[one.promise]}): {one.detail}")
    holds = True
    if given.bench:
        seconds, false = bench(given.operations, given.seed)
        piece = {
            "seed": given.seed,
            "operations": given.operations,
            "seconds": round(seconds, 1),
            "findings": false,
        }
        holds = add_piece(given.results, piece, _figures, "evaluation.reliability.checker")
    return 0 if holds and not findings else 1


if __name__ == "__main__":
    sys.exit(main())
