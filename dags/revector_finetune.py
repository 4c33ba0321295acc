"""The Airflow DAG that trains a model of this project on pairs of query and answer."""

from pathlib import Path

from revector.airflow import finetune_dag

dag = finetune_dag(config=Path(__file__).resolve().parent.parent / "revector.toml")
