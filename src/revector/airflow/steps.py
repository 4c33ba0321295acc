"""What the tasks do: each is one call of the library; the operators that ask a person; which errors are worth a retry.

Nothing of the library is imported before a task runs: every Airflow component parses the DAGs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLBranchOperator
from airflow.sdk import Param, RetryPolicy, get_current_context
from airflow.sdk.definitions.retry_policy import RetryDecision
from airflow.sdk.exceptions import AirflowSkipException

from revector.airflow import RETIRE_NOW, ROLL_BACK, window_question
from revector.airflow.progress import LogProgress
from revector.crash import crash_at
from revector.errors import RevectorError, VerificationFailed, WindowOpen
from revector.lifecycle import Phase

if TYPE_CHECKING:
    from revector.config import Project
    from revector.migrator import Migrator
    from revector.verification import Report

log = logging.getLogger("revector.airflow")

ANSWER = "answer"
EPOCH = "epoch"
REASON = {"reason": Param(None, type=["null", "string"], maxLength=500, title="Why", description="For the history")}


class LibraryRetries(RetryPolicy):
    """A library error is final, since repeating it cannot help, unless it says that it is ``retryable``.

    Anything else (a lost connection, a killed process, no memory) is retried with the task's own back-off.
    """

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Decide by the class of the error; its message becomes the reason shown on the task."""
        if isinstance(exception, RevectorError) and not exception.retryable:
            return RetryDecision.fail(str(exception))
        return RetryDecision.default()


def open_project(config: str | None) -> Project:
    """Return the project of ``revector.toml``; without a path it is searched as on the command line."""
    from revector.config import load_project

    return load_project(Path(config) if config else None)


def _actor(context: Mapping[str, Any]) -> str:
    return context["dag_run"].triggering_user_name or f"airflow:{context['dag'].dag_id}"


def _name(context: Mapping[str, Any], collection: str | None) -> str:
    return collection or str(context["params"]["collection"])


def _migrator(
    context: Mapping[str, Any], config: str | None, collection: str | None, who: str | None = None
) -> Migrator:
    name = _name(context, collection)
    return open_project(config).migrator(name, actor=who or _actor(context), progress=LogProgress())


def _status(context: Mapping[str, Any], config: str | None, collection: str | None) -> dict[str, Any]:
    return open_project(config).status(_name(context, collection))


def _phase(status: Mapping[str, Any], revision: str) -> Phase:
    """Return the phase of ``revision`` if its migration is open; one that has ended counts as completed."""
    migration = status["migration"]
    return Phase(migration["phase"]) if migration and migration["revision"] == revision else Phase.COMPLETED


