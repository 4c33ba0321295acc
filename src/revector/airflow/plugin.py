"""The Airflow plugin: navigation entry, tabs, dashboard card and the page; every process loads it: light."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

_ICONS = {"icon": "revector/ui/icon.svg", "icon_dark_mode": "revector/ui/icon-dark.svg"}


def _view(destination: str, route: str, query: str = "", **more: object) -> dict[str, object]:
    # No leading slash: the addresses are below Airflow's own, whatever its path prefix.
    href = f"revector/ui/{query}"
    return {"name": "Revector", "href": href, "destination": destination, "url_route": route, **_ICONS, **more}


class RevectorPlugin(AirflowPlugin):
    """Adds the page; found through the entry point ``airflow.plugins`` of the installed package."""

    name = "revector"
    external_views: list[object] = [  # noqa: RUF012 - so declared by Airflow
        _view("nav", "revector", nav_top_level=True),
        _view("dag", "revector-dag", "?dag={DAG_ID}"),
        _view("dag_run", "revector-run", "?dag={DAG_ID}&run={RUN_ID}"),
    ]
    react_apps: list[object] = [  # noqa: RUF012
        {
            "name": "RevectorCard",
            "bundle_url": "revector/ui/card.js",
            "destination": "dashboard",
            "url_route": "revector-card",
        }
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, object]]:  # type: ignore[override]
        """The page's server; a property, so that FastAPI is imported only where it is served."""
        from revector.airflow.web import app

        return [{"app": app, "url_prefix": "/revector", "name": "revector"}]
