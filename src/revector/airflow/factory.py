"""What all DAG factories share: the project's file, the collections for the form, retries, owner and deadlines."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

from airflow.sdk import DAG, Param

from revector.airflow.notifier import RevectorNotifier
from revector.airflow.versions import BACK_OFF, conf, deadline_alert
from revector.errors import SpecError
from revector.revisions import RevisionGraph

TAG = "revector"
"""On every DAG of ours."""

Config = str | os.PathLike[str] | None
Notifiers = Sequence[Callable[[object], None]]
"""Airflow notifiers (``SlackNotifier(…)``) or callables that get the context of the task that failed."""


def make_dag(
    dag_id: str,
    *,
    schedule: object,
    place: Place,
    retries: int = 3,
    owner: str = "revector",
    deadline: timedelta | None = timedelta(days=1),
    notifiers: Notifiers = (),
    **options: object,
) -> DAG:
    """Return an empty DAG; every factory passes its ``common`` arguments on to here, and the rest to ``DAG``.

    ``place``: ``config`` and ``conn_id`` of its tasks. ``retries``: of every task, with exponential back-off; errors
    that a repetition cannot fix fail at once. ``deadline``: a run that takes longer shows in Airflow's list of
    deadlines and is told to the webhook of ``revector.toml``; None: however long. ``notifiers`` hear of each task that
    failed. ``default_args`` (queue, pool, executor, ...) are those of every task.

    A DAG without a schedule is not paused when Airflow first sees it, whatever Airflow's default: it runs only when
    someone starts it, and a run of a paused DAG waits for ever. Those with a schedule arrive as Airflow is set.
    """
    arguments = {
        "owner": owner,
        "retries": retries,
        "retry_delay": timedelta(seconds=5),
        "retry_exponential_backoff": BACK_OFF,
        "max_retry_delay": timedelta(minutes=10),
        "on_failure_callback": list(notifiers),
    }
    late = {"text": f"A run of {dag_id} has taken longer than {deadline}; look at it in Airflow.", **place}
    given: dict[str, Any] = {"catchup": False, "is_paused_upon_creation": False if schedule is None else None} | options
    return DAG(
        dag_id,
        schedule=schedule,
        **given
        | {
            "tags": sorted({TAG, *given.get("tags", ())}),
            "default_args": arguments | given.get("default_args", {}),
            "deadline": None if deadline is None else deadline_alert(deadline, RevectorNotifier, late),
        },
    )


class Place(TypedDict):
    """Where a task finds its project: the path of ``revector.toml``, and an Airflow connection over it."""

    config: str | None
    conn_id: str | None


def place_of(config: Config, conn_id: str | None) -> Place:
    """Return where the tasks find their project: ``$REVECTOR_CONFIG`` wins over what the DAG file gives.

    Airflow's own settings ``[revector] config`` and ``conn_id`` stand in where the DAG file gives nothing.
    """
    file = config if config is not None else conf.get("revector", "config", fallback=None)
    return {
        "config": os.environ.get("REVECTOR_CONFIG") or (str(file) if file is not None else None),
        "conn_id": conn_id or conf.get("revector", "conn_id", fallback=None),
    }


def collections_of(file: str | None) -> tuple[dict[str, Path], str | None]:
    """Return the collections with their folders of migration files, and what is wrong with ``revector.toml``.

    Only TOML is read, at every parse; what else the file must be, the first task says.
    """
    path = Path(file) if file else Path("revector.toml")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("collections", {})
        return {
            name: path.parent / tables[name].get("migrations", f"migrations/{name}") for name in sorted(tables)
        }, None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, f"{path} cannot be read: {error}"
    except (AttributeError, TypeError):
        return {}, f"{path}: collections must be tables, such as [collections.docs]"


def revisions_of(folders: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Return the revisions of these collections with words for people, newest first, and what is wrong with the files.

    They are read as data and never run, so that a broken one hinders no other collection and no other DAG.
    """
    found: dict[str, list[str]] = {}
    problems = []
    for name, folder in folders.items():
        try:
            graph = RevisionGraph.from_folder(folder)
        except (SpecError, OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}: {error}")
            continue
        for one in [*graph][::-1]:
            where = f"{name}: " if len(folders) > 1 else ""
            found.setdefault(one.revision, []).append(f"{where}{one.message} ({one.model.name})")
    return {revision: f"{revision}, {', '.join(words)}" for revision, words in found.items()}, problems


def revision_param(revisions: Mapping[str, str]) -> Param:
    """Return the form's choice of a revision: of the files; any text where none can be read."""
    what = "One of the migration files; head is the newest of the collection"
    if not revisions:
        return Param("head", type="string", title="Revision", description=what, minLength=1, examples=["head"])
    shown = {"head": "head, the newest file"} | dict(revisions)
    return Param("head", type="string", title="Revision", description=what, enum=list(shown), values_display=shown)


def collection_param(names: Collection[str], problem: str | None) -> Param:
    """Return the form's choice of a collection; where the file cannot be read, any name and why."""
    what = problem or "Which corpus of revector.toml"
    if not names:
        return Param("docs", type="string", title="Collection", description=what, minLength=1)
    return Param(next(iter(names)), type="string", title="Collection", description=what, enum=list(names))


def warning(*problems: str | None) -> str:
    """Return the lines that a DAG's documentation begins with while the project's files cannot be read."""
    lines = [f"**{problem}** Runs fail at their first task until it is fixed.\n\n" for problem in problems if problem]
    return "".join(lines)
