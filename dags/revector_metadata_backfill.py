"""The Airflow DAG that gives all documents of this project a new metadata field without embedding anything."""

from pathlib import Path

from revector.airflow import metadata_dag

dag = metadata_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
