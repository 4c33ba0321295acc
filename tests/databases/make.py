"""Makes the dumps beside it: for each version of the schema, a database that the last commit of that version made.

    python tests/databases/make.py [VERSION ...]

The old code runs by its own command line. In each: revision a100 retired, b200 active, c300 provisioned but not
backfilled, some work waiting, one document deleted; from 0010 on a table that is adopted, from 0015 on with a view
over it, from 0016 on a cut-off.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa

from revector import embedded
from revector.embedded.places import binaries
from revector.encoders.hashing import HashingEncoder
from revector.interfaces import whole_texts
from revector.spec import ModelSpec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMITS = {
    "0001": "15a67bd", "0002": "1b8d915", "0004": "4b43f07", "0005": "dfecd17", "0006": "c52804a",
    "0007": "bac4cc5", "0008": "a943aac", "0009": "ca22f31", "0010": "b631c99", "0011": "02a3f9d", "0012": "7c0d491",
    "0013": "df9ee0f", "0014": "d75255e", "0015": "553234b", "0016": "b95adbc", "0017": "b922e71",
}  # fmt: skip
"""The last commit of each version of the schema whose command line works.

None is of 0003: before any release its text was changed in place, and what it is now was never the newest.
"""

MODELS = {"a100": "hashing", "b200": "hashing:seed2", "c300": "hashing"}
WRITES = """
from revector.config import load_project
documents = load_project().documents("docs")
documents.put("d00001", "apple1 pear1 written later")
documents.delete("d00051")
"""
FIRST_WITH = {"min_overlap": "0005", "adoption": "0010", "view": "0015", "cutoffs": "0016"}


def project(folder: Path, version: str) -> None:
    """The project's files, as the version reads them."""
    (folder / "revector.toml").write_text('drain_s = 0\n[collections.docs]\nqrels = "labels"\nshards = 2\n')
    (folder / "migrations" / "docs").mkdir(parents=True)
    parent = None
    overlap = ", min_overlap=None" if version >= FIRST_WITH["min_overlap"] else ""
    for name, model in MODELS.items():
        (folder / "migrations" / "docs" / f"{name}.py").write_text(
            f'"""{name}"""\nfrom revector import Chunking, Gate, IndexSpec, ModelSpec\nrevision = {name!r}\n'
            f'down_revision = {parent!r}\nmodel = ModelSpec(name="{model}", dim=8)\n'
            f"gate = Gate(max_drop=1.0, min_queries=1{overlap})\n"
        )
        parent = name
    documents = [{"_id": f"d{n:05d}", "text": f"apple{n} pear{n} some words here number {n}"} for n in range(62)]
    (folder / "docs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "labels" / "qrels").mkdir(parents=True)
    asked = [{"_id": f"q{n}", "text": f"apple{n} pear{n}"} for n in range(60)]
    (folder / "labels" / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    judged = "".join(f"q{n}\td{n:05d}\t1\n" for n in range(60))
    (folder / "labels" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


def table(url: str) -> None:
    """A table of an application with vectors of its own."""
    encoder = HashingEncoder(ModelSpec(name="hashing", dim=8))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE public.notes (id int PRIMARY KEY, body text, embedding vector(8))")
        for n in range(12):
            body = f"note{n} of some words"
            vector = encoder.encode("document", whole_texts([body]))[0].tolist()
            statement = sa.text("INSERT INTO public.notes VALUES (:n, :body, CAST(:v AS vector))")
            connection.execute(statement, {"n": n, "body": body, "v": json.dumps(vector)})
    engine.dispose()


def make(version: str, url: str, folder: Path) -> None:
    """Let the code of a version fill the database at ``url``."""
    archive = subprocess.run(["git", "archive", COMMITS[version], "src"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
    project(folder, version)
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "REVECTOR_DATABASE_URL": url}

    def run(*words: str) -> None:
        how = ["-c", WRITES] if words == ("writes",) else ["-m", "revector", *words]
        done = subprocess.run([sys.executable, *how], cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{version}: revector {' '.join(words)}: {done.stdout}{done.stderr}")

    run("init")
    run("ingest", "docs.jsonl")
    run("upgrade", "a100")
    run("upgrade", "b200")
    run("retire", "--now", "--reason", "made for a test")
    run("upgrade", "c300", "--to", "provision")
    run("writes")
    if version >= FIRST_WITH["adoption"]:
        table(url)
        view = ["--view", "public.notes_seen"] if version >= FIRST_WITH["view"] else []
        run("adopt", "public.notes", "-c", "notes", "--text", "body", "--model", "hashing", "--yes", *view)
    if version >= FIRST_WITH["cutoffs"]:
        run("cutoffs", "set", "-c", "docs", "support=0.42")


def dump(url: str) -> bytes:
    """All of the database as SQL, without what only this machine knows."""
    libpq = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    command = [binaries() / "pg_dump", "--no-owner", "--no-privileges", "--rows-per-insert=500", libpq]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE).encode()


def main() -> None:
    """Make the dumps that are named, or all."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        server = embedded.ensure_running(Path(made) / "state")
        admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
        try:
            for version in sys.argv[1:] or COMMITS:
                with admin.connect() as connection:
                    connection.exec_driver_sql(f"CREATE DATABASE made{version}")
                url = sa.make_url(server).set(database=f"made{version}").render_as_string(hide_password=False)
                folder = Path(made, version)
                folder.mkdir()
                make(version, url, folder)
                with lzma.open(HERE / f"{version}.sql.xz", "wb", preset=9) as file:
                    file.write(dump(url))
        finally:
            admin.dispose()
            embedded.remove(Path(made) / "state")


if __name__ == "__main__":
    main()
