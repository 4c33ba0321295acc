"""The Airflow DAG that measures what is served every day and fails, with its notifiers, when it got worse."""

from pathlib import Path

from revector.airflow import canary_dag

dag = canary_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
