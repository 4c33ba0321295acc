"""Revector in Airflow: the DAG factories, the provider and the plugin with its page.

A DAG file needs two lines; importing this package costs next to nothing, the factories are loaded when first used.

    from revector.airflow import migration_dag, upkeep_dags
    dag, upkeep = migration_dag(collection="docs"), upkeep_dags()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revector.airflow.dags import migration_dag
    from revector.airflow.upkeep import canary_dag, dead_letters_dag, retire_dag, stale_dag, upkeep_dags, verify_dag

__all__ = [
    "canary_dag",
    "dead_letters_dag",
    "migration_dag",
    "retire_dag",
    "stale_dag",
    "upkeep_dags",
    "verify_dag",
]

ROLL_BACK, RETIRE_NOW = "Roll back", "Retire now"
"""The two answers to the question of the rollback window."""


def window_question(collection: str, revision: str) -> str:
    """Return what the rollback window asks; the page finds the waiting question by it."""
    return f"{collection} is on revision {revision}: go back, or drop the old index?"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from revector.airflow import dags, upkeep

    return getattr(dags if name == "migration_dag" else upkeep, name)
