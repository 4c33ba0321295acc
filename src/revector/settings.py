"""Settings of a project: the tables of revector.toml, their defaults, and the environment that wins over them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from revector.adoption.presets import AdoptionRequest
from revector.documents.writing import OnEmpty, WriteLimits
from revector.encoders.api.settings import ProviderSettings
from revector.errors import ConfigError
from revector.formats.images import ImageLimits
from revector.indexing.throttle import ThrottleLimits
from revector.labels.judges.settings import JudgeSettings
from revector.planning.costs import Costs
from revector.sources import ColumnType
from revector.stores.pgvector import Build
from revector.stores.settings import StoreSettings
from revector.upkeep.rereading import MOST_MISSING

FILE = "revector.toml"


class EncoderSettings(BaseModel):
    """The ``[encoder]`` table: how models run here; what they are is in the migration files."""

    model_config = ConfigDict(extra="forbid")

    device: str = "auto"
    """``cpu``, ``cuda:0``, …; several, separated by commas, share the texts; ``all``: every CUDA device."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass; default: what was measured best for the device."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads on CPU; default: torch's own choice."""


class ModelSettings(BaseModel):
    """One table of ``revector.toml`` under ``models``, by the model's name as in migration files."""

    model_config = ConfigDict(extra="forbid")

    trust_code: bool = False
    """Whether Python files in the model's folder are run. It is then part of the model's identity, and so are they."""


class AlertSettings(BaseModel):
    """The ``[alerts]`` table."""

    model_config = ConfigDict(extra="forbid")

    webhook: str | None = None
    """Where what happens (gate, swap, rollback, alerts, …) is posted as JSON: ``text`` is a sentence, as chats read."""


class SearchSettings(BaseModel):
    """The ``[search]`` table: what one search may take, over HTTP, from Python and on the command line."""

    model_config = ConfigDict(extra="forbid")

    timeout_s: float = Field(default=10.0, gt=0, le=3_600)
    """Seconds that one search may take in the database; a longer one is cancelled."""


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ServeSettings(BaseModel):
    """The ``[serve]`` table."""

    model_config = ConfigDict(extra="forbid")

    requests_per_s: float | None = Field(default=None, gt=0)
    """Requests a second that each process of `revector serve` answers each key; default: any number."""
    searches: int = Field(default_factory=lambda: min(16, 4 * _cpus()), ge=1, le=1_000)
    """Searches at once in each process; more wait for up to 2 s, and get 503."""
    searches_per_key: int = Field(default_factory=lambda: min(8, max(2, _cpus())), ge=1, le=1_000)
    """Of them by one key; more wait too, and get 429. With more costly ones than CPUs, each takes longer, and
    everybody else's wait with them (evaluation/bench/flood.py)."""
    uploads: int = Field(default=8, ge=1, le=1_000)
    """Uploads at once in each process; one more gets 503."""
    uploads_per_key: int = Field(default=4, ge=1, le=1_000)
    """Of them by one key; one more gets 429."""
    warm_wait_s: float = Field(default=120.0, ge=0)
    """How long a swap waits for serving processes to have loaded the next encoder."""


class MetricsSettings(BaseModel):
    """The ``[metrics]`` table."""

    model_config = ConfigDict(extra="forbid")

    index_memory_gib: float | None = Field(default=None, gt=0)
    """Memory that HNSW graphs may take; default: PostgreSQL's ``effective_cache_size``. The alert is at 80 % of it."""


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

    max_lag_s: float = Field(default=ThrottleLimits().lag_s, gt=0)
    """Seconds that a change may wait for the active index, while a worker is busy with it."""
    max_search_ms: float = Field(default=ThrottleLimits().search_ms, gt=0)
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
    image_field: str | None = None
    """Field with an image: a path below the folder of the source, an http or https address, or bytes."""
    on_missing: Literal["keep", "delete"] = "keep"
    """What becomes of documents that ``source`` has no more when it is read again: ``delete`` where it is the truth."""
    max_missing: float = Field(default=MOST_MISSING, ge=0, le=1)
    """Share of the documents that may be deleted so at once; more are refused until a person allows it."""
    qrels: str | None = None
    """Labelled queries: a folder in BEIR layout or of TREC files, a .csv file, or ``sql:SELECT ...`` (own database)."""
    queries: Path | None = None
    """Queries as users ask them, without judgements: .jsonl or .tsv. The gate counts on how many old and new differ."""
    pipeline: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """The application's own way from a query to ranked documents, ``module:function``: what eval, gate, canary and
    rehearsal measure. Default: plain searches."""
    migrations: Path | None = None
    """Folder of migration files; default ``migrations/<collection>``."""
    canary: str | None = None
    """Labelled queries of the daily canary; default: those of ``qrels``."""
    canary_drop: float = Field(default=0.02, gt=0, le=1)
    """Fall of recall@10 below the first canary of an index that matters: half of it alerts where that is no chance."""
    window_hours: float = Field(default=48.0, gt=0)
    shards: int | None = Field(default=None, ge=1)
    """Parts of a backfill; default: what the plan reckons, in parts of 45 minutes, at least 4."""
    bulk: BulkSettings = BulkSettings()
    shadow: ShadowSettings = ShadowSettings()
    adopt: AdoptionRequest | None = None
    """The table of an application that `revector adopt` takes over."""


