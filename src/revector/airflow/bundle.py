"""The DAG bundle that ships with the package, for an Airflow that has no DAG file of its own.

[dag_processor]
dag_bundle_config_list = [{"name": "dags-folder", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"},
  {"name": "revector", "classpath": "revector.airflow.bundle.RevectorDagBundle"}]
"""

from __future__ import annotations

from pathlib import Path

from airflow.dag_processing.bundles.local import LocalDagBundle


class RevectorDagBundle(LocalDagBundle):
    """The DAGs of ``packaged/``; they run the code that is installed, so that there are no versions to choose from."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(path=str(Path(__file__).parent / "packaged"), **kwargs)
