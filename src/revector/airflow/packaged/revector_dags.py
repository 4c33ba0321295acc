"""All DAGs of revector, for Airflow's DAG bundle: configured by ``[revector] config`` and ``conn_id`` alone."""

from __future__ import annotations

from revector.airflow import finetune_dag, migration_dag, rollback_dag, upkeep_dags

migrate, moves, training, upkeep = migration_dag(), rollback_dag(), finetune_dag(), upkeep_dags()
