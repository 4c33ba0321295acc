"""The DAGs of the upkeep: each asks the library one thing of every collection, on schedule, in one mapped task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from airflow.sdk import DAG, Param, task

from revector.airflow import steps
from revector.airflow.dags import collections_of, config_file, retrying
from revector.errors import ConfigError

Config = str | os.PathLike[str] | None
Notifiers = Sequence[Callable[[Any], None]]
"""Airflow notifiers (``SlackNotifier(…)``) or callables that get the context of the task that failed."""


def upkeep_dags(
    *,
    schedules: Mapping[str, str | None] | None = None,
    notifiers: Notifiers = (),
    config: Config = None,
    retries: int = 3,
    **dag_options: Any,
) -> tuple[DAG, ...]:
    """Return all DAGs of the upkeep; Airflow lists them without a name of their own in the DAG file.

    They are ``revector_canary``, ``revector_dead_letters``, ``revector_retire``, ``revector_stale``,
    ``revector_verify`` and ``revector_verify_full``. ``schedules``: by DAG id, where another than usual is wanted; None
    lets only people start it. ``notifiers`` hear of each failure, ``dag_options`` go to every DAG. Raises
    ``ConfigError`` for a schedule of an unknown DAG.
    """
    makers: dict[str, Callable[..., DAG]] = {
        "revector_canary": canary_dag,
        "revector_dead_letters": dead_letters_dag,
        "revector_retire": retire_dag,
        "revector_stale": stale_dag,
        "revector_verify": verify_dag,
        "revector_verify_full": partial(verify_dag, schedule="@weekly", sample=None, reembed=500),
    }
    wanted = dict(schedules or {})
    if unknown := sorted(wanted.keys() - makers.keys()):
        raise ConfigError(f"schedules names {', '.join(unknown)}; the DAGs of the upkeep are {', '.join(makers)}.")
    common = {"notifiers": notifiers, "config": config, "retries": retries, **dag_options}
    return tuple(
        make(name, **common, **({"schedule": wanted[name]} if name in wanted else {})) for name, make in makers.items()
    )


def retire_dag(
    dag_id: str = "revector_retire",
    *,
    schedule: str | None = "@hourly",
    notifiers: Notifiers = (),
    config: Config = None,
    retries: int = 3,
    **dag_options: Any,
) -> DAG:
    """Return the safety net: a DAG that drops old generations whose rollback window is over, whoever opened it."""
    options = {
        "schedule": schedule,
        "description": "Drop old generations whose rollback window is over",
        "doc_md": "Looks at every collection each hour. One whose window is open, or that has no way back, is skipped.",
    }
    return _mapped(dag_id, "retire", steps.retire_due, (config, retries, notifiers), options | dag_options)


def canary_dag(
    dag_id: str = "revector_canary",
    *,
    schedule: str | None = "@daily",
    notifiers: Notifiers = (),
    config: Config = None,
    retries: int = 3,
    **dag_options: Any,
) -> DAG:
    """Return the DAG that measures what is served on the same queries and fails when it got worse.

    The webhook of ``revector.toml`` is called by the library itself.
    """
    options = {
        "schedule": schedule,
        "description": "Measure recall@10 of what is served, and prove its encoder",
        "doc_md": "One task a collection. It fails, without a retry, when recall@10 fell by more than `canary_drop` "
        "below the first run of the same index, or when the model behind the name is another one; the series is in the "
        "table `canary`. A collection without labels, or with nothing served, is skipped.",
    }
    return _mapped(dag_id, "canary", steps.canary, (config, retries, notifiers), options | dag_options)


def verify_dag(
    dag_id: str = "revector_verify",
    *,
    schedule: str | None = "@hourly",
    sample: float | None = 0.01,
    reembed: int = 50,
    notifiers: Notifiers = (),
    config: Config = None,
    retries: int = 3,
    **dag_options: Any,
) -> DAG:
    """Return the DAG that proves that every live index equals the documents, and fails when one does not.

    ``sample``: a share below 1 or a number of documents of each index, going on where the last one ended; None: all.
    ``reembed``: how many of those are cut and embedded anew. Both are what the form begins with.
    """
    options = {
        "schedule": schedule,
        "description": "Prove that every live index equals the documents",
        "doc_md": "One task a collection, while everybody works on: no lock is held. A sample goes on where the last "
        "one in the history ended, so that successive runs come across every document. The task fails, without a "
        "retry, when something is wrong, also if it was repaired; the history keeps every run.",
        "params": {
            "sample": Param(
                sample,
                type=["null", "number"],
                exclusiveMinimum=0,
                title="Sample",
                description="A share below 1, or a number of documents, of each index; empty: all of them",
            ),
            "reembed": Param(
                reembed,
                type="integer",
                minimum=0,
                title="Embed anew",
                description="Documents of each index to cut and embed anew; 0 loads no model",
            ),
            "repair": Param(
                False,
                type="boolean",
                title="Repair",
                description="Make what is wrong due again: a worker replaces it, and it is served until then",
            ),
        },
    }
    return _mapped(dag_id, "verify", steps.verify, (config, retries, notifiers), options | dag_options)


def dead_letters_dag(
    dag_id: str = "revector_dead_letters",
    *,
    schedule: str | None = "@daily",
    limit: int = 200,
    tries: int = 3,
    notifiers: Notifiers = (),
    config: Config = None,
    retries: int = 3,
    **dag_options: Any,
) -> DAG:
    """Return the DAG that tries dead letters again; ``limit`` and ``tries`` are what its form begins with."""
    options = {
        "schedule": schedule,
        "description": "Try dead letters again, within bounds",
        "doc_md": "One task a collection. A document that failed in a way that may pass (device, connection, memory) "
        "is made due again each time; one that was refused for good, or that processes died of, so many times for one "
        "text. What a person waived is left alone, and what ingestion refused is mended at its source. The log has the "
        "counts, and the history names what was tried.",
        "params": {
            "limit": Param(
                limit,
                type="integer",
                minimum=1,
                maximum=1_000,
                title="At most",
                description="Documents of each collection made due in one run, those tried least often first",
            ),
            "tries": Param(
                tries,
                type="integer",
                minimum=0,
                title="Tries of what is final",
                description="How often a document that was refused for good is tried again; 0: never",
            ),
        },
    }
    return _mapped(dag_id, "dead_letters", steps.dead_letters, (config, retries, notifiers), options | dag_options)


def stale_dag(
    dag_id: str = "revector_stale",
    *,
    schedule: str | None = "@daily",
    max_age_days: float | None = None,
    limit: int = 10_000,
    reread: Sequence[str] = (),
    notifiers: Notifiers = (),
    config: Config = None,
    retries: int = 3,
    **dag_options: Any,
) -> DAG:
    """Return the DAG that finds stale vectors by night and makes them due again in every live index.

    ``reread``: collections whose source in ``revector.toml`` is the truth. It is read again, and what differs there is
    written, also over what was written directly since. ``max_age_days`` None: age does not count. All three are what
    the form begins with.
    """
    names, _ = collections_of(config_file(config))
    options = {
        "schedule": schedule,
        "description": "Embed anew what is stale, in every live index",
        "doc_md": "One task a collection: reads the source again where the form names the collection, then makes index "
        "entries due again that are not at their document's version with nobody at work on it, or that are older than "
        "the limit. A worker embeds them anew; they are served until then. What is gone from a source is told in the "
        "log, never deleted. The history keeps the counts.",
        "params": {
            "max_age_days": Param(
                max_age_days,
                type=["null", "number"],
                exclusiveMinimum=0,
                title="Oldest (days)",
                description="Embed anew what was embedded longer ago; empty: age does not count",
            ),
            "limit": Param(
                limit,
                type="integer",
                minimum=1,
                title="At most",
                description="Index entries of each collection made due in one run, the oldest first",
            ),
            "reread": Param(
                list(reread),
                type="array",
                items={"type": "string"} | ({"enum": names} if names else {}),
                examples=names,
                title="Read again",
                description="Collections whose source is the truth: what differs there overwrites what is stored",
            ),
        },
    }
    return _mapped(dag_id, "stale", steps.stale, (config, retries, notifiers), options | dag_options)


def _mapped(
    dag_id: str,
    name: str,
    call: Callable[..., None],
    common: tuple[Config, int, Notifiers],
    options: Mapping[str, Any],
) -> DAG:
    """Return a DAG of two tasks: the collections, and ``call`` once for each."""
    config, retries, notifiers = common
    file = config_file(config)
    given: dict[str, Any] = {"tags": ["revector"], "catchup": False, "max_active_runs": 1} | dict(options)
    arguments = retrying(retries) | {"on_failure_callback": list(notifiers)} | given.pop("default_args", {})
    with DAG(dag_id, schedule=given.pop("schedule"), default_args=arguments, **given) as dag:
        names = task(task_id="collections")(steps.collections)(file)
        task(
            task_id=name,
            do_xcom_push=False,
            map_index_template="{{ task.op_kwargs['collection'] }}",
        )(call).partial(config=file).expand(collection=names)
    return dag
