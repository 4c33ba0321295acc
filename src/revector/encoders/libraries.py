"""Owns manners with torch, transformers and the hub's client: imported lean, kept quiet, missed with advice."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from revector.errors import ConfigError

_LOGGERS = ("transformers", "sentence_transformers", "huggingface_hub")

_EVALUATORS = "sklearn"
_importing = threading.Lock()
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


def import_sentence_transformers() -> None:
    """Import sentence-transformers without scikit-learn, SciPy's statistics and pandas: in 10 s of CPU, not 16.

    It imports scikit-learn for its evaluators, which nothing here calls. They get functions that import it when they
    are called. Where it is loaded already, or not installed, nothing is special.
    """
    with _importing:
        if _EVALUATORS in sys.modules or "sentence_transformers" in sys.modules:
            importlib.import_module("sentence_transformers")
            return
        finder = _Postponed()
        sys.meta_path.insert(0, finder)
        try:
            importlib.import_module("sentence_transformers")
        finally:
            sys.meta_path.remove(finder)
            for name in [name for name, module in sys.modules.items() if isinstance(module, _Later)]:
                del sys.modules[name]


class _Postponed(MetaPathFinder, Loader):
    """Finds scikit-learn's modules, and leaves them empty."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        ours = fullname.partition(".")[0] == _EVALUATORS
        return ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Later(ModuleType):
    """A module whose functions and classes are imported when they are called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def later(*given: Any, **named: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*given, **named)

        return later


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
