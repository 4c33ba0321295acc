"""Owns what differs between the Airflow versions that revector runs on, 3.1 to 3.3; no other file asks for a version.

What all of them have is imported from Airflow where it is used.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow import __version__
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.definitions.param import DagParam

VERSION = tuple(int(part) for part in __version__.split(".")[:2])

if VERSION >= (3, 2):
    from airflow.sdk.configuration import conf
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
else:
    from airflow.configuration import conf
    from airflow.exceptions import AirflowFailException, AirflowSkipException  # type: ignore[no-redef]
    from airflow.sdk.definitions.deadline import AsyncCallback  # type: ignore[attr-defined]

__all__ = ["BACK_OFF", "AirflowFailException", "AirflowSkipException", "FormField", "conf", "deadline_alert", "metrics"]

BACK_OFF: float = 2.0 if VERSION >= (3, 2) else True
"""Value of ``retry_exponential_backoff`` that doubles each delay: 3.1 takes a switch, later versions the factor."""


def deadline_alert(after: timedelta, callback: type, kwargs: dict[str, Any]) -> DeadlineAlert:
    """Return the alert of a run that takes longer than ``after``, counted from when it was queued; 3.3 shows a name."""
    name = {"name": f"longer than {after}"} if VERSION >= (3, 3) else {}
    call = AsyncCallback(callback, kwargs=kwargs)
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=after, callback=call, **name)


class FormField(DagParam):
    """What a run's form says, with its type; ``dag.param`` for templated fields.

    Airflow 3.1 cannot store its own kind, or, in a dict, takes each parse for another version of the DAG.
    """

    def serialize(self) -> str:  # type: ignore[override]
        """Return what the page of a task shows before it runs."""
        return f"{{{{ params.{self._name} }}}}"

    __repr__ = serialize


def metrics() -> Any:
    """Return what has ``incr`` and ``gauge``; imported only where something is counted."""
    if VERSION >= (3, 3):
        from airflow.sdk.observability import stats

        return stats
    if VERSION >= (3, 2):
        from airflow.sdk.observability.stats import Stats
    else:
        from airflow.stats import Stats

    return Stats
