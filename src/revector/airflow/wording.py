"""Owns what people are asked in Airflow, and the answers they choose from: tasks ask, and the page finds them by it."""

from __future__ import annotations

ROLL_BACK, RETIRE_NOW = "Roll back", "Retire now"
"""The two answers to the question of the rollback window."""


def approval_question(collection: str, revision: str) -> str:
    """Return what is asked between the gate and the swap; the page finds the waiting question by it."""
    return f"Swap {collection} to revision {revision}?"


def window_question(collection: str, revision: str) -> str:
    """Return what the rollback window asks; the page finds the waiting question by it."""
    return f"{collection} is on revision {revision}: go back, or drop the old index?"
