"""The operators: each is one call of the library, in the history under the name of who started the run.

Nothing of the library is imported before a task runs: every Airflow component parses the DAGs.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import Asset, AssetAlias, BaseOperator, BaseOperatorLink, Context

from revector.airflow import stats
from revector.airflow.hook import RevectorHook
from revector.airflow.progress import LogProgress
from revector.airflow.versions import AirflowFailException, AirflowSkipException, conf
from revector.crash import crash_at
from revector.errors import RevectorError, StateError, WindowOpen

if TYPE_CHECKING:
    from pydantic import JsonValue

    from revector.config import Project
    from revector.lifecycle import Outcome
    from revector.migration.migrator import Migrator
    from revector.status import MigrationStatus

log = logging.getLogger("revector.airflow")

ANSWER = "answer"
EPOCH = "epoch"
"""Keys of what a question and the plan leave for later tasks."""

MOVES = ("rollback", "swap", "retire", "abort", "override")
"""What ``MoveOperator`` does; ``swap``: forward again after a rollback."""

SWAPS = AssetAlias("revector_swaps")
"""Every move of any alias; the event's asset is the collection's, see ``active_index``."""


def active_index(collection: str) -> Asset:
    """Return the asset that gets an event whenever a task moves the collection's alias: swap, rollback, forward again.

    The event's ``extra`` has ``collection, revision, generation, move`` and ``recall`` (recall@10 on the labels, None
    where it was not measured).
    """
    return Asset(name=f"revector_{collection}", uri=f"revector://{collection}/active", group="revector")


@contextmanager
def final_errors() -> Iterator[None]:
    """Have a library error fail the task without a retry, which cannot help, unless it says that it is ``retryable``.

    Anything else (a lost connection, a killed process, no memory) is retried with the task's own back-off. Not by a
    ``RetryPolicy``: Airflow has them since 3.3, and a DAG of the user's own would have to name ours.
    """
    try:
        yield
    except RevectorError as error:
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error


class PageLink(BaseOperatorLink):
    """A button on the task that leads to the page."""

    name = "Revector"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:  # noqa: ARG002 - the signature is Airflow's
        """Return the address of the page, below the server's path."""
        return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}/plugin/revector"


@contextmanager
def told(context: Context) -> Iterator[None]:
    """Have every event that is written inside name this task."""
    from revector.registry.control import ORIGIN

    names = {"dag_id": context["dag"].dag_id, "run_id": context["dag_run"].run_id, "task_id": context["task"].task_id}
    token = ORIGIN.set({"airflow": names})
    try:
        yield
    finally:
        ORIGIN.reset(token)


def actor(context: Context) -> str:
    """Return who started the run: an Airflow user, or for a schedule the DAG itself."""
    return context["dag_run"].triggering_user_name or f"airflow:{context['dag'].dag_id}"