def _is_live(context: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    revision = _revision(context)
    phase = _phase(status, revision)
    if phase is not Phase.LIVE:
        log.info("Revision %s is %s, not live: nothing is moved or dropped.", revision, phase)
    return phase is Phase.LIVE


def _revision(context: Mapping[str, Any]) -> str:
    """Return the revision that the plan resolved: "head" must not move while the run is under way."""
    return str(context["ti"].xcom_pull(task_ids="plan"))


def plan(config: str | None, collection: str | None) -> str:
    """Say what will be done, change nothing, and return the revision's id for the tasks that follow."""
    context = get_current_context()
    wanted = context["params"]["revision"]
    migrator = _migrator(context, config, collection)
    context["ti"].xcom_push(key=EPOCH, value=migrator.epoch())
    outcome = migrator.run("plan", None if wanted == "head" else wanted)
    _report(outcome)
    return str(outcome.revision)


def provision(config: str | None, collection: str | None) -> None:
    """Register the generation with what the form asks for: dual-write is on when this returns."""
    context = get_current_context()
    params = context["params"]
    options = {"shards": params["shards"], "window_hours": params["rollback_hours"], "approval": params["approval"]}
    _report(_migrator(context, config, collection).run("provision", _revision(context), **options))


def step(config: str | None, collection: str | None, name: str) -> None:
    """Run one step of the library; a retry does not move forward what a person rolled back after the run began."""
    context = get_current_context()
    began = context["ti"].xcom_pull(task_ids="plan", key=EPOCH)
    _report(_migrator(context, config, collection).run(name, _revision(context), began=began))


def shards(config: str | None, collection: str | None) -> list[int]:
    """Return the shards still to embed; a run that resumes gets only those."""
    context = get_current_context()
    return _migrator(context, config, collection).shards(_revision(context))


def embed(config: str | None, collection: str | None, shard: int) -> None:
    """Embed one shard into the shadow index; killed at any moment, the next try goes on where this one was."""
    context = get_current_context()
    _report(_migrator(context, config, collection).embed_shard(_revision(context), shard))


def approve(config: str | None, collection: str | None) -> None:
    """Record the approval under the name of the person who answered, where somebody was asked.

    Where nobody was, no reason is given: the library then refuses to pass a migration that demands a person.
    """
    context = get_current_context()
    who, reason = _answer(context, "approval")
    migrator = _migrator(context, config, collection, who)
    _report(migrator.run("approve", _revision(context), reason=reason if who else None))


def rollback(config: str | None, collection: str | None) -> None:
    """Go back, under the name of the person who chose it; what was rolled back already stays so.

    What was moved between this look and the move is left alone too.
    """
    context = get_current_context()
    status = _status(context, config, collection)
    if not _is_live(context, status):
        return
    who, reason = _answer(context, "rollback_window")
    migrator = _migrator(context, config, collection, who)
    _report(migrator.run("rollback", _revision(context), reason=reason, epoch=status["epoch"]))


def retire(config: str | None, collection: str | None) -> None:
    """Drop the old generation, at once if a person chose so, else because the window is over.

    A migration that was rolled back in the meantime is left alone: the task is skipped.
    """
    context = get_current_context()
    status = _status(context, config, collection)
    if not _is_live(context, status):
        raise AirflowSkipException("This run has nothing to retire.")
    who, reason = _answer(context, "rollback_window")
    try:
        migrator = _migrator(context, config, collection, who)
        now = who is not None
        _report(migrator.run("retire", _revision(context), reason=reason, now=now, epoch=status["epoch"]))
    except WindowOpen as error:
        # The window was made longer while this run waited; the hourly DAG retires when it is over.
        raise AirflowSkipException(str(error)) from error


def canary(config: str | None, collection: str) -> None:
    """Measure what is served; raise ``CanaryAlert`` when it got worse, skip what has no labels or serves nothing."""
    project = open_project(config)
    settings = project.collection(collection)
    if settings.canary is None and settings.qrels is None:
        raise AirflowSkipException(f"{collection} has no labelled queries.")
    if project.status(collection)["slots"]["active"] is None:
        raise AirflowSkipException(f"{collection} serves nothing yet.")
    found = project.canary(collection, actor=_actor(get_current_context()), progress=LogProgress())
    log.info("recall@%s %.4f, at first %.4f, on %s queries", found.k, found.recall, found.baseline, found.queries)
    found.raise_alerts()


def retire_due(config: str | None, collection: str) -> None:
    """Retire what is past its window in one collection; nothing to do is a success."""
    _report(_migrator(get_current_context(), config, collection).retire_due())


def verify(config: str | None, collection: str) -> None:
    """Prove that every live index equals the documents; raise ``VerificationFailed`` when something is wrong."""
    context = get_current_context()
    params = context["params"]
    report = open_project(config).verify(
        collection,
        sample=params["sample"],
        reembed=params["reembed"],
        repair=params["repair"],
        actor=_actor(context),
        progress=LogProgress(),
    )
    for generation, why in report.left_out.items():
        log.info("Generation %s was left out: %s.", generation, why)
    for found in report.generations:
        log.info("%s generation %s: %s", found.role, found.generation, found.counts)
    if not report.passed:
        raise VerificationFailed(_wrong(report))


def _wrong(report: Report) -> str:
    reasons = [f"generation {one.generation}: {'; '.join(one.reasons)}" for one in report.generations if one.reasons]
    reasons += [
        f"{view} names {broken.count:,} ({', '.join(broken.first)})" for view, broken in report.invariants.items()
    ]
    reasons += [f"the history was tampered with at event {event}" for event in report.broken_events[:3]]
    rearmed = sum(one.rearmed for one in report.generations)
    mended = f"{rearmed:,} documents are due again; a worker replaces them" if rearmed else "nothing was repaired"
    return (
        f"not everything in {report.collection} equals the documents: {'. '.join(reasons)}. Searches are still "
        f"answered; {mended}. See `revector verify`; with --repair, or with repair in this DAG's form, wrong documents "
        "become due again."
    )


def dead_letters(config: str | None, collection: str) -> None:
    """Make dead letters due again that are worth a try, and log the counts."""
    from revector.upkeep import retry_dead_letters

    context = get_current_context()
    project, params = open_project(config), context["params"]
    report = retry_dead_letters(
        project.engine,
        project.cid(collection),
        collection,
        actor=_actor(context),
        limit=params["limit"],
        tries=params["tries"],
    )
    log.info("%s", report)


def stale(config: str | None, collection: str) -> None:
    """Make stale index entries due again, after reading the source where the form says so, and log the counts."""
    from revector.upkeep import configured_source, refresh_stale

    context = get_current_context()
    project, params = open_project(config), context["params"]
    again = collection in params["reread"]
    report = refresh_stale(
        project.engine,
        project.cid(collection),
        collection,
        project.documents(collection),
        configured_source(collection, project.collection(collection), project.root) if again else None,
        actor=_actor(context),
        max_age_days=params["max_age_days"],
        limit=params["limit"],
        progress=LogProgress(),
    )
    log.info("%s", report)


def collections(config: str | None) -> list[str]:
    """Return the collections of the project."""
    return sorted(open_project(config).settings.collections)


def _keep_answer(context: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    user = event.get("responded_by_user")
    answer = {"who": user["name"] if user else None, "why": (event.get("params_input") or {}).get("reason")}
    context["ti"].xcom_push(key=ANSWER, value=answer)


def _answer(context: Mapping[str, Any], task_id: str) -> tuple[str | None, str]:
    """Return who answered the question (None: nobody, it was not asked or ran out) and the reason for the history."""
    answer = context["ti"].xcom_pull(task_ids=task_id, key=ANSWER) or {"who": None, "why": None}
    said = f"{answer['why']} " if answer["why"] else ""
    return answer["who"], f"{said}(Airflow run {context['dag_run'].run_id})"


def _report(outcome: Any) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in outcome.facts.items())
    done = "done" if outcome.changed else "was done before"
    crash_at("task.after_step")
    log.info("%s of revision %s %s; phase %s. %s", outcome.step, outcome.revision, done, outcome.phase, facts)


def figures(status: Mapping[str, Any]) -> str:
    """Return the gate's result as Markdown: what a person needs in order to decide."""
    gate = (status["migration"] or {}).get("gate")
    if gate is None or "new" not in gate:
        return "The gate has measured nothing: there was nothing to compare with, and no labelled queries."
    rows = [(f"revision {gate[side]['revision']}", gate[side]["recall"]) for side in ("old", "new") if side in gate]
    rows += [("difference", gate["difference"])] if "difference" in gate else []
    lines = [f"| {name} | {value['mean']:.4f} | {value['low']:.4f} to {value['high']:.4f} |" for name, value in rows]
    table = "\n".join([f"| | recall@{gate['k']} | 95 % interval |", "|---|---|---|", *lines])
    judged = "Inconclusive" if gate.get("verdict") == "inconclusive" else "Failed"
    verdict = "Passed." if gate["passed"] else f"{judged}: {'; '.join(gate['reasons'])}."
    return f"{table}\n\nMeasured on {gate['queries']} labelled queries ({gate['labels']}). {verdict}"


class Approval(ApprovalOperator):
    """Asks a person before the swap where the form or the collection wants that, else passes without asking.

    A rejection changes nothing: the run ends without a swap, the shadow index stays and keeps receiving every write.
    """

    def __init__(self, *, config: str | None, collection: str | None, **kwargs: Any) -> None:
        super().__init__(subject="Swap?", **kwargs)
        self.config = config
        self.collection = collection

    def execute(self, context: Any) -> Any:
        """Ask, with the gate's figures, if the step before was the gate and somebody must approve."""
        status = _status(context, self.config, self.collection)
        wanted = context["params"]["approval"] or (status["migration"] or {}).get("needs_approval")
        if not wanted or _phase(status, _revision(context)) is not Phase.GATED:
            self.log.info("No approval is needed.")
            return None
        self.subject = f"Swap {_name(context, self.collection)} to revision {_revision(context)}?"
        self.body = figures(status)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Pass on who answered; after a rejection say how to go on."""
        _keep_answer(context, event)
        if event.get("chosen_options") == [self.REJECT]:
            self.log.warning(
                "Revision %s was rejected. The alias was not moved; the shadow index stays and receives every write. "
                "Go on later by starting %s again (finished steps do nothing), or give it up with `revector abort`.",
                _revision(context),
                context["dag"].dag_id,
            )
        return super().execute_complete(context, event)


class RollbackWindow(HITLBranchOperator):
    """Waits out the rollback window: one button goes back, one retires now, and the end of the window retires.

    How long is left is asked of the registry, on the database's clock, when the task starts: that is the truth, a
    retry or a restart of Airflow does not lengthen it. It takes no worker slot while it waits.
    """

    def __init__(self, *, config: str | None, collection: str | None, **kwargs: Any) -> None:
        super().__init__(
            subject="Go back, or drop the old index?",
            options=[ROLL_BACK, RETIRE_NOW],
            options_mapping={ROLL_BACK: "rollback", RETIRE_NOW: "retire"},
            defaults=RETIRE_NOW,
            **kwargs,
        )
        self.config = config
        self.collection = collection

    def execute(self, context: Any) -> Any:
        """Ask, unless the migration is not live any more: then neither branch has anything to do."""
        status = _status(context, self.config, self.collection)
        phase, window = _phase(status, _revision(context)), status["rollback"]
        if phase is not Phase.LIVE or window is None:
            self.log.info("Revision %s is not in its rollback window: it is %s.", _revision(context), phase)
            return self.do_branch(context, None)
        # One second more, so that the window is over for the registry too when nobody answered.
        self.response_timeout = timedelta(seconds=window["seconds_left"] + 1)
        self.subject = window_question(_name(context, self.collection), _revision(context))
        self.body = figures(status)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Pass on who answered (nobody: the window is over) and take the branch."""
        _keep_answer(context, event)
        return super().execute_complete(context, event)
