"""Settings from revector.toml and environment, and the project that wires everything: only here classes are chosen."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from revector import canary, notices
from revector.collection_settings import CollectionSettings
from revector.costs import Costs
from revector.encoders.api import Hybrid, Provider, ProviderSettings
from revector.encoding import Encoders
from revector.errors import ConfigError, DatabaseUnavailable
from revector.evidence import Evidence
from revector.interfaces import Encoder, NoProgress, Progress
from revector.labels import LabelSource, label_source
from revector.migrator import Migrator
from revector.migrator import Settings as MigratorSettings
from revector.pace import Bars
from revector.registry import shadowing
from revector.registry.collections import ensure_collection, read_collection
from revector.registry.documents import Documents
from revector.registry.engine import check_schema, make_engine, upgrade_schema
from revector.registry.spending import SpendingMeter
from revector.registry.watching import windows_over
from revector.rehearsal import Rehearsal
from revector.report import read_events, read_status, waiting_revision
from revector.searcher import Offer, Searcher
from revector.shadow import ShadowReads
from revector.spec import ModelSpec
from revector.stores.database import KEPT
from revector.stores.pgvector import Build
from revector.urls import database_url
from revector.verification import REEMBEDDED, verify_live
from revector.verified import Report
from revector.worker import Worker

if TYPE_CHECKING:
    from revector.monitoring import Metrics

FILE = "revector.toml"


class EncoderSettings(BaseModel):
    """The ``[encoder]`` table: how models run here; what they are stands in the migration files."""

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


class ServeSettings(BaseModel):
    """The ``[serve]`` table."""

    model_config = ConfigDict(extra="forbid")

    requests_per_s: float | None = Field(default=None, gt=0)
    """Requests a second that each process of `revector serve` answers each key; default: any number."""
    searches: int = Field(default=16, ge=1, le=1_000)
    """Searches at once in each process; more wait for up to 2 s, and get 503."""
    searches_per_key: int = Field(default=8, ge=1, le=1_000)
    """Of them by one key; more wait likewise, and get 429."""
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


class Settings(BaseSettings):
    """All settings; variables such as ``REVECTOR_DATABASE_URL`` and ``REVECTOR_ENCODER__DEVICE`` win over the file."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="REVECTOR_", env_nested_delimiter="__")

    database_url: str | None = None
    state_folder: Path = Path(".revector")
    archive_folder: Path | None = None
    """Where HDF5 parts go; default ``<state_folder>/archive``. Must be shared by all GPU workers."""
    archive_days: float = Field(default=7.0, ge=0)
    """How long embeddings outlive their index: what is begun anew within that time is not embedded again."""
    max_text_mib: int = Field(default=4, ge=1)
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
    hybrid: dict[str, str] = {}
    """Local model's name to ``api:<provider>/<model>``: queries and the live lane go there, bulk stays here."""

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


def load_project(path: Path | None = None) -> Project:
    """Return the project of ``path`` (a revector.toml or its folder), or the nearest one. Raises ``ConfigError``."""
    file = find_file() if path is None else (path / FILE if path.is_dir() else path)
    if not file.is_file():
        raise ConfigError(f"there is no {file}. Nothing has run; name your project's folder or its {FILE}.")
    try:
        return Project(file.resolve().parent, Settings(toml_file=file))  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        found = _shown(first["type"], first.get("input"))
        raise ConfigError(f"{file.name}: {place}: {first['msg']}{found}. Nothing has run; correct the file.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}. Nothing has run; correct the file.") from error


def _shown(kind: str, value: object) -> str:
    """Return what was found in a setting, by the ``kind`` of pydantic's error, where that can be no secret.

    A text is shown only where a number or a flag was wanted: elsewhere it may be an address with a password inside, or
    a key that was put into a wrong place.
    """
    if isinstance(value, bool | int | float) or (isinstance(value, str) and kind.startswith(("int", "float", "bool"))):
        return f", found {value!r:.60}"
    return "" if value is None else f", found a {type(value).__name__}, which is not shown"


