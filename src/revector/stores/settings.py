"""Owns the ``[stores.<name>]`` tables: where a store of vectors outside of PostgreSQL is, and how it is reached."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from revector.errors import StoreRefused


class StoreSettings(BaseModel):
    """One store. Which of the settings a kind needs is in docs/stores.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """One of ``stores.opening.KINDS``."""
    url: str | None = None
    """Where it is, without user or key, which would get into messages and logs; or a file (``./vectors.db``)."""
    api_key_env: str | None = None
    """Name of the environment variable that holds key, token or password; None for a store that wants none."""
    database: str | None = None
    """Which of the store's databases; default: its own default."""
    timeout_s: float = Field(default=20.0, gt=0, le=25)
    """How long one request may take: less than the 30 s that PostgreSQL lets a transaction wait for it."""

    native_alias: bool = False
    """Whether the store keeps an alias for each collection, by its name, for readers outside of revector."""

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        options = parts.query if parts.scheme.startswith("postgres") and "password" not in parts.query else ""
        if parts.password or parts.query != options:
            raise ValueError("must be without password and query; name the variable that holds it as api_key_env")
        return value

    def at(self, root: Path) -> StoreSettings:
        """Return the same, where ``url`` is a file, with its path from the project folder ``root``."""
        if self.url is None or "://" in self.url:
            return self
        return self.model_copy(update={"url": str(root / self.url)})

    def key(self, store: str) -> str | None:
        """Return the key, or None where none is wanted. Raises ``StoreRefused`` for a variable that is not set."""
        if self.api_key_env is None:
            return None
        if key := os.environ.get(self.api_key_env, "").strip():
            return key
        raise StoreRefused(
            f"stores.{store}.api_key_env names {self.api_key_env}, and that variable is not set. Nothing was sent; set "
            f"{self.api_key_env} where this process runs."
        )

    def address(self, store: str, *schemes: str) -> str:
        """Return ``url``, which must begin with one of ``schemes``. Raises ``StoreRefused``."""
        parts = urlsplit(self.url or "")
        if self.url is not None and parts.scheme in schemes and (parts.hostname or parts.query):  # query: a socket
            return self.url.rstrip("/")
        raise StoreRefused(
            f"stores.{store}.url must be {' or '.join(f'{one}://host[:port]' for one in schemes)} for the kind "
            f"{self.kind}, found {self.url!r}. Nothing was sent; correct it in revector.toml."
        )
