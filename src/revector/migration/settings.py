"""Owns what a migrator needs to know of its project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from revector.encoders.api.settings import ProviderSettings
from revector.gate.pipeline import Pipeline
from revector.indexing.throttle import ThrottleLimits
from revector.labels import LabelSource
from revector.labels.judges.settings import JudgeIdentity
from revector.planning.costs import Costs
from revector.stores.pgvector import Build


@dataclass(frozen=True, slots=True)
class MigratorSettings:
    """What a migrator needs to know; ``drain_s`` lies between emptying a slot and dropping its index.

    ``shards``: parts of a backfill; None: as its plan reckons (``outcomes.shards_for``). ``archive_days``: how long
    embeddings outlive their index, so that a restart can reuse them. ``warm_wait_s``: how long a swap waits for
    serving processes to have loaded the next encoder. ``served_encoder``: for a copy, the fingerprint of the one that
    serves the original: it needs no proof (``fidelity.Proof``). ``overlap``: reading, embedding and publishing side by
    side, and resting for others as ``bars`` says; without it, all statements of a backfill come from one thread.
    ``shadow_share``: of live queries, those that are read twice. ``queries``: a file of queries without judgements.
    ``pipeline``: what is measured instead of plain searches. ``judges``: those that ``Gate.proxy`` may name.
    """

    migrations: Path
    archive: Path
    labels: LabelSource | None = None
    queries: Path | None = None
    pipeline: Pipeline | None = None
    judges: Mapping[str, JudgeIdentity] = field(default_factory=dict)
    window_hours: float = 48.0
    shards: int | None = None
    drain_s: float = 60.0
    archive_days: float = 7.0
    warm_wait_s: float = 120.0
    served_encoder: str | None = None
    overlap: bool = True
    bars: ThrottleLimits = field(default_factory=ThrottleLimits)
    costs: Costs = field(default_factory=Costs)
    index_build: Build = field(default_factory=Build)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    shadow_share: float = 0.0
