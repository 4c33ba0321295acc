"""The Airflow DAG that tries the dead letters of this project again every day, within bounds."""

from pathlib import Path

from revector.airflow import dead_letters_dag

dag = dead_letters_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
