"""The Airflow DAG that drops old generations of this project when their rollback window is over."""

from pathlib import Path

from revector.airflow import retire_dag

dag = retire_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
