"""What Airflow's provider manager is told about this package."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description (schema: ``airflow/provider_info.schema.json``)."""
    return {
        "package-name": "revector",
        "name": "Revector",
        "description": "Schema migrations for embedding models: shadow index, gate, atomic swap, lossless rollback.",
        "config": {
            "revector": {
                "description": "Settings of the DAGs that revector.airflow makes.",
                "options": {
                    "gpu_pool": {
                        "description": "Pool of the tasks that embed; give it as many slots as there are GPUs.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "gpu",
                        "default": "default_pool",
                    }
                },
            }
        },
    }