class Project:
    """A project folder with its settings; hands out documents, searchers, migrators and workers."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root, self.settings = root, settings

    @property
    def state(self) -> Path:
        """The state folder: embedded PostgreSQL, archive, trained models, Airflow's home."""
        return (self.root / self.settings.state_folder).resolve()

    @property
    def archive(self) -> Path:
        """The folder of HDF5 parts."""
        return (self.root / (self.settings.archive_folder or self.state / "archive")).resolve()

    @property
    def database_url(self) -> str:
        """The configured database, or the embedded one, which is started if it is not running.

        Raises ``ConfigError`` for a setting that is no URL of PostgreSQL.
        """
        if self.settings.database_url is not None:
            return database_url(self.settings.database_url)
        from revector.embedded import ensure_running

        return ensure_running(self.state)

    @cached_property
    def raw_engine(self) -> sa.Engine:
        """An engine whose schema has not been looked at; for ``init`` and ``doctor``."""
        return make_engine(self.database_url)

    @cached_property
    def engine(self) -> sa.Engine:
        """The engine. Raises ``SchemaMismatch`` unless ``revector init`` has made this version's tables."""
        check_schema(self.raw_engine)
        return self.raw_engine

    @cached_property
    def encoders(self) -> Encoders:
        """Loaded models, shared by everything of this process."""
        return Encoders(self.load_encoder)

    @property
    def live_encoders(self) -> Encoders:
        """Encoders of queries and of the live lane: the same ones, but hybrids where the settings name them."""
        return self._hybrids if self.settings.hybrid else self.encoders

    @cached_property
    def _hybrids(self) -> Encoders:
        return Encoders(self._load_hybrid)

    @cached_property
    def providers(self) -> dict[str, Provider]:
        """The configured providers; their limits are shared by everything of this process."""
        meter = SpendingMeter(lambda: self.engine)
        return {name: Provider(name, chosen, meter=meter) for name, chosen in self.settings.providers.items()}

    def _load_hybrid(self, model: ModelSpec) -> Encoder:
        local = self.encoders.fresh(model)
        if (api := self.settings.hybrid.get(model.name)) is None:
            return local
        return Hybrid(local, self.load_encoder(replace(model, name=api, commit=None)))

    def load_encoder(self, model: ModelSpec) -> Encoder:
        """Load a model as this machine's settings say; nothing is kept."""
        from revector.encoders import load_encoder

        if self.settings.encoder.threads is not None:
            import torch

            torch.set_num_threads(self.settings.encoder.threads)
        return load_encoder(
            model,
            root=self.root,
            device=self.settings.encoder.device,
            batch_tokens=self.settings.encoder.batch_tokens,
            providers=self.providers,
            trust_code=self.settings.models.get(model.name, ModelSettings()).trust_code,
        )

    def init(self) -> bool:
        """Make or upgrade the tables and register the configured collections; return whether tables were made."""
        try:
            made = upgrade_schema(self.raw_engine)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(str(error).replace(KEPT, "No table was made or changed")) from error
        with self.engine.begin() as connection:
            for name in self.settings.collections:
                ensure_collection(connection, name)
        return made

    def collection(self, name: str) -> CollectionSettings:
        """Return the settings of one collection. Raises ``ConfigError`` naming those that exist."""
        if name not in self.settings.collections:
            known = ", ".join(sorted(self.settings.collections)) or "none"
            raise ConfigError(
                f"collection {name!r} is not in {FILE} (there: {known}). Nothing has run; add a [collections.{name}] "
                "table, or name another."
            )
        return self.settings.collections[name]

    def migrations(self, collection: str) -> Path:
        """Folder of the collection's migration files."""
        return self.root / (self.collection(collection).migrations or Path("migrations") / collection)

    def labels(self, collection: str) -> LabelSource | None:
        """Where the collection's labelled queries are; None where none are configured."""
        return self._label_source(self.collection(collection).qrels)

    def _label_source(self, setting: str | None) -> LabelSource | None:
        return None if setting is None else label_source(setting, self.root, lambda: self.database_url)

    def documents(self, collection: str) -> Documents:
        """The write path of one collection."""
        chosen = self.collection(collection)
        with self.engine.begin() as connection:
            cid = ensure_collection(connection, collection).cid
        return Documents(self.engine, cid, max_text_mib=self.settings.max_text_mib, on_empty=chosen.on_empty)

    def searcher(self, collection: str, *, offer: Offer | None = None) -> Searcher:
        """The query path of one collection; see ``Searcher`` for ``offer``."""
        self.collection(collection)
        limit_s = self.settings.search.timeout_s
        return Searcher(self.engine, collection, self.live_encoders, offer=offer, limit_s=limit_s)

    def shadow_reads(self, collection: str) -> ShadowReads | None:
        """Shadow reads of one collection as its settings say, not started; None where they are switched off."""
        chosen = self.collection(collection).shadow
        if not chosen.share:
            return None
        return ShadowReads(
            self.engine,
            collection,
            self.live_encoders,
            share=chosen.share,
            k=chosen.k,
            keep_queries=chosen.keep_queries,
            save=shadowing.add,
        )

    def worker(self) -> Worker:
        """The live lane of all collections."""
        return Worker(self.engine, self.live_encoders, tend=self._close_windows)

    def _close_windows(self, collections: Sequence[str] | None) -> None:
        """Retire what is past its rollback window, where no scheduler does; see ``windows_over``."""
        with self.engine.connect() as connection:
            over = windows_over(connection, drain_s=self.settings.drain_s)
        for name in over:
            if name in (self.settings.collections if collections is None else collections):
                self.migrator(name, actor=f"worker:{socket.gethostname()}").retire_due(wait=False)

    def metrics(self) -> Metrics:
        """What `/metrics` tells; works, and says so, while the database is down."""
        from revector.monitoring import Metrics

        gib = self.settings.metrics.index_memory_gib
        limit = None if gib is None else int(gib * 2**30)
        return Metrics(lambda: self.engine, self.providers, limit_bytes=limit)

    def migrator(self, collection: str, *, actor: str | None = None, progress: Progress | None = None) -> Migrator:
        """The moves of one collection; ``actor`` stands in the history, default: the operating system's user."""
        return Migrator(
            self.engine,
            collection,
            settings=self._migrator_settings(collection),
            encoders=self.encoders,
            actor=actor or current_actor(),
            progress=progress,
            tell=lambda: self.tell(collection),
        )

    def tell(self, collection: str) -> int:
        """Post to the webhook what happened to a collection since the last time; see ``notices.tell``."""
        webhook = self.settings.alerts.webhook
        return 0 if webhook is None else notices.tell(self.engine, collection, webhook)

    def rehearsal(self, collection: str, *, actor: str | None = None, progress: Progress | None = None) -> Rehearsal:
        """Rehearsals of one collection; ``actor`` stands in the history, default: the operating system's user."""
        return Rehearsal(
            self.engine,
            collection,
            settings=self._migrator_settings(collection),
            encoders=self.encoders,
            actor=actor or current_actor(),
            progress=progress,
        )

    def _migrator_settings(self, collection: str) -> MigratorSettings:
        chosen = self.collection(collection)
        return MigratorSettings(
            migrations=self.migrations(collection),
            archive=self.archive,
            labels=self.labels(collection),
            window_hours=chosen.window_hours,
            shards=chosen.shards,
            bars=Bars(chosen.bulk.max_lag_s, chosen.bulk.max_search_ms),
            drain_s=self.settings.drain_s,
            archive_days=self.settings.archive_days,
            costs=self.settings.costs,
            index_build=self.settings.index_build,
            providers=self.settings.providers,
            warm_wait_s=self.settings.serve.warm_wait_s,
            shadow_share=chosen.shadow.share,
        )

    def verify(
        self,
        collection: str,
        *,
        sample: float | None = None,
        reembed: int = REEMBEDDED,
        repair: bool = False,
        seed: int | None = None,
        actor: str | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Prove that every live index equals the documents, or repair what does not; see ``verify_live``."""
        self.collection(collection)
        found = verify_live(
            self.engine,
            collection,
            self.encoders,
            actor=actor or current_actor(),
            sample=sample,
            reembed=reembed,
            repair=repair,
            seed=seed,
            progress=progress,
        )
        self.tell(collection)
        return found

    def canary(
        self, collection: str, *, actor: str | None = None, progress: Progress | None = None
    ) -> canary.CanaryReport:
        """Measure what is served and keep it in the series; the webhook hears of alerts. See ``canary.run``."""
        chosen, who = self.collection(collection), actor or current_actor()
        searcher, cid = self.searcher(collection), self.cid(collection)
        evidence = Evidence(
            self.engine,
            cid,
            searcher,
            self._label_source(chosen.canary or chosen.qrels),
            actor=who,
            progress=progress or NoProgress(),
        )
        found = canary.run(self.engine, cid, collection, searcher, evidence, max_drop=chosen.canary_drop, actor=who)
        self.tell(collection)
        return found

    def status(self, collection: str, *, recount: bool = False) -> dict[str, Any]:
        """Where a collection stands, and the revision that waits (``next``); needs no model. See ``read_status``."""
        source = self.labels(collection)
        labels = None if source is None else source.name
        with self.engine.connect() as connection:
            found = read_status(connection, collection, labels=labels, recount=recount)
        return found | {"next": waiting_revision(self.migrations(collection), found["slots"])}

    def events(self, collection: str, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events of a collection, newest first."""
        self.collection(collection)
        with self.engine.connect() as connection:
            return read_events(connection, collection, limit=limit)

    def cid(self, collection: str) -> int:
        """The collection's number in the database."""
        self.collection(collection)
        with self.engine.connect() as connection:
            return read_collection(connection, collection).cid


def current_actor() -> str:
    """Return ``user@host`` of this process, for the history."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
