"""Revector in Airflow: the DAG factories, the provider and the plugin with its page.

A DAG file needs two lines; importing this package costs next to nothing, the factories are loaded when first used.

    from revector.airflow import migration_dag
    dag = migration_dag(collection="docs")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revector.airflow.dags import canary_dag, migration_dag, retire_dag

__all__ = ["canary_dag", "migration_dag", "retire_dag"]

ROLL_BACK, RETIRE_NOW = "Roll back", "Retire now"
"""The two answers to the question of the rollback window."""


def window_question(collection: str, revision: str) -> str:
    """Return what the rollback window asks; the page finds the waiting question by it."""
    return f"{collection} is on revision {revision}: go back, or drop the old index?"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from revector.airflow import dags

    return getattr(dags, name)