class RevectorOperator(BaseOperator):
    """Base of the operators that call the library for one collection.

    ``conn_id``: an Airflow connection of type ``revector``; ``config``: the path of ``revector.toml``; None: the
    nearest one. ``collection``: None takes the connection's.
    """

    template_fields: Sequence[str] = ("config", "conn_id", "collection")
    operator_extra_links = (PageLink(),)
    ui_color = "#e8eefc"

    def __init__(
        self, *, collection: str | None = None, config: str | None = None, conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.collection, self.config, self.conn_id = collection, config, conn_id

    def execute(self, context: Context) -> object:
        """Open the project and make the call."""
        with final_errors():
            hook = RevectorHook(self.conn_id, config=self.config)
            collection = hook.collection(self.collection)
            with told(context), stats.counted(collection):
                return self.call(hook.get_conn(), collection, context)

    @abstractmethod
    def call(self, project: Project, collection: str, context: Context) -> object:
        """Make the call. Raises what the library raises."""


class MigrationOperator(RevectorOperator):
    """Base of the operators that work on the migration to one revision.

    ``question``: the task that asked a person; where someone answered, this is done under that name, for that reason.
    """

    template_fields: Sequence[str] = (*RevectorOperator.template_fields, "revision", "question")

    def __init__(self, *, revision: str = "head", question: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision, self.question = revision, question

    @property
    def wanted(self) -> str | None:
        """The revision as the library wants it: None is the newest."""
        return None if self.revision == "head" else str(self.revision)

    def answered(self, context: Context) -> tuple[str | None, str | None]:
        """Return who answered the question (None: nobody, it was not asked or ran out) and the reason."""
        said = context["ti"].xcom_pull(task_ids=self.question, key=ANSWER) if self.question else None
        return (said["who"], said["why"] or "no reason was given") if said and said["who"] else (None, None)

    def migrator(self, project: Project, collection: str, context: Context) -> Migrator:
        """Return the moves of the collection, under the name of the person who answered or started the run."""
        who, _ = self.answered(context)
        return project.migrator(collection, actor=who or actor(context), progress=LogProgress())


class MigrateStepOperator(MigrationOperator):
    """Runs one forward step; what was done before is a success that does nothing.

    ``step``: provision, backfill, index, verify, gate, approve or swap. ``began``: the epoch that ``PlanOperator``
    left: a retry does not move forward what a person rolled back after the run began. ``options``: of provision,
    ``shards``, ``window_hours`` and ``approval``.
    """

    template_fields: Sequence[str] = (*MigrationOperator.template_fields, "step", "began", "options")

    def __init__(
        self,
        *,
        step: str,
        began: int | str | None = None,
        options: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.step, self.began, self.options = step, began, options

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Run the step. An approval that nobody was asked for gives no reason, so that a demanded one is refused.

        A migration that was opened without approval stays as it was opened; this run asks all the same.
        """
        options = dict(self.options or {})
        opened = project.status(collection).migration if self.step == "provision" else None
        if opened and opened.revision == self.wanted:
            options.pop("approval", None)
        if self.step == "approve":
            _, options["reason"] = self.answered(context)
        began = None if self.began is None else int(self.began)
        try:
            outcome = self.migrator(project, collection, context).run(self.step, self.wanted, began=began, **options)
        finally:
            if self.step == "gate":
                stats.gate_recall(collection, project.status(collection))
        report(outcome)
        if self.step == "swap":
            announce(project, collection, outcome, context)


class PlanOperator(MigrationOperator):
    """Says what a migration would do, changes nothing, and returns the revision's id for the tasks that follow.

    "head" then means one thing for the whole run, and XCom ``epoch`` what the run saw when it began.
    """

    def call(self, project: Project, collection: str, context: Context) -> str:
        """Plan, and remember the epoch."""
        migrator = self.migrator(project, collection, context)
        context["ti"].xcom_push(key=EPOCH, value=migrator.epoch())
        for sentence in migrator.edited():
            log.warning("%s", sentence)
        outcome = migrator.run("plan", self.wanted)
        report(outcome)
        return str(outcome.revision)


class ShardsOperator(MigrationOperator):
    """Returns the shards still to embed, to map ``EmbedShardOperator`` over; a run that resumes gets only those."""

    def call(self, project: Project, collection: str, context: Context) -> list[int]:
        """List the shards."""
        return self.migrator(project, collection, context).shards(self.wanted)


class EmbedShardOperator(MigrationOperator):
    """Embeds one shard into the shadow index; killed at any moment, the next try goes on where this one was."""

    template_fields: Sequence[str] = (*MigrationOperator.template_fields, "shard")

    def __init__(self, *, shard: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Embed and publish the shard."""
        report(self.migrator(project, collection, context).embed_shard(self.wanted, int(self.shard)))


class MoveOperator(MigrationOperator):
    """Makes one move out of the forward line, if the migration is still at ``revision`` and in ``phase``.

    ``action``: one of ``MOVES``. ``phase`` "": any. What was moved between the look and the move is left alone too.
    ``skip_if_moved``: a migration that is not there any more skips the task, instead of a ``StateError``, and a
    retirement on no one's word waits for the end of the window.
    """

    template_fields: Sequence[str] = (*MigrationOperator.template_fields, "action", "phase", "reason")

    def __init__(
        self, *, action: str, phase: str = "", reason: str | None = None, skip_if_moved: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.action, self.phase, self.reason, self.skip_if_moved = action, phase, reason, skip_if_moved

    def call(self, project: Project, collection: str, context: Context) -> None:
        """Look, then move."""
        if self.action not in MOVES:
            raise StateError(f"move {self.action!r} was asked for; there are {', '.join(MOVES)}. Nothing was changed.")
        status = project.status(collection)
        self._refuse_moved(status.migration)
        who, why = self.answered(context)
        reason, epoch = self.reason or why or "the window is over", status.epoch
        migrator = self.migrator(project, collection, context)
        if self.action == "override":
            return report(migrator.override(reason))
        options: dict[str, dict[str, Any]] = {
            "rollback": {"reason": reason, "epoch": epoch},
            "swap": {"reason": reason, "began": epoch},
            "retire": {"reason": reason, "epoch": epoch, "now": who is not None or not self.skip_if_moved},
            "abort": {"reason": reason},
        }
        try:
            outcome = migrator.run(self.action, self.wanted, **options[self.action])
        except WindowOpen as error:
            if not self.skip_if_moved:
                raise
            # The window was made longer while this run waited; the hourly DAG retires when it is over.
            raise AirflowSkipException(str(error)) from error
        report(outcome)
        if self.action in ("rollback", "swap"):
            announce(project, collection, outcome, context)
        return None

    def _refuse_moved(self, migration: MigrationStatus | None) -> None:
        if migration is not None and migration.revision == self.wanted and self.phase in ("", migration.phase):
            return
        there = (
            "no open migration" if migration is None else f"revision {migration.revision} in phase {migration.phase}"
        )
        said = (
            f"{self.action} was asked for revision {self.revision} in {f'phase {self.phase}' if self.phase else 'any'}"
            f"{'' if self.phase else ' phase'}; now there is {there}. Nothing was changed; look again."
        )
        if self.skip_if_moved:
            raise AirflowSkipException(said)
        raise StateError(said)


def announce(project: Project, collection: str, outcome: Outcome, context: Context) -> None:
    """Give the collection's asset an event that its alias was moved; a retry, which may have lost it, does so again."""
    if not outcome.changed and context["ti"].try_number <= 1:
        return
    status = project.status(collection)
    active, sides = status.slots.active, {} if status.gate is None else status.gate.sides
    assert active is not None  # the move is done
    side = next((side for side in sides.values() if side.revision == active.revision), None)
    extra: dict[str, JsonValue] = {
        "collection": collection,
        "revision": active.revision,
        "generation": active.generation,
        "move": outcome.step,
        "recall": None if side is None else side.recall.mean,
    }
    context["outlet_events"][SWAPS].add(active_index(collection), extra=extra)


def report(outcome: Outcome) -> None:
    """Log what a step did."""
    facts = ", ".join(f"{name} {value}" for name, value in outcome.facts.items())
    done = "done" if outcome.changed else "was done before"
    crash_at("task.after_step")
    log.info("%s of revision %s %s; phase %s. %s", outcome.step, outcome.revision, done, outcome.phase, facts)
