"""The operators that ask a person and wait without a worker slot: approval before the swap, and the rollback window."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLBranchOperator
from airflow.sdk import Context, Param, timezone
from airflow.sdk.definitions.param import ParamsDict

from revector.airflow.hook import RevectorHook
from revector.airflow.operators import ANSWER, PageLink, final_errors
from revector.airflow.wording import RETIRE_NOW, ROLL_BACK, approval_question, window_question
from revector.gate.figures import GateResult, Value
from revector.lifecycle import Phase
from revector.status import Status

FINAL = f"*{RETIRE_NOW}* drops the old index for good: nothing brings it back. Left alone, the window ends by itself."
FIELDS = ("config", "conn_id", "collection", "revision")


class _Question:
    """What both questions know: their collection and the revision that the run is about."""

    def __init__(
        self,
        *,
        revision: str,
        collection: str | None = None,
        config: str | None = None,
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Not passed on: Airflow 3.1 would add the fields of the run's form, and refuse an answer that lacks one.
        self.params: Any = _form()
        self.revision, self.collection, self.config, self.conn_id = revision, collection, config, conn_id

    def _look(self) -> tuple[str, Status, Phase]:
        """Return the collection, its status, and the phase of the revision: one that has ended counts as completed."""
        with final_errors():
            hook = RevectorHook(self.conn_id, config=self.config)
            name = hook.collection(self.collection)
            status = hook.get_conn().status(name)
        migration = status.migration
        if migration is None or migration.revision != self.revision:
            return name, status, Phase.COMPLETED
        return name, status, migration.phase


class MigrationApprovalOperator(_Question, ApprovalOperator):
    """Asks a person before the swap if ``wanted``, or if the migration was opened so; else passes without asking.

    A rejection changes nothing: the run ends without a swap, the shadow index stays and keeps receiving every write.
    """

    template_fields = (*ApprovalOperator.template_fields, *FIELDS, "wanted")
    operator_extra_links = (PageLink(),)

    def __init__(self, *, wanted: object = False, **kwargs: Any) -> None:
        super().__init__(subject="Swap?", **kwargs)
        self.wanted = wanted

    def execute(self, context: Context) -> object:
        """Ask, with the gate's figures, if the step before was the gate and someone must approve."""
        name, status, phase = self._look()
        wanted = self.wanted or (status.migration is not None and status.migration.needs_approval)
        if not wanted or phase is not Phase.GATED:
            self.log.info("No approval is needed.")
            return None
        self.subject = approval_question(name, self.revision)
        self.body = figures(status.gate)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> object:
        """Pass on who answered; after a rejection say how to go on."""
        _keep_answer(context, event)
        if event.get("chosen_options") == [self.REJECT]:
            self.log.warning(
                "Revision %s was rejected. The alias was not moved; the shadow index stays and receives every write. "
                "Go on later by starting %s again (finished steps do nothing), or give it up with `revector abort`.",
                self.revision,
                context["dag"].dag_id,
            )
        return super().execute_complete(context, event)


class RollbackWindowOperator(_Question, HITLBranchOperator):
    """Waits out the rollback window: one button goes back, one retires now, and the end of the window retires.

    Airflow would show a default answer as the usual one; what cannot be undone must not look so, hence there is none.
    The tasks ``rollback`` and ``retire`` follow. How long is left is asked of the registry, on the database's clock,
    when the task starts: that is the truth, a retry or a restart of Airflow does not lengthen it.
    """

    template_fields = (*HITLBranchOperator.template_fields, *FIELDS)
    operator_extra_links = (PageLink(),)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            subject="Go back, or drop the old index?",
            options=[ROLL_BACK, RETIRE_NOW],
            options_mapping={ROLL_BACK: "rollback", RETIRE_NOW: "retire"},
            **kwargs,
        )

    def execute(self, context: Context) -> object:
        """Ask, unless the migration is not live any more: then neither branch has anything to do."""
        name, status, phase = self._look()
        window = status.rollback
        if phase is not Phase.LIVE or window is None:
            self.log.info("Revision %s is not in its rollback window: it is %s.", self.revision, phase)
            return self.do_branch(context, None)
        # One second more, so that the window is over for the registry too when nobody answered.
        self.response_timeout = timedelta(seconds=window.seconds_left + 1)
        self.subject = window_question(name, self.revision)
        self.body = f"{figures(status.gate)}\n\n{FINAL}"
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> object:
        """Pass on who answered and take the branch; nobody: the window is over, which retires."""
        if event.get("error_type") == "timeout":
            event = {
                "chosen_options": [RETIRE_NOW],
                "responded_at": timezone.utcnow(),
                "responded_by_user": None,
                "params_input": {},
            }
        _keep_answer(context, event)
        return super().execute_complete(context, event)


def _form() -> ParamsDict:
    """Return what an answer says besides the choice; Airflow writes into it."""
    why = Param(None, type=["null", "string"], maxLength=500, title="Why", description="For the history")
    return ParamsDict({"reason": why})


def _keep_answer(context: Context, event: Mapping[str, Any]) -> None:
    user = event.get("responded_by_user")
    answer = {"who": user["name"] if user else None, "why": (event.get("params_input") or {}).get("reason")}
    context["ti"].xcom_push(key=ANSWER, value=answer)


def figures(gate: GateResult | None) -> str:
    """Return the gate's result as Markdown: what a person needs in order to decide."""
    if gate is None or gate.new is None:
        return "The gate has measured nothing: there was nothing to compare with, and no labelled queries."
    rows = [(f"revision {side.revision}", side.recall) for side in (gate.old, gate.new) if side is not None]
    rows += [] if gate.difference is None else [("difference", gate.difference)]
    lines = [f"| {name} | {value.mean:.4f} | {value.low:.4f} to {value.high:.4f} |" for name, value in rows]
    percent = f"{100 * gate.demanded_confidence:g} %"
    table = "\n".join([f"| | recall@{gate.k} | {percent} interval |", "|---|---|---|", *lines])
    judged = "Inconclusive" if gate.verdict is Value.INCONCLUSIVE else "Failed"
    verdict = "Passed." if gate.passed else f"{judged}: {'; '.join(gate.reasons)}."
    worst = "" if gate.judged_by is None else f" Judged by {gate.judged_by}."
    worst += "" if gate.worst_slice is None else f" The worst slice is {gate.worst_slice.words}."
    return f"{table}\n\nMeasured on {gate.queries} labelled queries ({gate.labels}). {verdict}{worst}"
