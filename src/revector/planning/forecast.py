"""What a plan says, as plain data: what changes, how much there is, how long it takes, what it costs, where it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from revector.errors import NoRoom
from revector.planning.costs import Money
from revector.planning.estimate import Estimate
from revector.planning.screening import Screening

LEAST_FREE = 2.2
"""A migration starts only on a disk with at least this multiple of the space that it needs."""


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting of a revision: ``mark`` is ``+`` (new), ``~`` (changed) or ``=`` (same); ``means``: what follows."""

    field: str
    mark: str
    before: object
    after: object
    means: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What embedding a part of the sample here and now gave; ``cut_tokens_per_s`` is of the chunker, before embedding.

    ``failed`` of the ``chunks`` could not be embedded.

    The interval is that of the batches of this probe: of another hour, or another machine, it says nothing.
    """

    device: str
    engine: str
    chunks: int
    failed: int
    tokens: int
    seconds: float
    tokens_per_s: Estimate
    cut_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How long a step takes in one process here; ``by`` says what that rests on."""

    step: str
    seconds: Estimate
    by: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes: the vectors in three widths, what the new index takes, its graph in memory, archive and log (WAL)."""

    float32: Estimate
    float16: Estimate
    int8: Estimate
    index: Estimate
    graph: Estimate
    build_memory: Estimate
    archive: Estimate
    wal: Estimate


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk: what is put there (``holds``), how much, and what is free; None where this machine cannot see it."""

    holds: str
    path: str
    needed_bytes: int
    free_bytes: int | None

    @property
    def too_small(self) -> bool:
        """Whether less than ``LEAST_FREE`` times the need is free."""
        return self.free_bytes is not None and self.free_bytes < LEAST_FREE * self.needed_bytes

    @property
    def said(self) -> str:
        """What is free against what is needed, as a sentence without its end."""
        return (
            f"the disk of {self.holds} ({self.path}) has {(self.free_bytes or 0) / 1e9:,.2f} GB free; a migration is "
            f"begun with {LEAST_FREE:g} times the {self.needed_bytes / 1e9:,.2f} GB that it needs"
        )

    def check(self) -> None:
        """Raise ``NoRoom`` where it is too small."""
        if self.too_small:
            raise NoRoom(
                f"{self.said}. Nothing was changed, everything serves as before; free space, or write a revision that "
                'needs less (storage="halfvec", quantize="bit", fewer dimensions).'
            )


@dataclass(frozen=True, slots=True)
class Spending:
    """The provider of an API model: its price, what was spent on it so far, and what its caps leave.

    ``cap_usd``: over all time, None without one; ``left_usd``: what each cap leaves for a migration that begins now.
    """

    provider: str
    usd_per_million_tokens: float
    spent_usd: float
    cap_usd: float | None
    left_usd: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RollbackCost:
    """What the way back costs for ``hours``: the old index stays, and every write is embedded for it too."""

    hours: float
    storage_bytes: int
    storage_usd: float
    writes_per_day: int
    tokens: float
    embedding_usd: float


@dataclass(frozen=True, slots=True)
class SearchCost:
    """What a search of the new index takes of PostgreSQL's processor, its query's embedding apart.

    ``per_s_and_core``: where searches may have ``search_share`` of the cores; at the price of a server's core, a
    million cost ``usd_per_million``.
    """

    ef_search: int
    cpu_ms: float
    per_s_and_core: float
    usd_per_million: float


class PlannedActual(TypedDict):
    """One figure of a migration that ran before: as it was planned, and what it came to; None: not known."""

    planned: float
    actual: float | None


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What a migration would do and need; nothing has been changed.

    ``reused`` documents are not embedded: their vectors are in a live index or the archive. ``warnings`` are what would
    refuse the migration, ``risks`` what to know. ``unknown``: what the model cannot read of the documents; None where
    that cannot happen. ``unreadable_queries``: labelled queries that a search would refuse, and why. ``already``:
    planned against actual, where this revision has run.
    """

    collection: str
    revision: str
    active_revision: str | None
    action: str
    changes: tuple[SettingChange, ...]
    documents: int
    reused: int
    sampled: int
    strata: int
    chunks: Estimate
    tokens: Estimate
    tokens_to_embed: Estimate
    probe: Probe
    steps: tuple[StepPlan, ...]
    seconds: Estimate
    storage: Storage
    disks: tuple[Disk, ...]
    money: Money
    spending: Spending | None
    window: RollbackCost
    labelled_queries: int
    gate: str
    warnings: tuple[str, ...]
    risks: tuple[str, ...]
    unknown: Screening | None = None
    searching: SearchCost | None = None
    """None for exact search and other stores, where it was not measured."""
    unreadable_queries: Mapping[str, str] = field(default_factory=dict)
    already: Mapping[str, PlannedActual] | None = None

    def brief(self) -> dict[str, object]:
        """Return what the history keeps, to be compared with what happened."""
        return {
            "revision": self.revision,
            "documents": self.documents,
            "reused": self.reused,
            "chunks": round(self.chunks.value),
            "tokens": round(self.tokens_to_embed.value),
            "seconds": {one.step: round(one.seconds.value, 3) for one in self.steps},
            "index_bytes": round(self.storage.index.value),
            "archive_bytes": round(self.storage.archive.value),
            "usd": round(self.money.api_usd if self.spending else self.money.gpu_usd, 6),
        }
