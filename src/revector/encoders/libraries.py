"""Owns manners with torch, transformers and the hub's client: kept quiet, and missed with what to install."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from revector.errors import ConfigError


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep the libraries' progress bars and warnings off the terminal; the warnings are collected instead."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as untyped

    hf_logging: Any = untyped
    bars, hub_bars = hf_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers", "huggingface_hub")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    collector = _Collector()
    hf_logging.disable_progress_bar()
    disable_progress_bars()
    for logger in loggers:
        logger.handlers, logger.propagate = [collector], False
        logger.setLevel(logging.WARNING)
    try:
        yield collector.messages
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def missing_libraries(name: str) -> ConfigError:
    """Return the error for a model that cannot be loaded in an installation without the extra ``embed``."""
    return ConfigError(
        f"model {name!r} needs torch and sentence-transformers, which are not installed here. Nothing was changed; run "
        "pip install 'revector[embed]'."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with a full stop; its class where it has none."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else line + "."
