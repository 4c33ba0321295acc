"""The Airflow DAG that makes one move of an open migration: back, forward again, retire, abort or override."""

from pathlib import Path

from revector.airflow import rollback_dag

dag = rollback_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
