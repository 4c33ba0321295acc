"""What API providers were paid, by day, over all processes: caps are checked against it before anything is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from revector.encoders.api.limits import Use
from revector.encoders.api.settings import PREFIX, split_reference
from revector.registry.engine import role_of


class SpendingMeter:
    """The ``Meter`` of a project: counts in the database. ``engine`` is called when something is first charged.

    While the database takes no writes (queries that are embedded beside a standby), this process counts by itself, on
    top of what the database knows; the next charge that can be written brings it along.
    """

    def __init__(self, engine: Callable[[], sa.Engine]) -> None:
        self._engine = engine
        self._unwritten: dict[str, Use] = {}
        self._counting = threading.Lock()

    def charge(self, provider: str, use: Use, *, cap_usd: float | None = None) -> tuple[bool, Use]:
        """Add ``use`` unless that takes the provider's USD of all days beyond ``cap_usd``; see ``Meter``.

        Two processes at the cap are told apart by the lock: what both see is never spent twice.
        """
        with self._counting:
            before = self._unwritten.get(provider, Use())
            with self._engine().connect() as connection:
                if role_of(connection) != "primary":
                    return self._charge_here(connection, provider, use, cap_usd)
            added, total = self._charge(provider, _sum(use, before), cap_usd)
            if added:
                self._unwritten.pop(provider, None)
            return added, total

    def _charge_here(
        self, connection: sa.Connection, provider: str, use: Use, cap_usd: float | None
    ) -> tuple[bool, Use]:
        paid = {one["provider"]: Use(one["requests"], one["tokens"], one["usd"]) for one in spent(connection)}
        written = paid.get(provider, Use())
        before = self._unwritten.get(provider, Use())
        total = _sum(_sum(written, before), use)
        if cap_usd is not None and total.usd > cap_usd:
            return False, _sum(written, before)
        self._unwritten[provider] = _sum(before, use)
        return True, total

    def _charge(self, provider: str, use: Use, cap_usd: float | None) -> tuple[bool, Use]:
        values = {"provider": provider, "requests": use.requests, "tokens": use.tokens, "usd": use.usd, "cap": cap_usd}
        with self._engine().begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:provider, 1919252073))"), values)
            added = connection.execute(
                sa.text(
                    "INSERT INTO spending AS s (provider, day, requests, tokens, usd) SELECT :provider, "
                    "(clock_timestamp() AT TIME ZONE 'UTC')::date, :requests, :tokens, :usd WHERE CAST(:cap AS float8) "
                    "IS NULL OR (SELECT coalesce(sum(usd), 0) FROM spending WHERE provider = :provider) + :usd <= :cap "
                    "ON CONFLICT (provider, day) DO UPDATE SET requests = s.requests + EXCLUDED.requests, "
                    "tokens = s.tokens + EXCLUDED.tokens, usd = s.usd + EXCLUDED.usd"
                ),
                values,
            ).rowcount
            total = connection.execute(
                sa.text(
                    "SELECT coalesce(sum(requests), 0)::bigint AS requests, coalesce(sum(tokens), 0)::bigint "
                    "AS tokens, coalesce(sum(usd), 0)::float8 AS usd FROM spending WHERE provider = :provider"
                ),
                values,
            ).one()
        return bool(added), Use(requests=total.requests, tokens=total.tokens, usd=total.usd)


def _sum(one: Use, other: Use) -> Use:
    return Use(one.requests + other.requests, one.tokens + other.tokens, one.usd + other.usd)


def spent_at(connection: sa.Connection, model: str) -> dict[str, Any]:
    """Return ``spent``: ``tokens`` and ``usd`` so far at the provider of an API ``model``; nothing for a local one."""
    if not model.startswith(PREFIX):
        return {}
    provider = split_reference(model)[0]
    found = next((use for use in spent(connection) if use["provider"] == provider), {"tokens": 0, "usd": 0.0})
    return {"spent": {"tokens": found["tokens"], "usd": found["usd"]}}


def spent(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return what each provider was paid over all days: ``provider``, ``requests``, ``tokens``, ``usd``."""
    rows = connection.execute(
        sa.text(
            "SELECT provider, sum(requests)::bigint AS requests, sum(tokens)::bigint AS tokens, "
            "sum(usd)::float8 AS usd FROM spending GROUP BY provider ORDER BY provider"
        )
    )
    return [dict(row._mapping) for row in rows]
