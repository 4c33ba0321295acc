"""What axe finds on a page that keeps someone from using it: by keyboard, by ear, or with little contrast."""

from __future__ import annotations

from typing import Any

import pytest


def grave(page: Any) -> list[tuple[str, list[str]]]:
    """The serious and critical findings, each with the elements that it is about."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe, of the extra `dev`").Axe()
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
