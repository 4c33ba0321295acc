"""All DAGs of revector, for Airflow's DAG bundle: configured by ``[revector] config`` and ``conn_id`` alone."""

from __future__ import annotations

from revector.airflow import migration_dag, rollback_dag, upkeep_dags

migrate, moves, upkeep = migration_dag(), rollback_dag(), upkeep_dags()
