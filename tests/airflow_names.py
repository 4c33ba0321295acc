"""What tests use of Airflow, and versions before the newest keep elsewhere."""

from __future__ import annotations

import pytest

pytest.importorskip("airflow", reason="the extra `airflow` is not installed")

from revector.airflow.versions import VERSION

if VERSION >= (3, 2):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import ParamValidationError
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as Providers
    from airflow.serialization.serialized_objects import DagSerialization
else:
    from airflow.exceptions import ParamValidationError
    from airflow.models.dagbag import DagBag
    from airflow.providers_manager import ProvidersManager as Providers
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

__all__ = ["VERSION", "DagBag", "DagSerialization", "ParamValidationError", "Providers"]
