"""The DAG that migrates: one task per step of ``lifecycle.FORWARD``, then the rollback window."""

from __future__ import annotations

import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, TriggerRule, chain, task
from airflow.sdk.configuration import conf

from revector.airflow import steps
from revector.lifecycle import FORWARD, STEPS

CALLS = {"plan": steps.plan, "provision": steps.provision, "approve": steps.approve}
"""Steps that need more than ``steps.step``."""

MOST_SHARDS = 1_024
"""Airflow's ``[core] max_map_length``: a longer list fails the task that returns it."""


def migration_dag(
    collection: str | None = None,
    *,
    dag_id: str = "revector_migrate",
    config: str | os.PathLike[str] | None = None,
    pool: str | None = None,
    queue: str = "gpu",
    executor: str | None = None,
    retries: int = 3,
    **dag_options: Any,
) -> DAG:
    """Return the DAG that migrates a collection to a revision and keeps the way back open.

    Without ``collection`` the form asks for it. ``config`` is the path of ``revector.toml``; ``$REVECTOR_CONFIG`` wins
    over it. The shards run in ``queue`` (executors without queues ignore it) and ``pool``: None takes Airflow's own
    setting ``[revector] gpu_pool``, or the default pool. ``executor`` runs only the shards elsewhere; Airflow refuses
    the DAG if that executor is not configured. ``retries`` counts for every task, with exponential back-off; errors
    that a repetition cannot mend fail at once. Other options go to ``DAG``.
    """
    file = config_file(config)
    names, problem = collections_of(file)
    options: dict[str, Any] = {"tags": ["revector"], "catchup": False, "render_template_as_native_obj": True}
    with DAG(
        dag_id,
        schedule=dag_options.pop("schedule", None),
        description="Move a collection to another embedding model: shadow index, gate, atomic swap, rollback window",
        doc_md=_document(problem),
        params=_form(collection, names, problem),
        default_args=retrying(retries),
        **(options | dag_options),
    ) as dag:
        made = {name: _step(name, file, collection) for name in FORWARD}
        shard_list = task(task_id="shards")(steps.shards)(file, collection)
        embed = (
            task(
                task_id="embed",
                queue=queue,
                pool=pool or conf.get("revector", "gpu_pool", fallback="default_pool"),
                executor=executor,
                do_xcom_push=False,
                map_index_template="{{ 'shard-%02d' % task.op_kwargs['shard'] }}",
                doc_md="Embeds one shard on a GPU worker; killed at any moment, the next try goes on where it was.",
            )(steps.embed)
            .partial(config=file, collection=collection)
            .expand(shard=shard_list)
        )
        approval = steps.Approval(
            task_id="approval",
            params=steps.REASON,
            config=file,
            collection=collection,
            doc_md="Asks a person where the form wants that. A rejection keeps everything as it is.",
        )
        tasks: list[Any] = [made[name] for name in FORWARD]
        tasks[FORWARD.index("backfill") : FORWARD.index("backfill")] = [shard_list, embed]
        tasks.insert(tasks.index(made["approve"]), approval)
        chain(*tasks, _window(file, collection))
    return dag


def _step(name: str, file: str | None, collection: str | None) -> Any:
    # After the shards, "none failed": a run that resumes may have no shard left to embed.
    rule = TriggerRule.NONE_FAILED if name == "backfill" else TriggerRule.ALL_SUCCESS
    does = f"This step {STEPS[name].does}."
    # Only the plan returns something: the revision's id, so that "head" means one thing for the whole run.
    decorate = task(task_id=name, doc_md=does, trigger_rule=rule, do_xcom_push=name == "plan")
    call = CALLS.get(name)
    return decorate(call)(file, collection) if call else decorate(steps.step)(file, collection, name)


def _window(file: str | None, collection: str | None) -> Any:
    window = steps.RollbackWindow(
        task_id="rollback_window",
        params=steps.REASON,
        config=file,
        collection=collection,
        doc_md="The old index receives every write until the window ends, so going back loses nothing.",
    )
    back = task(task_id="rollback", do_xcom_push=False, doc_md=f"This step {STEPS['rollback'].does}.")(steps.rollback)
    drop = task(task_id="retire", do_xcom_push=False, doc_md=f"This step {STEPS['retire'].does}.")(steps.retire)
    chain(window, [back(file, collection), drop(file, collection)])
    return window


def retrying(retries: int) -> dict[str, Any]:
    """Return the arguments of every task: so many retries with back-off, none for what repeating cannot mend."""
    return {
        "retries": retries,
        "retry_delay": timedelta(seconds=5),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
        "retry_policy": steps.LibraryRetries(),
    }


def config_file(given: str | os.PathLike[str] | None) -> str | None:
    """Return the path of ``revector.toml``: ``$REVECTOR_CONFIG`` wins over what the DAG file gives."""
    return os.environ.get("REVECTOR_CONFIG") or (str(given) if given is not None else None)


def collections_of(file: str | None) -> tuple[list[str], str | None]:
    """Return the names for the form and what is wrong with the file; only TOML is read, at every parse."""
    path = Path(file) if file else Path("revector.toml")
    try:
        return sorted(tomllib.loads(path.read_text(encoding="utf-8")).get("collections", {})), None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return [], f"{path} cannot be read: {error}"


def _form(collection: str | None, names: list[str], problem: str | None) -> dict[str, Param]:
    form = {
        "revision": Param(
            "head",
            type="string",
            minLength=1,
            title="Revision",
            description="A migration file's id, or head: the newest",
        ),
        "approval": Param(
            False,
            type="boolean",
            title="Ask for approval",
            description="Wait for a person between the gate and the swap",
        ),
        "shards": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=MOST_SHARDS,
            title="Shards",
            description="Parts embedded in parallel, each best some minutes long; empty: as in revector.toml (4)",
        ),
        "rollback_hours": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=24 * 365,
            title="Rollback window (hours)",
            description="How long the old index keeps receiving every write; empty: as in revector.toml (48)",
        ),
    }
    if collection is not None:
        return form
    choice: dict[str, Any] = {"enum": names} if names else {"minLength": 1}
    what = problem or "Which corpus of revector.toml"
    first = names[0] if names else "docs"
    return {"collection": Param(first, type="string", title="Collection", description=what, **choice)} | form


def _document(problem: str | None) -> str:
    rows = "\n".join(f"| {name} | {STEPS[name].does} |" for name in (*FORWARD, "rollback", "retire"))
    warning = f"**{problem}** Runs fail at their first task until it is mended.\n\n" if problem else ""
    return (
        f"{warning}Every task is one call of the revector library and may be repeated: a finished step does nothing. "
        f"The state is in SQL, so this DAG and its runs may be deleted without effect on data.\n\n"
        f"| step | this step … |\n|---|---|\n{rows}\n"
    )
