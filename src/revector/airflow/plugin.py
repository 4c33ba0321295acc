"""The Airflow plugin: a navigation entry "Revector" and the page behind it. Every process loads it: light."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class RevectorPlugin(AirflowPlugin):
    """Adds the page; found through the entry point ``airflow.plugins`` of the installed package."""

    name = "revector"
    external_views: list[Any] = [  # noqa: RUF012 - so declared by Airflow
        {
            "name": "Revector",
            "href": "revector/ui/",
            "destination": "nav",
            "url_route": "revector",
            "nav_top_level": True,
            "icon": "revector/ui/icon.svg",
            "icon_dark_mode": "revector/ui/icon-dark.svg",
        }
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The page's server; a property, so that FastAPI is imported only where it is served."""
        from revector.airflow.web import app

        return [{"app": app, "url_prefix": "/revector", "name": "revector"}]
