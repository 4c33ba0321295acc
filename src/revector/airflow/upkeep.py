"""The DAGs of the upkeep: each asks the library one thing of every collection, on schedule, in one mapped task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from airflow.sdk import DAG, Param

from revector.airflow.dags import COLLECTION
from revector.airflow.factory import Config, collection_param, collections_of, make_dag, place_of, warning
from revector.airflow.operators import RevectorOperator
from revector.airflow.upkeep_operators import (
    AdoptOperator,
    CanaryOperator,
    CollectionsOperator,
    DeadLettersOperator,
    FillFieldOperator,
    RetireDueOperator,
    StaleOperator,
    VerifyOperator,
)
from revector.airflow.versions import FormField
from revector.errors import ConfigError


def upkeep_dags(*, schedules: Mapping[str, str | None] | None = None, **common: object) -> tuple[DAG, ...]:
    """Return all DAGs of the upkeep; Airflow lists them without a name of their own in the DAG file.

    They are ``revector_adopt``, ``revector_canary``, ``revector_dead_letters``, ``revector_metadata_backfill``,
    ``revector_retire``, ``revector_stale``, ``revector_verify`` and ``revector_verify_full``. ``schedules``: by DAG id,
    where another than usual is wanted; None lets only people start it. ``common``: ``config``, ``conn_id``, and as in
    ``factory.make_dag``. Raises ``ConfigError`` for a schedule of an unknown DAG.
    """
    makers: dict[str, Callable[..., DAG]] = {
        "revector_adopt": adopt_dag,
        "revector_canary": canary_dag,
        "revector_dead_letters": dead_letters_dag,
        "revector_metadata_backfill": metadata_dag,
        "revector_retire": retire_dag,
        "revector_stale": stale_dag,
        "revector_verify": verify_dag,
        "revector_verify_full": partial(verify_dag, schedule="@weekly", sample=None, reembed=500),
    }
    wanted = dict(schedules or {})
    if unknown := sorted(wanted.keys() - makers.keys()):
        raise ConfigError(f"schedules names {', '.join(unknown)}; the DAGs of the upkeep are {', '.join(makers)}.")
    return tuple(
        make(name, **common, **({"schedule": wanted[name]} if name in wanted else {})) for name, make in makers.items()
    )


def retire_dag(
    dag_id: str = "revector_retire",
    *,
    schedule: str | None = "@hourly",
    **common: object,
) -> DAG:
    """Return the safety net: a DAG that drops old generations whose rollback window is over, whatever opened it."""
    options = {
        "schedule": schedule,
        "description": "Drop old generations whose rollback window is over",
        "doc_md": "Looks at every collection each hour. One whose window is open, or that has no way back, is skipped.",
    }
    return _mapped(dag_id, "retire", RetireDueOperator, options | common)


def canary_dag(
    dag_id: str = "revector_canary",
    *,
    schedule: str | None = "@daily",
    **common: object,
) -> DAG:
    """Return the DAG that measures what is served on the same queries and fails when it got worse.

    The webhook of ``revector.toml`` is called by the library itself.
    """
    options = {
        "schedule": schedule,
        "description": "Measure recall@10 of what is served, and prove its encoder",
        "doc_md": "One task a collection. It fails, without a retry, when a check is beyond its limit: recall@10 fell "
        "below the first run of the same index, by no chance, the same queries find other documents, rows of the index "
        "are gone, or the model behind the name is another one. The series is in the table `canary`. A collection "
        "without labels, or with nothing served, is skipped.",
    }
    return _mapped(dag_id, "canary", CanaryOperator, options | common)


def verify_dag(
    dag_id: str = "revector_verify",
    *,
    schedule: str | None = "@hourly",
    sample: float | None = 0.01,
    reembed: int = 50,
    **common: object,
) -> DAG:
    """Return the DAG that proves that every live index equals the documents, and fails when one does not.

    ``sample``: a share below 1 or a number of documents of each index, going on where the last one ended; None: all.
    ``reembed``: how many of those are re-chunked and re-embedded. Both are what the form begins with.
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
                title="Re-embed",
                description="Documents of each index to re-chunk and re-embed; 0 loads no model",
            ),
            "repair": Param(
                False,
                type="boolean",
                title="Repair",
                description="Make what is wrong due again: a worker replaces it, and it is served until then",
            ),
        },
    }
    return _mapped(dag_id, "verify", VerifyOperator, options | common)


