"""Owns the ``[providers.<name>]`` tables: where an embedding server is, what it takes, and what it may cost."""

from __future__ import annotations

import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from revector.errors import ConfigError

PREFIX = "api:"

CAPS = ("max_spend_usd", "max_spend_usd_per_month", "max_spend_usd_per_migration")


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ValueError("must be http(s)://host[:port]/path, without a key, user or query in it")
    return value.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_address)]
"""An address of a server, without anything secret in it and without a slash at its end."""


class ProviderSettings(BaseModel):
    """One server that speaks ``POST <base_url>/embeddings`` as OpenAI does, and the limits that it is used within.

    Limits hold for one process: where several embed at once, give each its share. Models with other tokenizers or
    limits get a table of their own, with the same ``base_url``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: BaseUrl
    """Up to and without ``/embeddings``: ``https://api.openai.com/v1``, ``http://localhost:8080/v1``."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None for a server that wants none."""
    tokenizer: str
    """The model's ``tokenizer.json``: the file or its folder (``./…`` from the project folder, or absolute),
    ``package:name[/sub/folder]``, or a hub id. Chunks are measured and texts cut with it."""
    max_batch_texts: int = Field(default=32, ge=1)
    """Texts of one request; 32 is what Text Embeddings Inference takes by default, OpenAI takes 2,048."""
    max_batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens of one request, all its texts together; a longer single text goes alone."""
    max_input_tokens: int = Field(default=8_192, ge=8)
    """Tokens of one text, special tokens and prompt included, that the model takes without cutting it."""
    requests_per_min: float | None = Field(default=None, gt=0)
    tokens_per_min: float | None = Field(default=None, gt=0)
    concurrency: int = Field(default=4, ge=1, le=256)
    """Requests under way at once."""
    timeout_s: float = Field(default=60.0, gt=0)
    """From sending one request to the last byte of its reply, however slowly that comes."""
    retries: int = Field(default=5, ge=0, le=10)
    """How often a request that failed for a passing reason is sent again: after 1, 2, 4, 8 and 16 s, and a jitter."""
    encoding_format: Literal["float", "base64"] = "float"
    """What is asked for; either is understood. Every server knows ``float``. base64 has a quarter of the bytes and is
    read in a tenth of the processor time (measured: 256 x 1,536 numbers in 4 ms instead of 30 to 70), but some servers
    refuse it."""
    send_dimensions: bool = False
    """Ask the server itself for ``model.dim`` dimensions; otherwise its vectors are cut here."""
    price_per_million_tokens_usd: float = Field(default=0.0, ge=0)
    max_spend_usd: float | None = Field(default=None, ge=0)
    """No request is sent that would take what this provider has cost, since it was first used, beyond this."""
    max_spend_usd_per_month: float | None = Field(default=None, ge=0)
    """… what it has cost in this calendar month, UTC."""
    max_spend_usd_per_migration: float | None = Field(default=None, ge=0)
    """… what it has cost, also for queries and writes, since the open migration to one of its models was provisioned;
    of several open ones, the oldest."""

    @model_validator(mode="after")
    def _caps_need_a_price(self) -> ProviderSettings:
        if self.caps and not self.price_per_million_tokens_usd:
            raise ValueError(
                f"{', '.join(self.caps)} would never stop anything without a price; set price_per_million_tokens_usd"
            )
        return self

    @property
    def caps(self) -> dict[str, float]:
        """The caps that are set, in USD, by the names of their settings."""
        found = {name: getattr(self, name) for name in CAPS}
        return {name: cap for name, cap in found.items() if cap is not None}

    def usd(self, tokens: int) -> float:
        """Return what ``tokens`` cost."""
        return tokens * self.price_per_million_tokens_usd / 1e6

    def api_key(self, provider: str) -> str | None:
        """Return the key, or None where none is wanted. Raises ``ConfigError`` for a variable that is not set."""
        return read_key(self.api_key_env, f"providers.{provider}")


def read_key(variable: str | None, table: str) -> str | None:
    """Return the key that an environment variable holds, None where a ``table`` of the settings names no variable.

    Raises ``ConfigError`` for a variable that is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"{table}.api_key_env names {variable}, and that variable is not set. Nothing was sent; set {variable} to "
            "the provider's key where this process runs."
        )
    return key


def split_reference(name: str) -> tuple[str, str]:
    """Return provider and model of ``api:<provider>/<model>``. Raises ``ConfigError`` where one is missing."""
    provider, slash, model = name.removeprefix(PREFIX).partition("/")
    if not (name.startswith(PREFIX) and provider.strip() and slash and model.strip()):
        raise ConfigError(
            f"model {name!r} does not name a provider's model. Nothing was changed; write "
            '"api:<provider>/<model>", such as "api:openai/text-embedding-3-small".'
        )
    return provider, model
