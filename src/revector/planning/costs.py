"""Owns the prices that a plan reckons with: the ``[costs]`` table, and what tokens cost by an API and on own GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

HOURS_PER_MONTH = 730.0
API_WINS_BELOW, OWN_WINS_ABOVE = 10e9, 50e9
"""Tokens a month: rule of thumb of list prices in 2025; below the first an API tends to win, above the second GPUs."""


class Costs(BaseModel):
    """Prices in US dollars. Defaults are public list prices of 2025, rounded: put in your own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_usd_per_million_tokens: float = Field(default=0.02, ge=0)
    """Small embedding models of the large providers; where the model's provider has a price of its own, that counts."""
    gpu_usd_per_hour: float = Field(default=3.0, ge=0)
    """An A100 by the hour."""
    gpu_tokens_per_minute: float = Field(default=10e6, gt=0)
    """What such a GPU embeds with a model of about 100 million parameters."""
    storage_usd_per_gb_month: float = Field(default=0.023, ge=0)
    """Object storage, per 10^9 bytes."""

    server_usd_per_gb_hour: float = Field(default=0.008, ge=0)
    """A server of much memory, per 10^9 bytes of it: 256 GB with 32 cores for 2 USD an hour."""

    def at(self, usd_per_million_tokens: float) -> Costs:
        """Return these costs with the price of another API."""
        return self.model_copy(update={"api_usd_per_million_tokens": usd_per_million_tokens})


@dataclass(frozen=True, slots=True)
class Money:
    """What embedding ``tokens`` costs by an API and on rented GPUs, in USD, and where one overtakes the other.

    ``break_even_tokens_hour``: tokens for which the API takes as much as one rented GPU-hour; a GPU that embeds more in
    an hour is cheaper. ``break_even_tokens_month``: the same for a GPU kept all month. None: the API costs nothing.
    """

    tokens: float
    api_usd: float
    gpu_hours: float
    gpu_usd: float
    break_even_tokens_hour: float | None
    break_even_tokens_month: float | None
    cheaper: str


def money(costs: Costs, tokens: float) -> Money:
    """Return what ``tokens`` cost either way; the GPU is paid by the part of an hour."""
    api = tokens / 1e6 * costs.api_usd_per_million_tokens
    hours = tokens / (costs.gpu_tokens_per_minute * 60)
    own = hours * costs.gpu_usd_per_hour
    price = costs.api_usd_per_million_tokens
    even = costs.gpu_usd_per_hour / price * 1e6 if price else None
    return Money(
        tokens=tokens,
        api_usd=api,
        gpu_hours=hours,
        gpu_usd=own,
        break_even_tokens_hour=even,
        break_even_tokens_month=even and even * HOURS_PER_MONTH,
        cheaper="neither" if api == own else "api" if api < own else "gpu",
    )