def dead_letters_dag(
    dag_id: str = "revector_dead_letters",
    *,
    schedule: str | None = "@daily",
    limit: int = 200,
    tries: int = 3,
    **common: object,
) -> DAG:
    """Return the DAG that tries dead letters again; ``limit`` and ``tries`` are what its form begins with."""
    options = {
        "schedule": schedule,
        "description": "Try dead letters again, within bounds",
        "doc_md": "One task a collection. A document that failed in a way that may pass (device, connection, memory) "
        "is made due again each time; one that was refused for good, or that processes died of, so many times for one "
        "text. What a person waived is left alone, and what ingestion refused is fixed at its source. The log has the "
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
    return _mapped(dag_id, "dead_letters", DeadLettersOperator, options | common)


def stale_dag(
    dag_id: str = "revector_stale",
    *,
    schedule: str | None = "@daily",
    max_age_days: float | None = None,
    limit: int = 10_000,
    reread: Sequence[str] = (),
    **common: Any,
) -> DAG:
    """Return the DAG that finds stale vectors by night and makes them due again in every live index.

    ``reread``: collections whose source in ``revector.toml`` is the truth. It is read again, and what differs there is
    written, also over what was written directly since. ``max_age_days`` None: age does not count. All three are what
    the form begins with.
    """
    names, _ = collections_of(place_of(common.get("config"), common.get("conn_id"))["config"])
    options = {
        "schedule": schedule,
        "description": "Re-embed what is stale, in every live index",
        "doc_md": "One task a collection: reads the source again where the form names the collection, then makes index "
        "entries due again that are not at their document's version with nobody at work on it, or that are older than "
        "the limit. A worker embeds them again; they are served until then. The task ends when that is done, and "
        "fails, naming the reason, where workers finish nothing for five minutes. What is gone from a source is in "
        "the log, and deleted only where `on_missing` in revector.toml says so. The history keeps the counts.",
        "params": {
            "max_age_days": Param(
                max_age_days,
                type=["null", "number"],
                exclusiveMinimum=0,
                title="Oldest (days)",
                description="Re-embed what was embedded longer ago; empty: age does not count",
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
                items={"type": "string"} | ({"enum": list(names)} if names else {}),
                examples=list(names),
                title="Read again",
                description="Collections whose source is the truth: what differs there overwrites what is stored",
            ),
        },
    }
    return _mapped(dag_id, "stale", StaleOperator, options | common)


def metadata_dag(
    dag_id: str = "revector_metadata_backfill", *, config: Config = None, conn_id: str | None = None, **common: Any
) -> DAG:
    """Return the DAG that gives all documents of a collection a new metadata field without embedding anything."""
    place = place_of(config, conn_id)
    names, problem = collections_of(place["config"])
    common = {
        "schedule": None,
        "max_active_runs": 1,
        "description": "Give all documents a new metadata field, without embedding anything",
        "doc_md": f"{warning(problem)}Documents that lack the field get what the path finds in them, else the value; "
        "what has it, also as null, is left alone. Each update is a write like any other: every live index follows, "
        "and what is written meanwhile wins. A run that was killed is simply repeated.\n\n| path | gives |\n|---|---|\n"
        "| `$.meta.headline` | another field |\n| `$.meta.tags.size()` | how many tags |\n"
        "| `$.meta.year ? (@ >= 2000)` | … as PostgreSQL's [JSONPath]"
        "(https://www.postgresql.org/docs/current/functions-json.html#FUNCTIONS-SQLJSON-PATH) has it, over "
        "`id`, `text` and `meta` |\n",
        "params": {"collection": collection_param(names, problem)} | _field_form(),
    } | common
    with make_dag(dag_id, place=place, **common) as dag:
        asked: dict[str, Any] = {name: FormField(dag, name) for name in _field_form()}
        FillFieldOperator(
            task_id="fill",
            collection=COLLECTION,
            **place,
            **asked,
            do_xcom_push=False,
            doc_md="Pages of compare-and-set updates, through the same triggers as users' writes.",
        )
    return dag


def adopt_dag(
    dag_id: str = "revector_adopt", *, config: Config = None, conn_id: str | None = None, **common: Any
) -> DAG:
    """Return the DAG that takes over the table that ``[collections.X.adopt]`` of revector.toml names."""
    place = place_of(config, conn_id)
    names, problem = collections_of(place["config"])
    common = {
        "schedule": None,
        "max_active_runs": 1,
        "description": "Take over a table of an application, with its vectors",
        "doc_md": f"{warning(problem)}Looks at the table, file, other database or vector store that "
        "`[collections.X.adopt]` in revector.toml names, proves that its vectors are of the model, copies its rows, "
        "and migrates to an index of the vectors that are there. A table's writes are followed; what is elsewhere is "
        "read again by each run. What is refused is in the log, and nothing was changed then. A run that was killed is "
        "simply repeated.\n",
        "params": {"collection": collection_param(names, problem)},
    } | common
    with make_dag(dag_id, place=place, **common) as dag:
        AdoptOperator(task_id="adopt", collection=COLLECTION, **place, do_xcom_push=False)
    return dag


def _field_form() -> dict[str, Param]:
    return {
        "field": Param(
            type="string", minLength=1, maxLength=200, title="Field", description="Name of the metadata field"
        ),
        "value": Param(
            None,
            type=["null", "string", "number", "boolean", "array", "object"],
            title="Value",
            description="What documents get for which the path gives nothing; empty: nothing",
        ),
        "path": Param(
            None,
            type=["null", "string"],
            minLength=1,
            examples=["$.meta.headline", "$.meta.tags.size()"],
            title="Path",
            description="JSONPath over id, text and meta of the document; its first result counts",
        ),
        "limit": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="At most",
            description="Documents filled in this run; empty: all of them",
        ),
    }


def _mapped(dag_id: str, name: str, operator: type[RevectorOperator], options: Mapping[str, Any]) -> DAG:
    """Return a DAG of two tasks: the collections, and ``operator`` once for each, with what the form says."""
    given = {"max_active_runs": 1, "render_template_as_native_obj": True} | dict(options)
    place = place_of(given.pop("config", None), given.pop("conn_id", None))
    with make_dag(dag_id, place=place, **given) as dag:
        names = CollectionsOperator(task_id="collections", **place)
        operator.partial(
            task_id=name,
            **place,
            **{param: f"{{{{ params.{param} }}}}" for param in given.get("params", {})},
            do_xcom_push=False,
            map_index_template="{{ task.collection }}",
        ).expand(collection=names.output)
    return dag
