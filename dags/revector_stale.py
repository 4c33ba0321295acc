"""The Airflow DAG that finds stale vectors of this project every night and makes them due again."""

from pathlib import Path

from revector.airflow import stale_dag

dag = stale_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
