"""What Airflow's provider manager is told about this package; the form of a connection needs no import of the hook."""

from __future__ import annotations

CONNECTION = {
    "connection-type": "revector",
    "hook-class-name": "revector.airflow.hook.RevectorHook",
    "hook-name": "Revector",
    "conn-fields": {
        "config": {
            "label": "revector.toml",
            "description": "Its path on the workers; empty: as $REVECTOR_CONFIG or the DAG file say",
            "schema": {"type": ["string", "null"]},
        },
        "collection": {
            "label": "Collection",
            "description": "For operators that name none",
            "schema": {"type": ["string", "null"], "pattern": "^[a-z][a-z0-9_]{0,30}$"},
        },
        "sslmode": {
            "label": "SSL mode",
            "description": "Of the connection to PostgreSQL; empty: prefer",
            "schema": {
                "type": ["string", "null"],
                "enum": [None, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
            },
        },
    },
    "ui-field-behaviour": {
        "hidden-fields": ["extra"],
        "relabeling": {"schema": "Database", "login": "User"},
        "placeholders": {
            "host": "PostgreSQL with pgvector; empty: the database of revector.toml",
            "port": "5432",
            "config": "/srv/search/revector.toml",
        },
    },
}

SETTINGS = {
    "config": {
        "description": "Path of revector.toml for DAGs that name none, such as those of the packaged bundle.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "/srv/search/revector.toml",
        "default": None,
    },
    "conn_id": {
        "description": "Airflow connection of type revector for DAGs that name none.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "revector_default",
        "default": None,
    },
    "gpu_pool": {
        "description": "Pool of the tasks that embed; give it as many slots as there are GPUs.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "gpu",
        "default": "default_pool",
    },
}


def get_provider_info() -> dict[str, object]:
    """Return the provider's description (schema: ``airflow/provider_info.schema.json``)."""
    return {
        "package-name": "revector",
        "name": "Revector",
        "description": "Schema migrations for embedding models: shadow index, gate, atomic swap, lossless rollback.",
        "integrations": [{"integration-name": "Revector", "tags": ["service"]}],
        "connection-types": [CONNECTION],
        "hooks": [{"integration-name": "Revector", "python-modules": ["revector.airflow.hook"]}],
        "operators": [
            {
                "integration-name": "Revector",
                "python-modules": [
                    "revector.airflow.operators",
                    "revector.airflow.questions",
                    "revector.airflow.upkeep_operators",
                ],
            }
        ],
        "bundles": [{"integration-name": "Revector", "python-modules": ["revector.airflow.bundle"]}],
        "extra-links": ["revector.airflow.operators.PageLink"],
        "notifications": ["revector.airflow.notifier.RevectorNotifier"],
        "config": {
            "revector": {"description": "Settings of the DAGs that revector.airflow makes.", "options": SETTINGS}
        },
    }
