"""A command ``revector`` that forks from a process which has imported it: it does the same, and starts at once.

That ``revector`` can be started as a program of its own is shown by tests/cli and tests/local.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import NoReturn

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
socket.send_fds(link, [b"."], [0, 1, 2])
link.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
link.shutdown(socket.SHUT_WR)
process = int.from_bytes(link.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
sys.exit((link.recv(1) or b"F")[0])
"""
"""Hands its words, its folder, its environment and its streams over, and ends as the fork does."""


@contextmanager
def forking(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A folder for PATH, in which ``revector`` is such a command."""
    program, address = folder / "bin" / "revector", str(folder / "socket")
    program.parent.mkdir()
    program.write_text(CLIENT.format(python=sys.executable, address=address))
    program.chmod(0o755)
    words = [sys.executable, __file__, address]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n"
            yield program.parent
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def serve(address: str) -> None:
    """Fork for each client, until killed."""
    import revector.cli

    for name in ("revector.config", "sqlalchemy.dialects.postgresql.psycopg"):
        import_module(name)
    for module in iter_modules(revector.cli.__path__, "revector.cli."):
        import_module(module.name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    os.write(1, b"ready\n")
    while True:
        link, _ = listener.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listener.close()
            attend(link)
        link.close()


def attend(link: socket.socket) -> NoReturn:
    """Run one command in a fork, and tell its client how it ended."""
    _, streams, _, _ = socket.recv_fds(link, 1, 3)
    with link.makefile("rb") as said:
        words, folder, environment = json.loads(said.read())
    child = os.fork()
    if child == 0:
        link.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ |= environment
        run(words)
    link.sendall(child.to_bytes(4, "big"))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    link.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def run(words: list[str]) -> NoReturn:
    """End as the program would."""
    from revector import cli

    sys.argv = ["revector", *words]
    code = 70
    try:
        code = cli.run(words)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
