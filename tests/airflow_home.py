"""An Airflow of the test process: Airflow reads its settings at the first import, so import this before it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest

pytest.importorskip("airflow", reason="the extra `airflow` is not installed")

HOME = tempfile.mkdtemp(prefix="revector-airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
}
