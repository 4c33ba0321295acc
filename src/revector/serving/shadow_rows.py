"""Shadow reads as rows: sums per generation, the one it was compared with, and hour; numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

import sqlalchemy as sa

from revector.formats.kept import Kept
from revector.measure.agreement import AgreementTally
from revector.measure.metrics import Interval

_ARRAYS = ("tenths", "old_ms", "new_ms")
_SUMS = tuple(each.name for each in fields(AgreementTally) if each.name not in _ARRAYS)


class ShadowFigures(NamedTuple):
    """What shadow reads found: shares with 95 % intervals, and p50, p95 and p99 in milliseconds."""

    overlap: Interval
    rbo: Interval
    old_latency_ms: Mapping[str, float]
    new_latency_ms: Mapping[str, float]


class ShadowSums(Kept):
    """Shadow reads of a generation against one other, of its first ``k``; see ``AgreementTally.as_data``."""

    against: int
    k: int
    compared: int
    shed: int = 0
    errors: int = 0
    overlap: Interval | None = None
    rbo: Interval | None = None
    old_latency_ms: Mapping[str, float] | None = None
    new_latency_ms: Mapping[str, float] | None = None

    @property
    def figures(self) -> ShadowFigures | None:
        """What was found; None where nothing was compared."""
        if self.overlap is None or self.rbo is None or self.old_latency_ms is None or self.new_latency_ms is None:
            return None
        return ShadowFigures(self.overlap, self.rbo, self.old_latency_ms, self.new_latency_ms)


def add(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Add counts (``gen``, ``against``, ``k`` and those of ``AgreementTally.as_row``) to those of this hour."""
    columns = ("gen", "against", "k", *_SUMS, *_ARRAYS)
    values = ", ".join(f"CAST(:{name} AS bigint[])" if name in _ARRAYS else f":{name}" for name in columns)
    sums = [f"{name} = s.{name} + EXCLUDED.{name}" for name in _SUMS]
    sums += [
        f"{name} = (SELECT array_agg(a + b ORDER BY n) FROM unnest(s.{name}, EXCLUDED.{name}) "
        "WITH ORDINALITY AS x(a, b, n))"
        for name in _ARRAYS
    ]
    connection.execute(
        sa.text(
            f"INSERT INTO shadow_read AS s (hour, {', '.join(columns)}) SELECT date_trunc('hour', clock_timestamp()), "
            f"{values} WHERE EXISTS (SELECT 1 FROM generation WHERE gen = :gen) "
            f"ON CONFLICT (gen, against, k, hour) DO UPDATE SET {', '.join(sums)}"
        ),
        [dict(row) for row in rows],
    )


def read(connection: sa.Connection, gen: int) -> list[ShadowSums]:
    """Return what shadow reads of a generation found, by the one compared with."""
    found: dict[tuple[int, int], AgreementTally] = {}
    rows = connection.execute(
        sa.text("SELECT * FROM shadow_read WHERE gen = :gen ORDER BY against, k, hour"), {"gen": gen}
    )
    for row in rows.mappings():
        found.setdefault((row["against"], row["k"]), AgreementTally()).add(AgreementTally.from_row(dict(row)))
    return [
        ShadowSums.model_validate({"against": against, "k": k, **tally.as_data()})
        for (against, k), tally in found.items()
    ]
