"""Tells others that something is wrong: one POST of JSON to the webhook that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Mapping

TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


def post(webhook: str | None, payload: Mapping[str, object]) -> bool:
    """Send ``payload`` with a sentence as ``text``, as chat services read it; return whether it was taken.

    A webhook that fails is logged and hides nothing: the alert itself still reaches the caller.
    """
    if webhook is None:
        return False
    import httpx

    try:
        httpx.post(webhook, json=dict(payload), timeout=TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        log.warning("the alert could not be sent to the webhook of revector.toml: %s", type(error).__name__)
        return False
    return True
