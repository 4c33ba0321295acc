"""The tables of revector.toml that describe one collection: source, labels, migrations, windows, bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from revector.pace import Bars
from revector.registry.writing import OnEmpty
from revector.rereading import MOST_MISSING
from revector.sources import ColumnType


class ShadowSettings(BaseModel):
    """The ``[collections.<name>.shadow]`` table: live queries that are asked of the generation being built, too."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(default=0.0, ge=0, le=1)
    """Sampled share of the queries, such as 0.01; 0 switches shadow reads off. Behind an API, each one is paid."""
    k: int = Field(default=10, ge=1, le=100)
    """Depth of the comparison; queries for fewer documents are not compared."""
    keep_queries: bool = False
    """Whether the newest compared queries are kept with their text, in the memory of `revector serve`."""


class BulkSettings(BaseModel):
    """The ``[collections.<name>.bulk]`` table: what a backfill must not do to the index that answers.

    Beyond a bar it works less of the time, down to an eighth. ``inf`` switches a bar off.
    """

    model_config = ConfigDict(extra="forbid")

    max_lag_s: float = Field(default=Bars().lag_s, gt=0)
    """Seconds that a change may wait for the active index, while a worker is busy with it."""
    max_search_ms: float = Field(default=Bars().search_ms, gt=0)
    """Milliseconds that searches of the active index may take at p95, in the database."""


class CollectionSettings(BaseModel):
    """One table of ``revector.toml`` under ``collections``."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = None
    """Where ``revector ingest`` reads when no source is named, and the nightly DAG where it is to read again."""
    source_url: str | None = Field(default=None, repr=False)
    """SQLAlchemy URL of the database of a ``sql:`` source; default: the project's own."""
    id_field: str = "_id"
    text_fields: list[str] = ["title", "text"]
    meta_fields: list[str] | None = None
    column_types: dict[str, ColumnType] = {}
    """Types of columns of a CSV source (text, number, bool; ``"*"``: all others); default: by their contents."""
    on_empty: OnEmpty = "keep"
    """What a document without text means: refused and the older one kept, or ``delete``: it is deleted."""
    version_field: str | None = None
    """Field with the caller's own version, a whole number or a time: only what is newer is written."""
    on_missing: Literal["keep", "delete"] = "keep"
    """What becomes of documents that ``source`` has no more when it is read again: ``delete`` where it is the truth."""
    max_missing: float = Field(default=MOST_MISSING, ge=0, le=1)
    """Share of the documents that may be deleted so at once; more are refused until a person allows it."""
    qrels: str | None = None
    """Labelled queries: a folder in BEIR layout or of TREC files, a .csv file, or ``sql:SELECT ...`` (own database)."""
    migrations: Path | None = None
    """Folder of migration files; default ``migrations/<collection>``."""
    canary: str | None = None
    """Labelled queries of the daily canary; default: those of ``qrels``."""
    canary_drop: float = Field(default=0.02, gt=0, le=1)
    """Fall of recall@10 below the first canary of an index that raises an alert."""
    window_hours: float = Field(default=48.0, gt=0)
    shards: int | None = Field(default=None, ge=1)
    """Parts of a backfill; default: what the plan reckons, in parts of 45 minutes, at least 4."""
    bulk: BulkSettings = BulkSettings()
    shadow: ShadowSettings = ShadowSettings()
