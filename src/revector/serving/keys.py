"""Keys of the HTTP service as rows: a key is shown once, and only its digest is stored.

A key is ``rv_``, 16 hexadecimal digits that name its row, ``_``, and 256 random bits. Against those, a plain SHA-256 is
enough: there is nothing to guess from.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from revector.errors import ConfigError, StateError
from revector.registry.control import add_event

SCOPES = ("read", "write", "admin")
"""Search and get documents; put, delete and upload them; both, and the status."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; ``collections`` None means all, those of later included."""

    key_id: str
    name: str
    digest: bytes
    scopes: frozenset[str]
    collections: frozenset[str] | None
    made_by: str
    made_at: datetime
    revoked_by: str | None
    revoked_at: datetime | None

    def opens_with(self, secret: str) -> bool:
        """Whether ``secret`` is this key; takes equally long whatever it is."""
        return secrets.compare_digest(digest_of(secret), self.digest)


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def id_of(secret: str) -> str:
    """Return the part of a key that names its row; no row has the name of what is no key."""
    return secret.removeprefix("rv_").partition("_")[0]


def create(
    connection: sa.Connection, name: str, scopes: Sequence[str], collections: Sequence[str] | None, *, actor: str
) -> tuple[str, Key]:
    """Register a new key and return it, for the only time, with its row; the history of its collections says so.

    Raises ``ConfigError`` for an empty name, no scope, or one that does not exist.
    """
    if not name.strip():
        raise ConfigError("a key needs a name that says who uses it. Nothing was made; give one.")
    if not scopes or (wrong := sorted(set(scopes) - set(SCOPES))):
        found = f"found {', '.join(wrong)}" if scopes else "none was given"
        raise ConfigError(f"a key needs scopes of {', '.join(SCOPES)}; {found}. Nothing was made; correct them.")
    key_id = secrets.token_hex(8)
    secret = f"rv_{key_id}_{secrets.token_urlsafe(32)}"
    connection.execute(
        sa.text(
            "INSERT INTO api_key (key_id, name, digest, scopes, collections, made_by) VALUES (:key_id, :name, :digest, "
            ":scopes, :collections, :actor)"
        ),
        {
            "key_id": key_id,
            "name": name.strip(),
            "digest": digest_of(secret),
            "scopes": sorted(set(scopes)),
            "collections": sorted(set(collections)) if collections else None,
            "actor": actor,
        },
    )
    key = next(key for key in read_keys(connection) if key.key_id == key_id)
    _record(connection, "key_created", key, actor)
    return secret, key


def read_keys(connection: sa.Connection, *, revoked: bool = False) -> list[Key]:
    """Return the keys that open the service, oldest first; with ``revoked``, all that ever did."""
    rows = connection.execute(
        sa.text(
            "SELECT key_id, name, digest, scopes, collections, made_by, made_at, revoked_by, revoked_at FROM api_key "
            "WHERE revoked_at IS NULL OR :revoked ORDER BY made_at, key_id"
        ),
        {"revoked": revoked},
    )
    return [
        Key(
            **dict(row._mapping)
            | {
                "digest": bytes(row.digest),
                "scopes": frozenset(row.scopes),
                "collections": None if row.collections is None else frozenset(row.collections),
            }
        )
        for row in rows
    ]


def revoke(connection: sa.Connection, key_id: str, *, actor: str) -> bool:
    """Revoke a key for good, and say so in the history of its collections; False if it was revoked before.

    Raises ``StateError`` where there is none of that id.
    """
    if connection.execute(
        sa.text(
            "UPDATE api_key SET revoked_by = :actor, revoked_at = clock_timestamp() WHERE key_id = :key_id AND "
            "revoked_at IS NULL"
        ),
        {"key_id": key_id, "actor": actor},
    ).rowcount:
        key = next(key for key in read_keys(connection, revoked=True) if key.key_id == key_id)
        _record(connection, "key_revoked", key, actor)
        return True
    if connection.scalar(sa.text("SELECT true FROM api_key WHERE key_id = :key_id"), {"key_id": key_id}):
        return False
    raise StateError(f"there is no key {key_id!r}. Nothing was revoked; see `revector keys list`.")


def _record(connection: sa.Connection, kind: str, key: Key, actor: str) -> None:
    """Add an event to the history of each collection that the key opens."""
    names = None if key.collections is None else sorted(key.collections)
    cids = connection.scalars(
        sa.text(
            "SELECT cid FROM collection WHERE CAST(:names AS text[]) IS NULL OR name = ANY(CAST(:names AS text[])) "
            "ORDER BY cid"  # the same order everywhere: an event locks its collection's row
        ),
        {"names": names},
    ).all()
    detail = {"key_id": key.key_id, "name": key.name, "scopes": sorted(key.scopes), "collections": names}
    for cid in cids:
        add_event(connection, cid, actor, kind, None, detail)
