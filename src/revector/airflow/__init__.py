"""Revector in Airflow: the DAG factories, the operators, the provider and the plugin with its page.

A DAG file needs two lines; importing this package costs next to nothing, what it offers is loaded when first used.

    from revector.airflow import migration_dag, rollback_dag, upkeep_dags
    dag, moves, upkeep = migration_dag(collection="docs"), rollback_dag(), upkeep_dags()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revector.airflow.dags import migration_dag, rollback_dag
    from revector.airflow.hook import RevectorHook
    from revector.airflow.notifier import RevectorNotifier
    from revector.airflow.operators import (
        EmbedShardOperator,
        MigrateStepOperator,
        MoveOperator,
        PlanOperator,
        ShardsOperator,
        active_index,
    )
    from revector.airflow.questions import MigrationApprovalOperator, RollbackWindowOperator
    from revector.airflow.training import FinetuneOperator, finetune_dag
    from revector.airflow.upkeep import (
        adopt_dag,
        canary_dag,
        dead_letters_dag,
        metadata_dag,
        retire_dag,
        stale_dag,
        upkeep_dags,
        verify_dag,
    )
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

__all__ = [
    "AdoptOperator",
    "CanaryOperator",
    "CollectionsOperator",
    "DeadLettersOperator",
    "EmbedShardOperator",
    "FillFieldOperator",
    "FinetuneOperator",
    "MigrateStepOperator",
    "MigrationApprovalOperator",
    "MoveOperator",
    "PlanOperator",
    "RetireDueOperator",
    "RevectorHook",
    "RevectorNotifier",
    "RollbackWindowOperator",
    "ShardsOperator",
    "StaleOperator",
    "VerifyOperator",
    "active_index",
    "adopt_dag",
    "canary_dag",
    "dead_letters_dag",
    "finetune_dag",
    "metadata_dag",
    "migration_dag",
    "retire_dag",
    "rollback_dag",
    "stale_dag",
    "upkeep_dags",
    "verify_dag",
]

_MODULES = ("hook", "notifier", "operators", "questions", "upkeep_operators", "dags", "upkeep", "training")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (importlib.import_module(f"revector.airflow.{module}") for module in _MODULES)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
