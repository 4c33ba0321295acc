"""The demo's corpus: as much as the machine embeds in time, every labelled question answerable, every wait shown."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from revector.encoders import load_encoder
from revector.interfaces import Document
from revector.local import screen
from revector.local.demo_corpus import BUDGET_S, LEAST_DISTRACTORS, SHARE, cut, documents_per_s, said
from revector.spec import Chunking, ModelSpec

CORPUS = [Document(f"d{n:04d}", f"words of number {n} and some more", {}) for n in range(4_000)]
JUDGED = {f"d{n:04d}" for n in range(0, 4_000, 10)}


@pytest.mark.parametrize("rate", [0.1, 5.0, 12.0, 30.0, 500.0])
def test_the_corpus_is_what_the_machine_embeds_in_time_and_keeps_every_judged_document(rate: float) -> None:
    found = cut(CORPUS, JUDGED, rate)
    ids = [one.id for one in found.documents]
    assert set(ids) >= JUDGED
    assert ids == sorted(ids), "in the order of the corpus"
    assert (found.judged, found.of) == (len(JUDGED), len(CORPUS))
    assert found.distractors == len(ids) - len(JUDGED) >= LEAST_DISTRACTORS
    least = len(JUDGED) + LEAST_DISTRACTORS
    assert len(ids) == min(len(CORPUS), max(least, int(rate * SHARE * BUDGET_S)))
    assert found.seconds <= BUDGET_S or len(ids) == least
    assert set(ids) <= {one.id for one in cut(CORPUS, JUDGED, 2 * rate).documents}, "a part of what a faster one takes"


def test_all_of_it_is_taken_when_asked_for() -> None:
    found = cut(CORPUS, JUDGED, 1.0, full=True)
    assert list(found.documents) == CORPUS
    assert said(found, "m", str).startswith(
        "The wait is for embedding all 4,000 documents with m, about 8000.0 at the 1 "
    )


def test_one_sentence_says_what_the_wait_is_for_with_the_numbers() -> None:
    found = cut(CORPUS, JUDGED, 10.0)
    assert said(found, "bge", lambda seconds: f"{seconds:.0f} s") == (
        "The wait is for embedding 900 of 4,000 documents (all 400 that answer a labelled question, and 500 "
        "distractors) with bge, about 180 s at the 10 documents/s that a probe of this machine found, half of it for "
        "the rest of the demo; --full takes all of them."
    )


def test_the_probe_embeds_real_documents_and_stops_in_time() -> None:
    encoder = load_encoder(ModelSpec(name="hashing", dim=64), root=Path.cwd())
    began = time.monotonic()
    assert documents_per_s(CORPUS, encoder, Chunking(), seconds=0.2) > 0
    assert time.monotonic() - began < 30
    assert documents_per_s(CORPUS[:5], encoder, Chunking(), seconds=60) > 0, "a corpus that is smaller than the probe"


def test_a_phase_is_shown_from_its_first_second_and_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "QUIET_S", 0.05)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=False, width=100)
    with screen.phase(console, "Collecting …") as tell:
        assert shown.getvalue() == "Collecting …\n"
        tell("12 documents")
        end = time.monotonic() + 20
        while "… Collecting … 12 documents · 0 s" not in shown.getvalue():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert shown.getvalue().splitlines()[-1].startswith("  12 documents · ")
