"""The Airflow DAG that migrates a collection of this project to another embedding model."""

from pathlib import Path

from revector.airflow import migration_dag

dag = migration_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
