"""The demo's corpus: as much as the machine embeds in time, every labelled question answerable, every wait shown."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from revector.encoders.loading import load_encoder
from revector.interfaces import Document
from revector.local import screen
from revector.local.demo_corpus import BUDGET_S, LEAST_DISTRACTORS, LEAST_QUESTIONS, SHARE, cut, documents_per_s, said
from revector.spec import Chunking, ModelSpec

CORPUS = [Document(f"d{n:04d}", f"words of number {n} and some more", {}) for n in range(4_000)]
QUESTIONS = [{f"d{n:04d}"} for n in range(0, 4_000, 10)] + [{"d0000", "d0007"}, {"no longer there"}]
ANSWERS = set().union(*QUESTIONS) - {"no longer there"}


@pytest.mark.parametrize("rate", [0.1, 5.0, 6.5, 12.0, 30.0, 500.0])
def test_the_corpus_is_what_the_machine_embeds_in_time_and_answers_enough_questions(rate: float) -> None:
    found = cut(CORPUS, QUESTIONS, rate)
    ids = [one.id for one in found.documents]
    assert ids == sorted(ids), "in the order of the corpus"
    assert (found.asked, found.of) == (len(QUESTIONS) - 1, len(CORPUS))
    assert sum(question <= set(ids) for question in QUESTIONS) == found.questions >= LEAST_QUESTIONS
    assert len(set(ids) & ANSWERS) == found.judged
    assert found.distractors == len(ids) - found.judged >= LEAST_DISTRACTORS
    assert found.seconds <= BUDGET_S or (found.questions, found.distractors) == (LEAST_QUESTIONS, LEAST_DISTRACTORS)
    assert len(ids) == len(CORPUS) or len(ids) >= int(rate * SHARE * BUDGET_S)
    assert found.questions == found.asked or len(ids) - LEAST_DISTRACTORS == found.judged, "questions go last"
    assert set(ids) <= {one.id for one in cut(CORPUS, QUESTIONS, 2 * rate).documents}, (
        "a part of what a faster one takes"
    )


def test_all_of_it_is_taken_when_asked_for() -> None:
    found = cut(CORPUS, QUESTIONS, 1.0, full=True)
    assert list(found.documents) == CORPUS
    assert said(found, "m", str).startswith(
        "The wait is for embedding all 4,000 documents with m, about 12000.0 at a third of the 1 "
    )


@pytest.mark.parametrize(
    ("rate", "which"),
    [
        (15.0, "900 of 4,000 documents (401 that answer all 401 labelled questions, and 499 distractors)"),
        (0.1, "520 of 4,000 documents (320 that answer 320 of the 401 labelled questions, and 200 distractors)"),
    ],
)
def test_one_sentence_says_what_the_wait_is_for_with_the_numbers(rate: float, which: str) -> None:
    found = cut(CORPUS, QUESTIONS, rate)
    assert said(found, "bge", lambda seconds: f"{seconds:.0f} s") == (
        f"The wait is for embedding {which} with bge, about {found.seconds:.0f} s at a third of the {rate:g} "
        "documents/s that a probe of this machine found, as the rest of the demo works beside it; --full takes all of "
        "them."
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
