"""The operators of the upkeep: each asks the library one thing of one collection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from revector.airflow import stats
from revector.airflow.hook import RevectorHook
from revector.airflow.operators import RevectorOperator, actor, final_errors, report
from revector.airflow.progress import LogProgress
from revector.airflow.versions import AirflowSkipException
from revector.errors import ConfigError, VerificationFailed

if TYPE_CHECKING:
    from revector.config import Project
    from revector.verify.verified import VerificationReport

log = logging.getLogger("revector.airflow")

PATIENCE_S = 300.0
"""As in ``revector.waiting``, which is imported where it runs."""


class CollectionsOperator(RevectorOperator):
    """Returns the collections of the project, to map other operators over."""

    def execute(self, context: object) -> list[str]:  # noqa: ARG002 - the signature is Airflow's
        """Read the names."""
        with final_errors():
            return sorted(RevectorHook(self.conn_id, config=self.config).get_conn().settings.collections)

    def call(self, project: Project, collection: str, context: object) -> None:
        """Do nothing for a single one."""


class RetireDueOperator(RevectorOperator):
    """Retires what is past its rollback window, and tells when one is about to close; mostly there is nothing to do."""

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Retire, then tell."""
        report(project.migrator(collection, actor=actor(context), progress=LogProgress()).retire_due())
        project.tell(collection)


class AdoptOperator(RevectorOperator):
    """Takes over what the collection's settings name, or goes on; what is not in this database is read again."""

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Look, prove, begin, and copy to the end."""
        adopter = project.adopter(collection, actor=actor(context), progress=LogProgress())
        request = project.collection(collection).adopt
        if adopter.adoption() is None:
            if request is None:
                raise ConfigError(
                    f"revector.toml has no [collections.{collection}.adopt]. Nothing was changed; name table, text and "
                    "model there."
                )
            plan = adopter.plan(request)
            log.info("%s", plan.as_data())
            adopter.begin(plan)
        report = adopter.resume(request)
        log.info("%s: %s documents, %s with the vectors that were there", report.table, report.documents, report.reused)


class CanaryOperator(RevectorOperator):
    """Measures what is served; raises ``CanaryAlert`` when it got worse, skips what has no labels or serves nothing."""

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Measure."""
        settings = project.collection(collection)
        if settings.canary is None and settings.qrels is None:
            raise AirflowSkipException(f"{collection} has no labelled queries.")
        if project.status(collection).slots.active is None:
            raise AirflowSkipException(f"{collection} serves nothing yet.")
        found = project.canary(collection, actor=actor(context), progress=LogProgress())
        log.info("recall@%s %.4f, at first %.4f, on %s queries", found.k, found.recall, found.baseline, found.queries)
        for one in found.checks:
            log.info("%s %s, limit %.4f: %s", one.name, one.value, one.limit, one.says)
        if found.begins:
            log.info("A new test begins: %s", found.begins)
        if found.caution:
            log.warning("%s", found.caution)
        stats.canary_recall(collection, found.recall)
        found.raise_alerts()


