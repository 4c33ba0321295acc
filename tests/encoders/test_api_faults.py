"""Embedding providers by API: faults that pass, limits, and what is spent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from providers import HASHING, MODEL, TEXTS, Made

from revector.encoders.api import Provider, Use, load_api_encoder
from revector.encoders.api.client import LONGEST_RETRY_AFTER_S
from revector.encoders.api.fake import (
    Fault,
    cut,
    drip,
    reset,
    stall,
    status,
)
from revector.encoders.api.limits import BURST_S, COOL_DOWN_S, FAILURES, Clock
from revector.errors import (
    EncoderUnavailable,
    ProviderRefused,
    ProviderUnavailable,
    SpendCapReached,
    TextsRefused,
)
from revector.interfaces import whole_texts

# Faults that pass -----------------------------------------------------------------------------------------------------


def test_server_errors_are_tried_again_after_1_2_4_8_16_seconds(made: Made) -> None:
    made.server.script += [status(500), status(502), status(503), status(529), status(500)]
    np.testing.assert_allclose(
        made.encoder().encode("document", whole_texts(TEXTS)), HASHING.encode("document", whole_texts(TEXTS)), atol=1e-6
    )
    assert made.clock.slept == [1, 2, 4, 8, 16]
    assert made.last.counts == {"requests": 6, "server_errors": 5}


def test_pauses_are_jittered(made: Made) -> None:
    made.server.script += [status(500)]
    provider = Provider("fake", made.provider().settings, clock=made.clock, jitter=lambda: 0.5)
    load_api_encoder(MODEL, {"fake": provider}, Path()).encode("document", whole_texts(["one"]))
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
    made.encoder().encode("document", whole_texts(["one"]))
    assert made.clock.slept == [wait_s]


def test_429_is_counted_apart_and_leaves_all_tries_to_server_errors(made: Made) -> None:
    made.server.script += [fault for _ in range(5) for fault in (status(429), status(500))]
    made.encoder().encode("document", whole_texts(["one"]))
    assert made.last.counts == {"requests": 11, "rate_limited": 5, "server_errors": 5}


def test_server_errors_and_lost_answers_have_their_tries_in_common(made: Made) -> None:
    made.server.script += [status(500), reset(), status(503), cut(), status(429), status(500), reset()]
    with pytest.raises(TextsRefused, match="7 tries failed"):
        made.encoder().encode("document", whole_texts(["one"]))
    assert made.last.counts["requests"] == 7 + 1, "and one for the probe text"


def test_a_provider_that_only_limits_keeps_all_work_due_and_blames_no_text(made: Made) -> None:
    made.server.script += [status(429)] * 6
    with pytest.raises(ProviderUnavailable, match=r"6 tries failed.*429.*work stays due") as limited:
        made.encoder().encode("document", whole_texts(TEXTS))
    assert limited.value.retryable
    assert len(made.server.requests) == 6


def test_a_server_that_wants_long_peace_is_left_alone_without_waiting(made: Made) -> None:
    made.server.script += [status(429, retry_after=str(LONGEST_RETRY_AFTER_S + 540))]
    encoder = made.encoder()
    for said in ("wants to be left alone for 600 s", "left alone for another 600 s"):
        with pytest.raises(ProviderUnavailable, match=said):
            encoder.encode("document", whole_texts(["one"]))
    assert (len(made.server.requests), made.clock.slept) == (1, [])
    made.clock.time += 601
    assert encoder.encode("document", whole_texts(["one"])).shape == (1, 64)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(stall, "timeouts"), (drip, "timeouts"), (reset, "connection_errors"), (cut, "connection_errors")],
)
def test_a_lost_or_endless_answer_is_asked_for_again(made: Made, fault: Callable[[], Fault], kind: str) -> None:
    made.server.script += [fault()]
    vectors = made.encoder(timeout_s=0.3 if kind == "timeouts" else 10).encode("document", whole_texts(TEXTS))
    np.testing.assert_allclose(vectors, HASHING.encode("document", whole_texts(TEXTS)), atol=1e-6)
    assert made.last.counts == {"requests": 2, kind: 1}
    assert made.clock.slept == [1]


def test_a_server_that_is_gone_is_told_after_all_tries_and_asked_no_text_alone(made: Made) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        encoder = made.encoder(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        with pytest.raises(ProviderUnavailable, match="fails at every text: 6 tries"):
            encoder.encode("document", whole_texts(TEXTS))
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
        load_api_encoder(MODEL, {"fake": provider}, Path()).encode("document", whole_texts(TEXTS))
    provider.pool.shutdown(wait=True)
    assert ended == [True]
    assert len(made.server.requests) == 2


# Limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "per_request"),
    [({"requests_per_min": 60}, 1), ({"tokens_per_min": 600}, 16), ({"tokens_per_min": 8}, 16)],
)
def test_no_minute_sees_more_than_the_budget_and_one_request(
    made: Made, limit: dict[str, float], per_request: int
) -> None:
    times: list[float] = []
    made.server.embed = lambda texts: (times.append(made.clock.time), HASHING.encode("document", whole_texts(texts)))[1]
    encoder = made.encoder(max_batch_texts=2, **limit)
    encoder.encode("document", whole_texts([f"{n} b c d e f g h" for n in range(300)]))
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
        return HASHING.encode("document", whole_texts(texts))

    made.server.embed = embed
    encoder = made.encoder(concurrency=3, max_batch_texts=1)
    calls = [TEXTS[:9], TEXTS[9:18], *([text] for text in TEXTS[:6])]  # one batch is sent by its caller's own thread
    callers = [threading.Thread(target=encoder.encode, args=("document", whole_texts(texts))) for texts in calls]
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
            encoder.encode("document", whole_texts(["one"]))
    asked = len(made.server.requests)
    with pytest.raises(ProviderUnavailable, match=f"left alone for another {COOL_DOWN_S:.0f} s"):
        encoder.encode("document", whole_texts(["one"]))
    assert asked == len(made.server.requests) == FAILURES


def opened(made: Made) -> Any:
    encoder = made.encoder()
    made.server.script += [status(500)] * 100
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            encoder.encode("document", whole_texts(["one"]))
    made.server.script.clear()
    made.server.requests.clear()
    return encoder


def test_a_half_open_circuit_closes_when_one_request_goes_through(made: Made) -> None:
    encoder = opened(made)
    made.clock.time += COOL_DOWN_S
    for _ in range(3):
        encoder.encode("document", whole_texts(["one"]))
    assert len(made.server.requests) == 3


def test_a_half_open_circuit_opens_again_at_one_failure(made: Made) -> None:
    encoder = opened(made)
    made.clock.time += COOL_DOWN_S
    made.server.script += [status(500)]
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match=r"left alone|fails at"):
            encoder.encode("document", whole_texts(["one"]))
    assert len(made.server.requests) == 1


def test_a_half_open_circuit_lets_one_request_through_at_a_time(made: Made) -> None:
    encoder = opened(made)
    made.clock.time += COOL_DOWN_S
    inside, go = threading.Event(), threading.Event()

    def embed(texts: Any) -> Any:
        inside.set()
        go.wait()
        return HASHING.encode("document", whole_texts(texts))

    made.server.embed = embed
    trial = threading.Thread(target=encoder.encode, args=("document", whole_texts(["one"])))
    trial.start()
    inside.wait()
    with pytest.raises(ProviderUnavailable, match="left alone for another 0 s"):
        encoder.encode("document", whole_texts(["two"]))
    go.set()
    trial.join()
    assert encoder.encode("document", whole_texts(["two"])).shape == (1, 64)


# Spend ----------------------------------------------------------------------------------------------------------------


def test_tokens_are_charged_as_the_server_counts_them(made: Made) -> None:
    made.encoder(price_per_million_tokens_usd=20.0).encode("document", whole_texts(["one two three", "four"]))
    _, total = made.meter.charge("fake", Use())
    assert total == Use(1, 4, pytest.approx(80e-6))


def test_our_own_count_is_charged_where_the_server_tells_none(made: Made) -> None:
    made.server.script += [Fault(edit=lambda reply: {**reply, "usage": None})]
    made.encoder(price_per_million_tokens_usd=20.0).encode("document", whole_texts(["one, two"]))
    assert made.meter.charge("fake", Use())[1].tokens == 3


@pytest.mark.parametrize(("fault", "tokens"), [(status(500), 4), (reset(), 8)])
def test_a_refused_request_is_not_charged_and_a_lost_one_is(made: Made, fault: Fault, tokens: int) -> None:
    made.server.script += [fault]
    made.encoder().encode("document", whole_texts(["one two three four"]))
    assert made.meter.charge("fake", Use())[1] == Use(2, tokens, 0.0)


def test_nothing_is_sent_beyond_the_spend_cap_by_any_number_of_threads(made: Made) -> None:
    encoder = made.encoder(
        price_per_million_tokens_usd=1e6, max_spend_usd=30.0, max_batch_texts=1, concurrency=8
    )  # a dollar a token
    with pytest.raises(
        SpendCapReached, match=r"'fake' has cost \d+.*cap of 30 USD.*providers.fake.max_spend_usd"
    ) as at:
        encoder.encode("document", whole_texts([f"{n} four words here" for n in range(40)]))
    assert made.meter.charge("fake", Use())[1].usd <= 30
    assert sum(len(text.split()) for text in made.server.texts) <= 30
    assert isinstance(at.value, EncoderUnavailable)
    with pytest.raises(SpendCapReached):
        encoder.encode("document", whole_texts(["and it stays reached for this one"]))
    assert encoder.encode("document", whole_texts(["cheap"])).shape == (1, 64)
