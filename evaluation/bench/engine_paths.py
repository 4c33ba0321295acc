"""One path of the engine benchmark as a process: it loads a model, embeds what it is told to and says what that cost.

Run by any interpreter that has the path's libraries: nothing of revector is imported except where revector is measured.
The task is the first argument, as JSON. A line on stdin is ``{"texts": file, "vectors": file, "profile": bool}``; a
line on stdout is a JSON object: first ``ready`` with the batch, or ``missing`` or ``failed`` with the reason, then the
seconds of each call. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = {"cpu": (8, 16, 32, 64), "cuda": (32, 128, 512, 2048)}
TRIED_TEXTS = {"cpu": 64, "cuda": 8192}
"""Texts that each batch size is tried with once; the cheapest is taken."""
BUDGET = 2048
"""Padded tokens of a batch where ONNX Runtime is called alone."""
CALIBRATION_TEXTS = 300
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
PEAK_TIMES = {"cpu": 5, "cuda": 50}

Encode = Callable[[list[str], int], Any]
Task = dict[str, Any]


def main() -> int:
    """Serve a task until stdin ends."""
    task: Task = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    try:
        encode = KINDS[task["kind"]](task)
        batch = task.get("batch") or _best_batch(encode, task)
        encode(_read(task["texts"])[:8], batch)
    except ImportError as error:
        say(missing=str(error.name or error).partition(".")[0])
        return 1
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and the others go on
        say(failed=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}")
        return 1
    say(ready=True, batch=batch)
    for line in sys.stdin:
        say(**_measured(encode, batch, json.loads(line)))
    return 0


def _measured(encode: Encode, batch: int, order: Task) -> Task:
    texts = _read(order["texts"])
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = encode(texts, batch)
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    spent["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if vectors is not None:
        np.save(order["vectors"], np.asarray(vectors, dtype=np.float32))
    return spent | ({"busy": _busy_share(encode, texts, batch)} if order["profile"] else {})


def _busy_share(encode: Encode, texts: list[str], batch: int) -> float:
    """Return the share of the wall time in which CUDA kernels and copies ran, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        started = time.perf_counter()
        encode(texts, batch)
        wall = time.perf_counter() - started
    return float(sum(event.self_device_time_total for event in seen.key_averages())) / 1e6 / wall


def _best_batch(encode: Encode, task: Task) -> int:
    device = task["device"]
    texts, spent = _read(task["texts"])[: TRIED_TEXTS[device]], {}
    encode(texts[:8], 8)
    for batch in BATCHES[device]:
        wall, cpu = time.perf_counter(), time.process_time()
        encode(texts, batch)
        spent[batch] = time.process_time() - cpu if device == "cpu" else time.perf_counter() - wall
    return min(spent, key=lambda one: spent[one])


def _read(path: str) -> list[str]:
    return list(json.loads(Path(path).read_text(encoding="utf-8")))


# Paths ----------------------------------------------------------------------------------------------------------------


def _torch(task: Task) -> Any:
    import torch

    torch.set_num_threads(task["threads"])
    return torch


def _peak(task: Task) -> Encode:
    """Multiply square matrices: what the device can reach at most; on CPUs by oneDNN, as the fastest paths do."""
    torch, device = _torch(task), task["device"]
    size, dtype = PEAK_SIZE[device], torch.float32 if device == "cpu" else torch.bfloat16
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    multiply_once = torch.mm
    if device == "cpu" and torch.backends.mkldnn.is_available():
        blocked = torch.ops.mkldnn._reorder_linear_weight(other)

        def multiply_once(one: Any, _other: Any) -> Any:
            return torch.ops.mkldnn._linear_pointwise(one, blocked, None, "none", [], "")

    def multiply(_texts: list[str], _batch: int) -> None:
        for _ in range(PEAK_TIMES[device]):
            multiply_once(one, other)
        if device == "cuda":
            torch.cuda.synchronize()

    return multiply


def _revector(task: Task) -> Encode:
    _torch(task)
    from revector.encoders.loading import load_encoder
    from revector.interfaces import whole_texts
    from revector.spec import ModelSpec

    spec = ModelSpec(task["model"], dim=task["dim"], dtype=task["dtype"], max_tokens=task["max_tokens"])
    encoder = load_encoder(spec, root=Path.cwd(), device=task["device"])
    return lambda texts, _batch: encoder.encode("document", whole_texts(texts))


def _sentence_transformers(task: Task) -> Encode:
    torch = _torch(task)
    return _encode_with(task["model"], task["device"], {"dtype": getattr(torch, task["dtype"])})


def _onnx(task: Task) -> Encode:
    _torch(task)
    import onnxruntime

    folder, options = _exported("export_onnx", task), onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    given = {"provider": "CPUExecutionProvider", "session_options": options, "file_name": f"onnx/{task['file']}"}
    return _encode_with(str(folder), "cpu", given, backend="onnx")


def _openvino(task: Task) -> Encode:
    _torch(task)
    folder, hint = _exported("export_openvino", task), task.get("precision")
    config = {"INFERENCE_NUM_THREADS": task["threads"]} | ({"INFERENCE_PRECISION_HINT": hint} if hint else {})
    given = {"ov_config": config, "file_name": f"openvino/{task['file']}"}
    return _encode_with(str(folder), "cpu", given, backend="openvino")