class Settings(BaseSettings):
    """All settings; variables such as ``REVECTOR_DATABASE_URL`` and ``REVECTOR_ENCODER__DEVICE`` win over the file."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="REVECTOR_", env_nested_delimiter="__")

    database_url: str | None = None
    state_folder: Path = Path(".revector")
    archive_folder: Path | None = None
    """Where HDF5 parts go; default ``<state_folder>/archive``. Must be shared by all GPU workers."""
    archive_days: float = Field(default=7.0, ge=0)
    """Days that embeddings are kept after their index is dropped: a migration that starts again by then reuses them."""
    max_text_mib: int = Field(default=4, ge=1)
    max_image_mib: int = Field(default=ImageLimits().mib, ge=1, le=256)
    max_image_megapixels: int = Field(default=ImageLimits().megapixels, ge=1, le=170)
    """Millions of pixels of the largest image that is taken; it is unpacked to 3 bytes for each."""
    drain_s: float = Field(default=60.0, ge=0)
    encoder: EncoderSettings = EncoderSettings()
    alerts: AlertSettings = AlertSettings()
    costs: Costs = Costs()
    """Prices that plans and `revector capacity` reckon with."""
    index_build: Build = Build()
    metrics: MetricsSettings = MetricsSettings()
    search: SearchSettings = SearchSettings()
    serve: ServeSettings = ServeSettings()
    collections: dict[str, CollectionSettings] = {}
    models: dict[str, ModelSettings] = {}
    """What is allowed to models, by name."""
    providers: dict[str, ProviderSettings] = {}
    """Embedding servers that ``model.name = "api:<provider>/<model>"`` may name."""
    stores: dict[str, StoreSettings] = {}
    """Stores of vectors outside of PostgreSQL that a migration file may name."""
    judges: dict[str, JudgeSettings] = {}
    """Models that judge beside people, where ``Gate.proxy`` names one."""
    hybrid: dict[str, str] = {}
    """Local model's name to ``api:<provider>/<model>``: queries and the live lane go there, bulk stays here."""

    @property
    def image_limits(self) -> ImageLimits:
        """The largest image that is taken, in a document or as a query."""
        return ImageLimits(self.max_image_mib, self.max_image_megapixels)

    def write_limits(self, on_empty: OnEmpty) -> WriteLimits:
        """What is taken as a document of a collection."""
        return WriteLimits(self.max_text_mib, on_empty, self.image_limits)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file over defaults."""
        toml_file = init_settings().pop("toml_file")
        return env_settings, TomlConfigSettingsSource(settings_cls, toml_file)


def find_file(start: Path | None = None) -> Path:
    """Return ``$REVECTOR_CONFIG`` or the nearest revector.toml from ``start`` upwards. Raises ``ConfigError``."""
    named = os.environ.get("REVECTOR_CONFIG")
    if named:
        path = Path(named).expanduser().resolve()
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"REVECTOR_CONFIG names {named}, and there is no such file. Nothing has run; correct it.")
        return path
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder / FILE
    raise ConfigError(
        f"no {FILE} was found in {here} or above. Nothing has run; go to your project's folder, or make one with "
        "`revector init`."
    )


def read_settings(file: Path) -> Settings:
    """Return the settings of a revector.toml. Raises ``ConfigError``, in which no value that may be a secret is."""
    try:
        return Settings(toml_file=file)  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        found = _shown(first["type"], first.get("input"))
        raise ConfigError(f"{file.name}: {place}: {first['msg']}{found}. Nothing has run; correct the file.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Nothing has run; correct the file.") from error


def add_collection(file: Path, name: str) -> bool:
    """Add the table of a collection to a revector.toml; return whether it was not there. Raises ``ConfigError``."""
    if name in read_settings(file).collections:
        return False
    try:
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text.rstrip()}\n\n[collections.{name}]\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror}. The table is followed, none of its rows was copied; add "
            f"[collections.{name}] to it and run it again."
        ) from error
    return True


def _shown(kind: str, value: object) -> str:
    """Return what was found in a setting, by the ``kind`` of pydantic's error, where that can be no secret.

    A text is shown only where a number or a flag was wanted: elsewhere it may be an address with a password inside, or
    a key that was put into a wrong place.
    """
    if isinstance(value, bool | int | float) or (isinstance(value, str) and kind.startswith(("int", "float", "bool"))):
        return f", found {value!r:.60}"
    return "" if value is None else f", found a {type(value).__name__}, which is not shown"
