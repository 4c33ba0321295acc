"""The DAG that trains a model on pairs of query and answer, on a GPU worker, and its operator."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Context, Param

from revector.airflow.dags import COLLECTION
from revector.airflow.factory import Config, collection_param, collections_of, make_dag, place_of, warning
from revector.airflow.operators import RevectorOperator
from revector.airflow.progress import LogProgress
from revector.airflow.versions import AirflowSkipException, FormField, conf

if TYPE_CHECKING:
    from revector.config import Project

log = logging.getLogger("revector.airflow")

MODELS = "models"
"""Folder in the project's where the form puts models: it names no other place on a worker's disk."""
_INSIDE = r"^(?!.*\.\.)[^/~].*$"
"""A path below the project's folder, or one of the words that ``pairs`` may be."""


class FinetuneOperator(RevectorOperator):
    """Trains ``base`` on ``pairs`` and saves it as ``models/NAME``; killed at any moment, the next try goes on.

    Returns model, version, verdict and gain. Without a detectable gain the task is skipped, and what follows with it;
    the model is saved all the same. ``held_out``: a share of the queries, or ``qrels``.
    """

    template_fields: Sequence[str] = (
        *RevectorOperator.template_fields,
        *("base", "pairs", "name", "epochs", "learning_rate", "held_out", "seed"),
    )

    def __init__(
        self,
        *,
        base: str,
        pairs: str,
        name: str,
        epochs: int = 3,
        learning_rate: float | None = None,
        held_out: str = "0.2",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base, self.pairs, self.name = base, pairs, name
        self.epochs, self.learning_rate, self.held_out, self.seed = epochs, learning_rate, held_out, seed

    def call(self, project: Project, collection: str, context: Context) -> dict[str, object]:  # noqa: ARG002
        """Train, and log the record."""
        from revector.training.finetune import TrainingRequest, TrainingSite, finetune, held_out_share

        request = TrainingRequest(
            self.base,
            self.pairs,
            Path(MODELS) / self.name,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            held_out=held_out_share(str(self.held_out)),
            seed=self.seed,
        )
        record = finetune(request, TrainingSite.of(project, collection), LogProgress())
        log.info("%s", record.as_data())
        found, model = record.recall, f"./{MODELS}/{self.name}"
        difference = found.recall.difference
        assert difference is not None  # there is always a base
        said = (
            f"{found.verdict}: recall@{found.k} {difference.mean:+.4f} ({difference.low:.4f} to {difference.high:.4f})"
        )
        if found.verdict != "gain":
            raise AirflowSkipException(f"{said}. {model} is saved.")
        log.info('%s. To use it: revector revision -c %s -m "fine-tuned" --model %s', said, collection, model)
        return {"model": model, "version": record.version, "verdict": found.verdict, "gain": difference.mean}


def finetune_dag(
    dag_id: str = "revector_finetune",
    *,
    config: Config = None,
    conn_id: str | None = None,
    pool: str | None = None,
    queue: str = "gpu",
    executor: str | None = None,
    executor_config: Mapping[str, object] | None = None,
    **common: Any,
) -> DAG:
    """Return the DAG that trains a model; ``queue`` to ``executor_config`` are where, as of ``migration_dag``."""
    place = place_of(config, conn_id)
    names, problem = collections_of(place["config"])
    common = {
        "schedule": None,
        "max_active_runs": 1,
        "description": "Train a model on pairs of query and answer, and judge it on queries held out",
        "doc_md": f"{warning(problem)}Pairs are checked before anything is trained: malformed ones are refused, and "
        "the queries that judge the model, here or in the gate, are not trained on, nor is any near one. The log has "
        "progress, recall of base and trained model with its interval, what mixing the two would cost, and the command "
        "that writes the revision. Without a detectable gain the task is skipped. A run that was killed goes on from "
        "its last checkpoint.\n",
        "params": {"collection": collection_param(names, problem)} | _form(),
    } | common
    pool = pool or conf.get("revector", "gpu_pool", fallback="default_pool")
    with make_dag(dag_id, place=place, **common) as dag:
        asked: dict[str, Any] = {name: FormField(dag, name) for name in _form()}
        FinetuneOperator(
            task_id="train",
            collection=COLLECTION,
            **place,
            **asked,
            queue=queue,
            pool=pool,
            executor=executor,
            executor_config=dict(executor_config or {}),
            doc_md="Trains on a GPU worker; killed at any moment, the next try goes on where it was.",
        )
    return dag


def _form() -> dict[str, Param]:
    return {
        "base": Param(type="string", minLength=1, title="Base", description="org/name, ./folder or package:name"),
        "pairs": Param(
            type="string",
            pattern=_INSIDE,
            title="Pairs",
            description="pairs.jsonl, clicks:clicks.csv, FOLDER/qrels/SPLIT.tsv, in the project's folder; or qrels",
            examples=["pairs.jsonl", "clicks:clicks.csv", "qrels"],
        ),
        "name": Param(
            type="string",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            title="Name",
            description=f"The model is saved as {MODELS}/NAME",
        ),
        "epochs": Param(3, type="integer", minimum=1, title="Epochs", description="Most times over all pairs"),
        "learning_rate": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=1,
            title="Learning rate",
            description="Empty: 2e-2 for a static model, 2e-5 for a transformer",
        ),
        "held_out": Param(
            "0.2",
            type="string",
            pattern=r"^(qrels|0?\.[0-9]+)$",
            title="Held out",
            description="Queries to judge by: a share, or qrels, the collection's labelled ones",
        ),
        "seed": Param(0, type="integer", minimum=0, title="Seed", description="Decides what is held out and drawn"),
    }
