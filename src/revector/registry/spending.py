"""What API providers were paid, by day, over all processes: caps are checked against it before anything is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from revector.database.engine import role_of
from revector.encoders.api.limits import Use
from revector.encoders.api.settings import PREFIX, split_reference


class SpendingMeter:
    """The ``Meter`` of a project: counts in the database. ``engine`` is called when something is first charged.

    While the database takes no writes (queries that are embedded beside a standby), this process counts by itself, on
    top of what the database knows; the next charge that can be written brings it along.
    """

    def __init__(self, engine: Callable[[], sa.Engine]) -> None:
        self._engine = engine
        self._unwritten: dict[str, Use] = {}
        self._counting = threading.Lock()

    def charge(self, provider: str, use: Use, *, caps: Mapping[str, float] | None = None) -> tuple[str | None, Use]:
        """Add ``use`` unless that takes the provider's USD beyond one of ``caps``; see ``Meter``.

        Two processes at the cap are told apart by the lock: what both see is never spent twice.
        """
        with self._counting:
            before = self._unwritten.get(provider, Use())
            with self._engine().connect() as connection:
                if role_of(connection) != "primary":
                    return self._charge_here(connection, provider, use, caps or {})
            refused, total = self._charge(provider, _sum(use, before), caps or {})
            if refused is None:
                self._unwritten.pop(provider, None)
            return refused, total

    def _charge_here(
        self, connection: sa.Connection, provider: str, use: Use, caps: Mapping[str, float]
    ) -> tuple[str | None, Use]:
        before = self._unwritten.get(provider, Use())
        for name, cap in caps.items():
            written = _use(connection, name, provider)
            if written is not None and written.usd + before.usd + use.usd > cap:
                return name, _sum(written, before)
        self._unwritten[provider] = _sum(before, use)
        return None, _sum(_use(connection, "max_spend_usd", provider) or Use(), _sum(before, use))

    def _charge(self, provider: str, use: Use, caps: Mapping[str, float]) -> tuple[str | None, Use]:
        values = {"provider": provider, "requests": use.requests, "tokens": use.tokens, "usd": use.usd}
        with self._engine().begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:provider, 1919252073))"), values)
            for name, cap in caps.items():
                so_far = _use(connection, name, provider)
                if so_far is not None and so_far.usd + use.usd > cap:
                    return name, so_far
            connection.execute(
                sa.text(
                    "INSERT INTO spending AS s (provider, day, requests, tokens, usd) VALUES (:provider, "
                    "(clock_timestamp() AT TIME ZONE 'UTC')::date, :requests, :tokens, :usd) "
                    "ON CONFLICT (provider, day) DO UPDATE SET requests = s.requests + EXCLUDED.requests, "
                    "tokens = s.tokens + EXCLUDED.tokens, usd = s.usd + EXCLUDED.usd"
                ),
                values,
            )
            return None, _use(connection, "max_spend_usd", provider) or Use()


_SINCE = {
    "max_spend_usd": "day >= '-infinity'",
    "max_spend_usd_per_month": "day >= date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date",
}
# Less what was spent when the oldest of its open migrations was provisioned.
_MIGRATION = """
SELECT requests - was_requests AS requests, tokens - was_tokens AS tokens, usd - was_usd AS usd
FROM (SELECT sum(requests) AS requests, sum(tokens) AS tokens, sum(usd) AS usd FROM spending
      WHERE provider = :provider) s,
  (SELECT coalesce((spent->>'requests')::bigint, 0) AS was_requests, coalesce((spent->>'tokens')::bigint, 0)
     AS was_tokens, coalesce((spent->>'usd')::float8, 0) AS was_usd
   FROM collection c JOIN generation g ON g.gen = c.building_gen
   WHERE starts_with(g.spec->'model'->>'name', 'api:' || :provider || '/') ORDER BY g.gen LIMIT 1) m
"""


def _use(connection: sa.Connection, cap: str, provider: str) -> Use | None:
    """Return what counts towards a cap of ``CAPS``; None where it does not apply, as no migration is open."""
    statement = (
        f"SELECT sum(requests) AS requests, sum(tokens) AS tokens, sum(usd) AS usd FROM spending WHERE provider = "
        f":provider AND {_SINCE[cap]}"
        if cap in _SINCE
        else _MIGRATION
    )
    row = connection.execute(sa.text(statement), {"provider": provider}).one_or_none()
    return None if row is None else Use(int(row.requests or 0), int(row.tokens or 0), float(row.usd or 0.0))


def _sum(one: Use, other: Use) -> Use:
    return Use(one.requests + other.requests, one.tokens + other.tokens, one.usd + other.usd)


def spent_at(connection: sa.Connection, model: str) -> dict[str, dict[str, float]]:
    """Return ``spent``: ``requests``, ``tokens`` and ``usd`` so far at the provider of an API model, else nothing."""
    if not model.startswith(PREFIX):
        return {}
    provider = split_reference(model)[0]
    return {"spent": (_use(connection, "max_spend_usd", provider) or Use())._asdict()}


def spent(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return what each provider was paid over all days: ``provider``, ``requests``, ``tokens``, ``usd``.

    ``month_usd``: in this calendar month, UTC.
    """
    rows = connection.execute(
        sa.text(
            "SELECT provider, sum(requests)::bigint AS requests, sum(tokens)::bigint AS tokens, "
            "sum(usd)::float8 AS usd, coalesce(sum(usd) FILTER (WHERE "
            f"{_SINCE['max_spend_usd_per_month']}), 0)::float8 AS month_usd "
            "FROM spending GROUP BY provider ORDER BY provider"
        )
    )
    return [dict(row._mapping) for row in rows]
