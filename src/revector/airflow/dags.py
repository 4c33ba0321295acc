"""The DAGs of migrations: one task per step of ``lifecycle.FORWARD``, then the rollback window; and single moves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict

from airflow.sdk import DAG, Param, TriggerRule, chain

from revector.airflow.factory import (
    Config,
    Place,
    collection_param,
    collections_of,
    make_dag,
    place_of,
    revision_param,
    revisions_of,
    warning,
)
from revector.airflow.operators import (
    EPOCH,
    MOVES,
    SWAPS,
    EmbedShardOperator,
    MigrateStepOperator,
    MoveOperator,
    PlanOperator,
    ShardsOperator,
)
from revector.airflow.questions import MigrationApprovalOperator, RollbackWindowOperator
from revector.airflow.versions import FormField, conf
from revector.lifecycle import FORWARD, STEPS, Phase

MOST_SHARDS = 1_024
"""Airflow's ``[core] max_map_length``; ``planning.outcomes`` names it too, which no DAG file may load."""

COLLECTION = "{{ params.collection }}"


class _Planned(TypedDict):
    revision: str
    began: str


class _Of(Place):
    """What every task of a migration is about."""

    collection: str


PLANNED: _Planned = {
    "revision": "{{ ti.xcom_pull(task_ids='plan') }}",
    "began": f"{{{{ ti.xcom_pull(task_ids='plan', key='{EPOCH}') }}}}",
}
"""What the plan resolved: "head" must not move while the run is under way."""


def migration_dag(
    collection: str | None = None,
    *,
    dag_id: str = "revector_migrate",
    config: Config = None,
    conn_id: str | None = None,
    pool: str | None = None,
    queue: str = "gpu",
    executor: str | None = None,
    executor_config: Mapping[str, object] | None = None,
    deadline: timedelta | None = timedelta(days=14),
    **common: Any,
) -> DAG:
    """Return the DAG that migrates a collection to a revision and keeps the way back open.

    Without ``collection`` the form asks for it. ``config`` is the path of ``revector.toml``; ``$REVECTOR_CONFIG`` wins
    over it, and the Airflow connection ``conn_id`` over its database. The shards alone run in ``queue`` (executors
    without queues ignore it), ``pool`` (None: Airflow's setting ``[revector] gpu_pool``, or the default pool),
    ``executor``, which Airflow must have, and with ``executor_config``, such as a pod with a GPU. ``common``: as in
    ``factory.make_dag``.
    """
    place = place_of(config, conn_id)
    folders, problem = collections_of(place["config"])
    chosen = {name: folder for name, folder in folders.items() if collection in (None, name)}
    revisions, broken = revisions_of(chosen)
    common = {
        "schedule": None,
        "description": "Move a collection to another embedding model: shadow index, gate, atomic swap, rollback window",
        "doc_md": _document(problem, *broken),
        "params": {
            "collection": collection_param([collection] if collection else folders, problem),
            "revision": revision_param(revisions),
            **_form(),
        },
    } | common
    with make_dag(dag_id, place=place, deadline=deadline, **common) as dag:
        of = _Of(collection=collection or COLLECTION, **place)
        shards = ShardsOperator(task_id="shards", revision=PLANNED["revision"], **of)
        where = {"queue": queue, "pool": pool, "executor": executor, "executor_config": dict(executor_config or {})}
        embed = _embed(shards, where, of)
        approval = MigrationApprovalOperator(
            task_id="approval",
            revision=PLANNED["revision"],
            wanted=FormField(dag, "approval"),
            doc_md="Asks a person where the form wants that. A rejection keeps everything as it is.",
            **of,
        )
        before: dict[str, list[object]] = {"backfill": [shards, embed], "approve": [approval]}
        chain(*(task for name in FORWARD for task in (*before.get(name, ()), _step(name, dag, of))), *_window(of))
    return dag


def _embed(shards: ShardsOperator, where: Mapping[str, object], of: _Of) -> object:
    """Return one task for each shard that is to do."""
    pool = where["pool"] or conf.get("revector", "gpu_pool", fallback="default_pool")
    return EmbedShardOperator.partial(
        task_id="embed",
        revision=PLANNED["revision"],
        do_xcom_push=False,
        map_index_template="{{ 'shard-%02d' % task.shard }}",
        doc_md="Embeds one shard on a GPU worker; killed at any moment, the next try goes on where it was.",
        **{**where, "pool": pool},
        **of,
    ).expand(shard=shards.output)


