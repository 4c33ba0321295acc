"""The notifier: one sentence to the webhook of the project, from any callback of any DAG."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from airflow.sdk import BaseNotifier, Context

from revector.airflow.hook import RevectorHook
from revector.history.webhook import post

FAILED = "Task {{ ti.task_id }} of DAG {{ dag.dag_id }} ended as {{ ti.state }} (run {{ dag_run.run_id }})."


class RevectorNotifier(BaseNotifier):
    """Posts ``text`` as JSON to ``[alerts] webhook`` of ``revector.toml``, as chat services read it.

    The library itself reports what happens to a collection (gate, swap, rollback, ...). This is for what only Airflow
    knows: ``on_failure_callback``, a question that waits (``notifiers`` of a question), a deadline.
    Without a webhook nothing is sent; one that fails is logged and fails nothing.
    """

    template_fields: Sequence[str] = ("text", "config", "conn_id")

    def __init__(
        self,
        text: str = FAILED,
        *,
        config: str | None = None,
        conn_id: str | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__(context)
        self.text, self.config, self.conn_id = text, config, conn_id

    def notify(self, context: object) -> None:  # noqa: ARG002 - the signature is Airflow's
        """Send it."""
        project = RevectorHook(self.conn_id, config=self.config).get_conn()
        post(project.settings.alerts.webhook, {"text": self.text})

    async def async_notify(self, context: object) -> None:
        """Send it from the triggerer, where a deadline is missed."""
        await asyncio.to_thread(self.notify, context)
