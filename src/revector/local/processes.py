"""Programs kept running: each behind a guard, with its own log, restarted with back-off when it ends.

No process outlives the supervisor: not after ``stop``, not after an exception, not when the supervisor is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from revector.errors import RevectorError, StateError

FIRST_WAIT_S, LONGEST_WAIT_S, HEALTHY_S = 1.0, 30.0, 60.0
"""A program that ends is started again after 1 s, 2 s, 4 s … at most 30 s; after a healthy minute from 1 s again."""


@dataclass
class _Program:
    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float | None = None
    wait_s: float = FIRST_WAIT_S
    restarts: int = 0


@dataclass
class Supervisor:
    """Starts, watches and stops programs. Logs go to ``folder/logs/<name>.log``, notes for clean-up to ``folder/run``.

    One supervisor per folder: a second one is refused with ``StateError`` while the first lives.
    """

    folder: Path
    grace_s: float = 10.0
    _programs: dict[str, _Program] = field(default_factory=dict, repr=False)
    _lock_file: int | None = field(default=None, repr=False)
    _ending: threading.Event = field(default_factory=threading.Event, repr=False)
    _watcher: threading.Thread | None = field(default=None, repr=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def acquire(self) -> None:
        """Take the folder. Raises ``StateError`` if another supervisor has it."""
        if self._lock_file is not None:
            return
        for name in ("run", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "run" / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 32).decode().strip() or "unknown"
            os.close(handle)
            raise StateError(
                f"{self.folder} was to be started; process {holder} runs it already. Nothing was started; "
                f"use the running one, or stop it first (Ctrl-C in its terminal, or kill {holder})."
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._lock_file = handle
        self._ending.clear()

    def log(self, name: str) -> Path:
        """Return the log file of a program."""
        return self.folder / "logs" / f"{name}.log"

    def tail(self, name: str, lines: int = 20) -> str:
        """Return the last lines of a program's log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def run(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout_s: float) -> None:
        """Run a program once to its end. Raises ``RevectorError`` with its last lines if it fails or takes too long."""
        self.acquire()
        process = self._spawn(_Program(name, list(argv), dict(env), cwd))
        try:
            status: int | str = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = f"still running after {timeout_s:.0f} s"
        finally:
            self._end([process])
        if status != 0:
            raise RevectorError(
                f"{' '.join(argv[-3:])} was run and ended badly ({status}); its log is "
                f"{self.log(name)}:\n{self.tail(name)}"
            )

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        """Start a program and keep it running until ``stop``."""
        self.acquire()
        if self.log(name).exists():
            self.log(name).replace(self.log(name).with_suffix(".log.1"))
        program = _Program(name, list(argv), dict(env), cwd)
        with self._mutex:
            program.process, program.started = self._spawn(program), time.monotonic()
            self._programs[name] = program
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="revector-supervisor", daemon=True)
            self._watcher.start()

    @property
    def restarts(self) -> dict[str, int]:
        """How often each program had to be started again."""
        return {name: program.restarts for name, program in self._programs.items()}

    def stop(self) -> None:
        """Stop every program and wait until none of their processes is left. Safe to call twice."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        self._end([program.process for program in self._programs.values() if program.process is not None])
        self._programs.clear()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _spawn(self, program: _Program) -> subprocess.Popen[bytes]:
        state = self.folder / "run" / f"{program.name}.json"
        guard = [sys.executable, "-m", "revector.local.guard", "--parent", str(os.getpid()), "--state", str(state)]
        with self.log(program.name).open("ab") as log:
            return subprocess.Popen(
                [*guard, "--grace", str(self.grace_s), "--", *program.argv],
                env=program.env,
                cwd=program.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self, processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.terminate()
        end = time.monotonic() + self.grace_s + 10
        for process in processes:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _watch(self) -> None:
        while not self._ending.wait(0.25):
            with self._mutex:
                for program in self._programs.values():
                    self._look_after(program, time.monotonic())

    def _look_after(self, program: _Program, now: float) -> None:
        if program.process is not None and program.process.poll() is not None:
            if now - program.started > HEALTHY_S:
                program.wait_s = FIRST_WAIT_S
            program.process, program.restart_at = None, now + program.wait_s
            program.wait_s = min(2 * program.wait_s, LONGEST_WAIT_S)
        elif program.restart_at is not None and now >= program.restart_at:
            program.process, program.started, program.restart_at = self._spawn(program), now, None
            program.restarts += 1
