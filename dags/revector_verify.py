"""The Airflow DAGs that prove that every live index equals the documents: a sample each hour, all of them each week."""

from pathlib import Path

from revector.airflow import verify_dag

config = Path(__file__).resolve().parent.parent / "revector.toml"
hourly = verify_dag(config=config)
weekly = verify_dag("revector_verify_full", schedule="@weekly", sample=None, reembed=500, config=config)
