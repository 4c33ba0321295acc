"""The HTTP service (`revector serve`): documents in and out, and search through the alias."""

from __future__ import annotations

from revector.service.app import create_app, run

__all__ = ["create_app", "run"]