def _step(name: str, dag: DAG, of: _Of) -> object:
    does = f"This step {STEPS[name].does}."
    if name == "plan":
        return PlanOperator(task_id=name, revision="{{ params.revision }}", doc_md=does, **of)
    special: dict[str, dict[str, Any]] = {
        "provision": {
            "options": {
                "shards": FormField(dag, "shards"),
                "window_hours": FormField(dag, "rollback_hours"),
                "approval": FormField(dag, "approval"),
            }
        },
        # After the shards, "none failed": a run that resumes may have no shard left to embed.
        "backfill": {"trigger_rule": TriggerRule.NONE_FAILED},
        "approve": {"question": "approval"},
        "swap": {"outlets": [SWAPS]},
    }
    return MigrateStepOperator(
        task_id=name, step=name, do_xcom_push=False, doc_md=does, **PLANNED, **of, **special.get(name, {})
    )


def _window(of: _Of) -> tuple[RollbackWindowOperator, list[MoveOperator]]:
    window = RollbackWindowOperator(
        task_id="rollback_window",
        revision=PLANNED["revision"],
        doc_md="The old index receives every write until the window ends, so going back loses nothing.",
        **of,
    )
    ways = [
        MoveOperator(
            task_id=action,
            action=action,
            revision=PLANNED["revision"],
            phase=Phase.LIVE.value,
            question="rollback_window",
            skip_if_moved=True,
            do_xcom_push=False,
            doc_md=f"This step {STEPS[action].does}.",
            outlets=[SWAPS] if action == "rollback" else [],
            **of,
        )
        for action in ("rollback", "retire")
    ]
    return window, ways


def rollback_dag(
    collection: str | None = None,
    *,
    dag_id: str = "revector_rollback",
    config: Config = None,
    conn_id: str | None = None,
    **common: Any,
) -> DAG:
    """Return the DAG that makes one move of an open migration: go back, forward again, retire, abort or override.

    It is what the buttons of the page start, so that every move is authorised by Airflow and is in the history
    under the name of the user, with the reason and the run. ``common``: as in ``factory.make_dag``.
    """
    place = place_of(config, conn_id)
    names, problem = collections_of(place["config"])
    common = {
        "schedule": None,
        "description": "Make one move of an open migration: roll back, go forward again, retire, abort, override",
        "doc_md": f"{warning(problem)}Looks whether the migration is still at the revision and in the phase of the "
        "form, and makes the move; otherwise it changes nothing and fails. The alias moves in one short transaction, "
        "and an index that was rolled back keeps receiving every write, so that one can go forward again.\n\n"
        "| move | |\n|---|---|\n" + "".join(f"| {name} | {does} |\n" for name, does in _MOVES.items()),
        "params": {"collection": collection_param([collection] if collection else names, problem)} | _move_form(),
    } | common
    with make_dag(dag_id, place=place, **common) as dag:
        MoveOperator(
            task_id="move",
            **place,
            collection=collection or COLLECTION,
            action="{{ params.action }}",
            revision="{{ params.revision }}",
            phase="{{ params.phase }}",
            reason="{{ params.reason }}",
            do_xcom_push=False,
            outlets=[SWAPS],
            doc_md="One move, or none: it is a compare-and-set on the collection's slots.",
        )
    return dag


_MOVES = {
    "rollback": f"{STEPS['rollback'].does}; until the window ends",
    "swap": "moves the alias forward again after a rollback",
    "retire": "gives up the way back at once and drops the index that is not served",
    "abort": f"{STEPS['abort'].does}; before the swap",
    "override": "lets the alias move although the gate did not pass; holds for the latest result alone",
}


def _move_form() -> dict[str, Param]:
    return {
        "action": Param("rollback", type="string", enum=list(MOVES), title="Move", description="See the table above"),
        "revision": Param(
            type="string", minLength=1, title="Revision", description="The migration's, as `revector status` shows"
        ),
        "phase": Param(
            "",
            type="string",
            enum=["", *(phase.value for phase in Phase)],
            title="Phase",
            description="In which the migration must still be; empty: any",
        ),
        "reason": Param(
            type="string", minLength=1, maxLength=500, title="Why", description="Kept in the history, with your name"
        ),
    }


def _form() -> dict[str, Param]:
    return {
        "approval": Param(
            True,
            type="boolean",
            title="Ask for approval",
            description="Wait for a person between the gate and the swap; off: a gate that passes is enough",
        ),
        "shards": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=MOST_SHARDS,
            title="Shards",
            description="Parts embedded in parallel; empty: as in revector.toml, else 45 minutes each by the plan",
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


def _document(*problems: str | None) -> str:
    rows = "\n".join(f"| {name} | {STEPS[name].does} |" for name in (*FORWARD, "rollback", "retire"))
    return (
        f"{warning(*problems)}Every task is one call of the revector library and may be repeated: a finished step does "
        f"nothing. The state is in SQL, so this DAG and its runs may be deleted without effect on data.\n\n"
        f"| step | this step … |\n|---|---|\n{rows}\n"
    )
