"""Owns manners with torch, transformers and the hub's client: kept quiet, and missed with what to install."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from revector.errors import ConfigError

_LOGGERS = ("transformers", "sentence_transformers", "huggingface_hub")

_lock = threading.Lock()
_silence = ExitStack()
_inside = 0


class _Collector(logging.Handler):
    """Keeps what the libraries say in the thread that made it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.messages.append(record.getMessage())


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect the warnings of this thread instead of showing them; several threads may be inside at once."""
    global _inside  # noqa: PLW0603 - the libraries' loggers and bars are the process's, too
    collector = _Collector()
    with _lock:
        if not _inside:
            _silence.enter_context(_silenced())
        _inside += 1
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(collector)
    try:
        yield collector.messages
    finally:
        with _lock:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(collector)
            _inside -= 1
            if not _inside:
                _silence.close()


@contextmanager
def _silenced() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as untyped

    hf_logging: Any = untyped
    bars, hub_bars = hf_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    hf_logging.disable_progress_bar()
    disable_progress_bars()
    for logger in loggers:
        logger.handlers, logger.propagate = [], False
        logger.setLevel(logging.WARNING)
    try:
        yield
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