def _encode_with(folder: str, device: str, given: Task, **options: Any) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device=device, model_kwargs=given, local_files_only=True, **options)

    def encode(texts: list[str], batch: int) -> Any:
        found = model.encode(texts, batch_size=batch, convert_to_numpy=False, convert_to_tensor=True)
        return found.float().cpu().numpy()

    return encode


def _onnxruntime(task: Task) -> Encode:
    """ONNX Runtime without sentence-transformers: sorted by length, batches by padded tokens, mean pooling."""
    import onnxruntime
    from tokenizers import Tokenizer

    folder, options = _exported("export_onnx", task), onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    session = onnxruntime.InferenceSession(
        str(folder / "onnx" / task["file"]), options, providers=["CPUExecutionProvider"]
    )
    names = {one.name for one in session.get_inputs()}
    tokenizer = Tokenizer.from_file(str(Path(task["model"]) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(task["max_tokens"])

    def encode(texts: list[str], _batch: int) -> Any:
        every = [one.ids for one in tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(texts)), key=lambda n: -len(every[n]))
        vectors, start = np.empty((len(texts), task["dim"]), np.float32), 0
        while start < len(order):
            width = len(every[order[start]])
            rows = order[start : start + max(1, BUDGET // width)]
            ids, mask = (np.zeros((len(rows), width), np.int64) for _ in range(2))
            for at, row in enumerate(rows):
                ids[at, : len(every[row])], mask[at, : len(every[row])] = every[row], 1
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            states = session.run(None, {name: inputs[name] for name in names})[0]
            pooled = np.einsum("bth,bt->bh", states, mask.astype(np.float32))
            vectors[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
            start += len(rows)
        return vectors

    return encode


def _infinity(task: Task) -> Encode:
    """Infinity's engine in this process, at its own batching: by length, 32 texts at most."""
    import asyncio

    _torch(task)
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    given = EngineArgs(
        model_name_or_path=task["model"],
        engine="torch",
        device=task["device"],
        dtype=task["dtype"],
        bettertransformer=False,
        model_warmup=False,
    )
    engine, loop = AsyncEmbeddingEngine.from_args(given), asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())
    return lambda texts, _batch: np.stack(loop.run_until_complete(engine.embed(sentences=texts))[0])


# Exports, each in a process of its own so that it counts in no one's memory -------------------------------------------


def _exported(kind: str, task: Task) -> Path:
    folder = Path(task["folder"]) / kind
    if not folder.exists():
        given = json.dumps({**task, "kind": kind, "folder": str(folder)})
        command = [sys.executable, "-m", "evaluation.bench.engine_paths", given]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        sys.stderr.write(done.stderr)
        answer = json.loads((done.stdout.splitlines() or ['{"failed": "no answer"}'])[-1])
        if "missing" in answer:
            raise ImportError(name=answer["missing"])
        if "failed" in answer:
            raise RuntimeError(f"{kind}: {answer['failed']}")
    return folder


def _export_onnx(task: Task) -> Encode:
    """Write ``onnx/model.onnx`` and its int8 form, by the settings that sentence-transformers documents."""
    import onnxruntime  # noqa: F401 - missing, it is to be named rather than optimum
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    model = SentenceTransformer(task["model"], backend="onnx", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(task["folder"])
    export_dynamic_quantized_onnx_model(model, _instructions(), task["folder"], file_suffix="int8")
    return _nothing


def _export_openvino(task: Task) -> Encode:
    """Write ``openvino/openvino_model.xml`` and its int8 form: NNCF, static ranges of texts of the benchmark."""
    import nncf
    import openvino
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(task["model"], backend="openvino", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(task["folder"])
    inside = Path(task["folder"]) / "openvino"
    network = openvino.Core().read_model(inside / "openvino_model.xml")
    names = {name for one in network.inputs for name in one.get_names()}
    tokenizer = model.tokenizer

    def numbers(text: str) -> Task:
        found = tokenizer([text], return_tensors="np", truncation=True, max_length=task["max_tokens"])
        return {name: value for name, value in found.items() if name in names}

    data = nncf.Dataset(_read(task["texts"])[:CALIBRATION_TEXTS], numbers)
    small = nncf.quantize(network, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_TEXTS)
    openvino.save_model(small, inside / "openvino_model_int8.xml", compress_to_fp16=False)
    return _nothing


def _instructions() -> str:
    """Return the name of ONNX Runtime's quantisation for this processor."""
    cpu = Path("/proc/cpuinfo")
    known = cpu.read_text() if cpu.exists() else ""
    return next((name for name in ("avx512_vnni", "avx512", "avx2") if name in known), "arm64")


def _nothing(_texts: Sequence[str], _batch: int) -> None:
    """Embed nothing: an export has done its work when it is ready."""


KINDS: dict[str, Callable[[Task], Encode]] = {
    "peak": _peak,
    "revector": _revector,
    "sentence_transformers": _sentence_transformers,
    "onnx": _onnx,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "infinity": _infinity,
    "export_onnx": _export_onnx,
    "export_openvino": _export_openvino,
}

if __name__ == "__main__":
    sys.exit(main())