class VerifyOperator(RevectorOperator):
    """Proves that every live index equals the documents; raises ``VerificationFailed`` when something is wrong.

    ``sample``: a share below 1 or a number of documents of each index; None: all. ``reembed``: how many of those are
    re-chunked and re-embedded. ``repair``: make what is wrong due again.
    """

    template_fields: Sequence[str] = (*RevectorOperator.template_fields, "sample", "reembed", "repair")

    def __init__(self, *, sample: float | None = None, reembed: int = 50, repair: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sample, self.reembed, self.repair = sample, reembed, repair

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Compare."""
        found = project.verify(
            collection,
            sample=self.sample,
            reembed=self.reembed,
            repair=self.repair,
            actor=actor(context),
            progress=LogProgress(),
        )
        for generation, why in found.left_out.items():
            log.info("Generation %s was left out: %s.", generation, why)
        for one in found.generations:
            log.info("%s generation %s: %s", one.role, one.generation, one.counts)
        if not found.passed:
            raise VerificationFailed(_wrong(found))


def _wrong(report: VerificationReport) -> str:
    reasons = [f"generation {one.generation}: {'; '.join(one.reasons)}" for one in report.generations if one.reasons]
    reasons += [
        f"{view} names {broken.count:,} ({', '.join(broken.first)})" for view, broken in report.invariants.items()
    ]
    reasons += [f"the history was tampered with at event {event}" for event in report.broken_events[:3]]
    rearmed = sum(one.rearmed for one in report.generations)
    fixed = f"{rearmed:,} documents are due again; a worker replaces them" if rearmed else "nothing was repaired"
    return (
        f"not everything in {report.collection} equals the documents: {'. '.join(reasons)}. Searches are still "
        f"answered; {fixed}. See `revector verify`; with --repair, or with repair in this DAG's form, wrong documents "
        "become due again."
    )


class DeadLettersOperator(RevectorOperator):
    """Makes dead letters due again that are worth a try: at most ``limit``, those refused for good ``tries`` times.

    Waits until each was tried; raises ``WorkUnfinished`` where nothing is for ``patience_s`` seconds.
    """

    template_fields: Sequence[str] = (*RevectorOperator.template_fields, "limit", "tries", "patience_s")

    def __init__(self, *, limit: int = 200, tries: int = 3, patience_s: float = PATIENCE_S, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit, self.tries, self.patience_s = limit, tries, patience_s

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Try again, and log the counts."""
        from revector.indexing.waiting import wait_until_done
        from revector.upkeep.upkeep import retry_dead_letters

        found = retry_dead_letters(
            project.engine,
            project.cid(collection),
            collection,
            actor=actor(context),
            limit=self.limit,
            tries=self.tries,
        )
        log.info("%s", found)
        if found.retried:
            wait_until_done(
                project.engine,
                project.cid(collection),
                collection,
                patience_s=self.patience_s,
                deaths=False,
                progress=LogProgress(),
            )


class StaleOperator(RevectorOperator):
    """Makes stale index entries due again, those ``max_age_days`` old too, up to ``limit``, and waits for them.

    Collections in ``reread`` have their source read again first: what differs there overwrites what is stored. Raises
    ``WorkUnfinished`` where workers finish nothing for ``patience_s`` seconds, or something became a dead letter.
    """

    template_fields: Sequence[str] = (
        *RevectorOperator.template_fields,
        "max_age_days",
        "limit",
        "reread",
        "patience_s",
    )

    def __init__(
        self,
        *,
        max_age_days: float | None = None,
        limit: int = 10_000,
        reread: Sequence[str] = (),
        patience_s: float = PATIENCE_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_age_days, self.limit, self.reread, self.patience_s = max_age_days, limit, reread, patience_s

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Look, log the counts, and wait."""
        from revector.indexing.waiting import wait_until_done
        from revector.upkeep.rereading import allowed_missing, configured_source
        from revector.upkeep.upkeep import refresh_stale

        settings, source = project.collection(collection), None
        if collection in self.reread:
            images = project.settings.image_limits
            source = configured_source(collection, settings, project.root, lambda: project.database_url, images)
        found = refresh_stale(
            project.engine,
            project.cid(collection),
            collection,
            project.documents(collection),
            source,
            actor=actor(context),
            max_age_days=self.max_age_days,
            limit=self.limit,
            max_missing=allowed_missing(settings),
            progress=LogProgress(),
        )
        log.info("%s", found)
        wait_until_done(
            project.engine, project.cid(collection), collection, patience_s=self.patience_s, progress=LogProgress()
        )


class FillFieldOperator(RevectorOperator):
    """Gives every document that lacks a metadata ``field`` what ``path`` finds in it, else ``value``."""

    template_fields: Sequence[str] = (*RevectorOperator.template_fields, "field", "value", "path", "limit")

    def __init__(
        self, *, field: str, value: object = None, path: str | None = None, limit: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.field, self.value, self.path, self.limit = field, value, path, limit

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Fill, and log the counts."""
        from revector.upkeep.metadata import fill_field

        found = fill_field(
            project.engine,
            project.cid(collection),
            collection,
            self.field,
            actor=actor(context),
            value=self.value,
            path=self.path,
            limit=self.limit,
            progress=LogProgress(),
        )
        log.info("%s", found)
