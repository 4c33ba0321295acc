"""The Airflow DAG that takes over the table of an application that this project's revector.toml names."""

from pathlib import Path

from revector.airflow import adopt_dag

dag = adopt_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
