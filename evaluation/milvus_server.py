"""Runs a command beside a real Milvus 2.3.5, in a network namespace of their own: ``make test-milvus``.

Milvus listens on all interfaces whatever it is told. So it is started only where there is no interface but loopback,
which is what ``unshare --net`` gives. The command finds its address in ``REVECTOR_TEST_MILVUS_URL``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PORT = 19_531
PYTHON = Path(".venv/milvus/bin/python")

SERVE = """
import sys, time
from milvus import MilvusServer
server = MilvusServer()
server.set_base_dir(sys.argv[1])
server.listen_port = int(sys.argv[2])
server.start()
print(server.listen_port, flush=True)
while server.running:
    time.sleep(0.5)
"""


def main() -> int:
    """Start it, run the arguments as a command, and return its exit status."""
    if others := _others():
        print(f"Milvus would listen on {', '.join(others)} as well: see make test-milvus")
        return 2
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    folder = tempfile.mkdtemp(prefix="revector-milvus-")
    python = os.environ.get("MILVUS_PYTHON", str(PYTHON))
    server = subprocess.Popen(
        [python, "-c", SERVE, folder, str(PORT)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()  # it takes the next one where that is in use
        if not port:
            print("Milvus did not start")
            return 2
        time.sleep(1.0)
        url = f"http://127.0.0.1:{port}"
        return subprocess.run(sys.argv[1:], env={**os.environ, "REVECTOR_TEST_MILVUS_URL": url}, check=False).returncode
    finally:
        subprocess.run(["pkill", "-9", "-s", str(server.pid)], check=False)  # its session: it ignores SIGTERM
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _others() -> list[str]:
    """Return the interfaces of this namespace beside loopback."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return [name for line in lines if (name := line.split(":")[0].strip()) != "lo"]


if __name__ == "__main__":
    sys.exit(main())
