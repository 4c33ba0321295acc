"""The project that wires everything by its settings: only here classes are chosen."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from revector.database.driver import KEPT
from revector.database.engine import check_schema, make_engine, upgrade_schema
from revector.database.urls import database_url
from revector.documents.documents import Documents
from revector.encoders.api import Hybrid, Provider
from revector.errors import ConfigError, DatabaseUnavailable
from revector.gate import canary
from revector.gate.evidence import Evidence
from revector.gate.pipeline import Pipeline
from revector.history import notices
from revector.history.events import read_events
from revector.indexing.encoding import Encoders
from revector.indexing.throttle import ThrottleLimits
from revector.indexing.worker import Worker
from revector.interfaces import Encoder, NoProgress, Progress
from revector.labels import LabelSource, label_source
from revector.migration.adopting import Adopter
from revector.migration.migrator import Migrator
from revector.migration.settings import MigratorSettings
from revector.registry.collections import ensure_collection, read_collection
from revector.registry.spending import SpendingMeter
from revector.registry.watching import windows_over
from revector.rehearsal.rehearsal import Rehearsal
from revector.serving import shadow_rows
from revector.serving.searcher import Offer, Searcher
from revector.serving.shadow import ShadowReads
from revector.settings import (
    FILE,
    CollectionSettings,
    ModelSettings,
    Settings,
    add_collection,
    find_file,
    read_settings,
)
from revector.spec import ModelSpec
from revector.status import Status, read_status, waiting_revision
from revector.stores.opening import Stores, attach
from revector.verify.verification import REEMBEDDED, verify_live
from revector.verify.verified import VerificationReport

if TYPE_CHECKING:
    from revector.monitoring import Metrics


def load_project(path: Path | None = None) -> Project:
    """Return the project of ``path`` (a revector.toml or its folder), or the nearest one. Raises ``ConfigError``."""
    file = find_file() if path is None else (path / FILE if path.is_dir() else path)
    if not file.is_file():
        raise ConfigError(f"there is no {file}. Nothing has run; name your project's folder or its {FILE}.")
    return Project(file.resolve().parent, read_settings(file))


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
    def stores(self) -> Stores:
        """The stores that migration files may name; each is opened when it is first asked for."""
        return Stores({name: table.at(self.root) for name, table in self.settings.stores.items()})

    @cached_property
    def raw_engine(self) -> sa.Engine:
        """An engine whose schema has not been looked at; for ``init`` and ``doctor``."""
        return attach(make_engine(self.database_url), self.stores)

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
        from revector.encoders.loading import load_encoder

        if self.settings.encoder.threads is not None and find_spec("torch") is not None:  # an API's models need none
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

    def pipeline(self, collection: str) -> Pipeline | None:
        """The collection's own way from a query to ranked documents, not imported yet; None: plain searches."""
        name = self.collection(collection).pipeline
        return None if name is None else Pipeline(name, self.root, limit_s=self.settings.search.timeout_s)

    def documents(self, collection: str) -> Documents:
        """The write path of one collection."""
        chosen = self.collection(collection)
        with self.engine.begin() as connection:
            cid = ensure_collection(connection, collection).cid
        return Documents(self.engine, cid, limits=self.settings.write_limits(chosen.on_empty))

    def searcher(self, collection: str, *, offer: Offer | None = None) -> Searcher:
        """The query path of one collection; see ``Searcher`` for ``offer``."""
        self.collection(collection)
        limit_s, images = self.settings.search.timeout_s, self.settings.image_limits
        return Searcher(self.engine, collection, self.live_encoders, offer=offer, limit_s=limit_s, images=images)

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
            save=shadow_rows.add,
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

    def migrator(
        self,
        collection: str,
        *,
        actor: str | None = None,
        progress: Progress | None = None,
        labels: LabelSource | Literal["configured"] | None = "configured",
    ) -> Migrator:
        """The moves of one collection; ``actor`` is named in the history, default: the operating system's user.

        ``labels``: others than the settings name, None for none.
        """
        settings = self._migrator_settings(collection)
        return Migrator(
            self.engine,
            collection,
            settings=settings if labels == "configured" else replace(settings, labels=labels),
            encoders=self.encoders,
            actor=actor or current_actor(),
            progress=progress,
            tell=lambda: self.tell(collection),
        )

    def adopter(self, collection: str, *, actor: str | None = None, progress: Progress | None = None) -> Adopter:
        """Adoptions by one collection, of a table or of what is copied; ``actor`` as for ``migrator``."""
        who = actor or current_actor()
        return Adopter(
            self.engine,
            collection,
            # What is adopted is served elsewhere already: there is nothing better to hold it against.
            migrator=lambda: self.migrator(collection, actor=who, progress=progress, labels=None),
            documents=lambda: self.documents(collection),
            root=self.root,
            migrations=self.migrations(collection),
            archive=self.archive,
            encoders=self.encoders,
            specify=self._specify,
            max_bytes=self.settings.max_text_mib << 20,
            actor=who,
            progress=progress,
        )

    def _specify(self, name: str, dim: int | None) -> ModelSpec:
        from revector.encoders.specify import specify_width

        return specify_width(name, dim, self.root, self.encoders.fresh)

    def with_collection(self, name: str) -> Project:
        """Return the project with a collection that its file need not name yet; see ``keep_collection``."""
        if name in self.settings.collections:
            return self
        collections = {**self.settings.collections, name: CollectionSettings()}
        return Project(self.root, self.settings.model_copy(update={"collections": collections}))

    def keep_collection(self, name: str) -> bool:
        """Name a collection in the project's file; return whether it was not there."""
        return add_collection(self.root / FILE, name)

    def tell(self, collection: str) -> int:
        """Post to the webhook what happened to a collection since the last time; see ``notices.tell``."""
        webhook = self.settings.alerts.webhook
        return 0 if webhook is None else notices.tell(self.engine, collection, webhook)

    def rehearsal(self, collection: str, *, actor: str | None = None, progress: Progress | None = None) -> Rehearsal:
        """Rehearsals of one collection; ``actor`` is named in the history, default: the operating system's user."""
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
            queries=None if chosen.queries is None else self.root / chosen.queries,
            pipeline=self.pipeline(collection),
            judges={name: one.identity(name) for name, one in self.settings.judges.items()},
            window_hours=chosen.window_hours,
            shards=chosen.shards,
            bars=ThrottleLimits(chosen.bulk.max_lag_s, chosen.bulk.max_search_ms),
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
    ) -> VerificationReport:
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
        source, told = self._label_source(chosen.canary or chosen.qrels), progress or NoProgress()
        through = self.pipeline(collection)
        evidence = Evidence(self.engine, cid, searcher, source, actor=who, progress=told, pipeline=through)
        try:
            return canary.run(self.engine, cid, collection, searcher, evidence, max_drop=chosen.canary_drop, actor=who)
        finally:
            self.tell(collection)

    def status(self, collection: str, *, recount: bool = False) -> Status:
        """Where a collection stands, and the revision that waits (``next``); needs no model. See ``read_status``."""
        source = self.labels(collection)
        labels = None if source is None else source.name
        with self.engine.connect() as connection:
            found = read_status(connection, collection, labels=labels, recount=recount)
        return found.model_copy(update={"next": waiting_revision(self.migrations(collection), found.slots)})

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
