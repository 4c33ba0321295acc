"""A pool while people judge it: its file, to which each judgement is appended as a row of its own.

What is saved is on the disk before anyone is told so, and nothing that was saved is ever rewritten: a process that is
killed loses nothing. One process has the file at a time; where another program changed it, nothing more is saved.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from revector.errors import LabelError
from revector.formats.strict_json import parse
from revector.labels.lines import is_id
from revector.labels.opinions import AGREED, JudgeAgreement, agreement, disputed, scores_of, standing_score
from revector.labels.pool import PoolRow, opinions, read_rows, to_judge

HIGHEST_SCORE = 2
"""Scores are 0 (not relevant), 1 (relevant) and 2 (answers it in full), as TREC's judges give."""

LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """One document's new ``score``, None to take it back; ``was`` is what the judge saw there before."""

    document: str
    score: int | None
    was: int | None


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """``judges``: name → documents judged, of ``pairs``; ``disputed``: documents on which they are not agreed.

    ``whole``: queries of which every document has a score that stands, of ``queries``.
    """

    judges: Mapping[str, int]
    pairs: int
    queries: int
    whole: int
    disputed: int
    agreement: JudgeAgreement


class JudgedBatch:
    """The queries and documents of a pool, and what its judges said so far. Its methods may be called by any thread."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises ``LabelError`` if it is no pool in JSON lines, or another process has it."""
        if path.suffix != ".jsonl":
            raise LabelError(
                f"{path} was to be judged on the page, which appends judgements to a .jsonl file. Nothing was started; "
                "write the queries with `revector labels next -o next.jsonl`."
            )
        self.path = path
        self._lock = threading.RLock()
        self._file = _opened(path)
        try:
            self.dropped = _end_last_line(self._file)
            rows = read_rows(path)
            self._asked = to_judge(rows)
            self._said = opinions(rows, self._asked)
            self._check(rows)
        except BaseException:
            self._file.close()
            raise
        self._by_query: dict[str, list[PoolRow]] = {}
        for (query, _), row in self._asked.items():
            self._by_query.setdefault(query, []).append(row)
        self._state = self._stat()

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    @property
    def queries(self) -> dict[str, str]:
        """Query id → text, in the order of the file."""
        return {query: rows[0].text for query, rows in self._by_query.items()}

    @property
    def contents(self) -> dict[str, str]:
        """Document id → text, as it was when the pool was written."""
        return {row.document: row.content or "" for row in self._asked.values()}

    def documents(self, query: str, judge: str) -> list[PoolRow]:
        """Return the documents of a query that this judge is asked about: as ``AGREED`` those that are not agreed on.

        Raises ``LabelError`` for a query that is not in the batch, and for a name that cannot be one.
        """
        _check_name(judge)
        if query not in self._by_query:
            raise LabelError(f"{self.path} has no query {query!r}. Nothing was saved; load the page again.")
        rows = self._by_query[query]
        if judge != AGREED:
            return rows
        with self._lock:
            without = {name: scores for name, scores in self._said.items() if name != AGREED}
            unsettled = set(disputed(without, ((row.query, row.document) for row in rows)))
        return [row for row in rows if (row.query, row.document) in unsettled]

    def score(self, row: PoolRow, judge: str) -> int | None:
        """Return what a judge said of a document; None where nothing was said."""
        return self._said.get(judge, {}).get((row.query, row.document))

    def others(self, row: PoolRow) -> dict[str, int]:
        """Return what each judge said of a document, but for what they agreed on."""
        with self._lock:
            scores = scores_of(self._said, (row.query, row.document))
        return {judge or "in the file": score for judge, score in scores.items() if judge != AGREED}

    def save(self, judge: str, query: str, changes: Sequence[ScoreChange]) -> None:
        """Save judgements of one query, all or none; they are on the disk when this returns.

        Raises ``LabelError`` if one of the documents has another score by now than the judge saw (another tab), is not
        asked for, or the file was changed by another program.
        """
        with self._lock:
            asked = {row.document: row for row in self.documents(query, judge)}
            for one in changes:
                if one.document not in asked or one.score not in (None, *range(HIGHEST_SCORE + 1)):
                    raise LabelError(
                        f"score {one.score!r} for document {one.document!r} of query {query!r}: expected is a document "
                        f"that is asked for, and 0 to {HIGHEST_SCORE}. Nothing was saved."
                    )
                if (now := self.score(asked[one.document], judge)) != one.was:
                    raise LabelError(
                        f"document {one.document!r} has the score {_told(now)} by now, and had {_told(one.was)} here: "
                        f"{judge} judges in another tab or window, too. Nothing was saved; what is shown now is what "
                        "is kept."
                    )
            self._append([self._line(judge, asked[one.document], one.score) for one in changes])
            for one in changes:
                scores = self._said.setdefault(judge, {})
                if one.score is None:
                    scores.pop((query, one.document), None)
                else:
                    scores[query, one.document] = one.score

    @property
    def progress(self) -> BatchProgress:
        """How far the judges are, and how far they agree."""
        with self._lock:
            open_queries = {pair[0] for pair in self._asked if standing_score(scores_of(self._said, pair)) is None}
            judges = {name or "in the file": len(scores) for name, scores in self._said.items() if scores}
            return BatchProgress(
                judges={name: count for name, count in judges.items() if name != AGREED},
                pairs=len(self._asked),
                queries=len(self._by_query),
                whole=len(self._by_query) - len(open_queries),
                disputed=len(disputed(self._said, self._asked)),
                agreement=agreement(self._said),
            )

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _check(self, rows: Sequence[PoolRow]) -> None:
        if not self._asked:
            raise LabelError(f"{self.path} has no row left to judge ({len(rows):,} rows). Nothing was started.")
        if silent := [row.place for row in self._asked.values() if row.content is None]:
            raise LabelError(
                f"{len(silent):,} rows have no text to be judged by, such as {silent[0]}; expected is a file of "
                "`revector labels next` or `labels pool`. Nothing was started."
            )

    def _line(self, judge: str, row: PoolRow, score: int | None) -> str:
        told = {
            "query_id": row.query,
            "query": row.text,
            "doc_id": row.document,
            "score": "" if score is None else str(score),
            "judge": judge,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return json.dumps(told, ensure_ascii=False) + "\n"

    def _append(self, lines: Sequence[str]) -> None:
        if self._stat() != self._state:
            raise LabelError(
                f"{self.path} was changed or replaced by another program since it was opened. Nothing was saved; end "
                "`revector labels judge`, look at the file, and start it again."
            )
        before = self._file.tell()
        try:
            _write_all(self._file, "".join(lines).encode())
        except OSError as error:
            self._file.truncate(before)
            self._file.seek(before)
            raise LabelError(
                f"{self.path} cannot be written: {error}. Nothing was saved; make room, then repeat."
            ) from error
        finally:
            self._state = self._stat()

    def _stat(self) -> tuple[int, ...] | None:
        """Return what changes with the file that the path names now; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _opened(path: Path) -> IO[bytes]:
    try:
        file = path.open("r+b", buffering=0)
    except OSError as error:
        raise LabelError(
            f"{path} cannot be opened for writing: {error}. Nothing was started; write it with `revector labels next "
            f"-o {path}`."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LabelError(
            f"{path} is being judged by another `revector labels judge`. Nothing was started; several judges share "
            "the page of that one, each under a name."
        ) from error
    return file


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Write to the disk. Raises ``OSError`` also where only a part found room."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _end_last_line(file: IO[bytes]) -> str:
    """End the last line, or take it away where it is torn: nobody was told that it was saved. Return what went."""
    whole = file.read()
    last = whole[whole.rfind(b"\n") + 1 :]
    if not last:
        return ""
    try:
        parse(last.decode())
    except ValueError:
        file.truncate(len(whole) - len(last))
        file.seek(0, os.SEEK_END)
        return last.decode(errors="replace")
    file.write(b"\n")
    return ""


def _check_name(judge: str) -> None:
    if not is_id(judge) or judge != judge.strip() or len(judge) > LONGEST_NAME:
        raise LabelError(
            f"a judge's name was {judge[:80]!r}; expected are 1 to {LONGEST_NAME} characters, no space at its ends. "
            "Nothing was saved."
        )


def _told(score: int | None) -> str:
    return "none" if score is None else str(score)
