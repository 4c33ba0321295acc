"""The judge of the proofs: it names what an answer or an index shows, by its own encoder, and blames what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.reliability.history import Recorder
from evaluation.reliability.judge import Row, asked, at_rest, embedded, mismatch
from evaluation.reliability.site import COLLECTION, Shape, Site, doc_id_of, name_of
from evaluation.reliability.traffic import colours_of, first, image_of, text_of, token_in, token_of

from revector.documents import text
from revector.encoders.hashing import HashingEncoder
from revector.indexing import chunking
from revector.serving.searcher import Answer, Hit

SHAPE = Shape(documents=12, labelled=2, dim=24, max_tokens=12, overlap_tokens=2)
OWN, OTHER = "r00001", "r00003"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "project", "postgresql://nowhere", SHAPE)


def judged(site: Site, by: str, over: str, *, fingerprint: str = "", best: bool = False) -> tuple[str, str]:
    """Have an answer of revision ``OWN`` judged whose query ``by`` encoded, over vectors by ``over``."""
    query, hits = doc_id_of(3), []
    for doc_id in site.ids:
        chunks, vectors = embedded(site.own(over), site.text(first(doc_id)))
        scores = vectors @ asked(site.own(by), query)
        chunk = int(scores.argmax()) if best else int(scores.argmin())
        piece = chunks[chunk]
        hits.append(Hit(doc_id, float(scores[chunk]), chunk, piece.start, piece.end, piece.text, 1, {}))
    named = fingerprint or site.own(OWN).fingerprint
    answer = Answer(tuple(hits), 1, OWN, named, exact=False, encode_ms=0, search_ms=0, asked=1)
    judge = site.judge(lambda doc_id, _: [first(doc_id)])
    facts = judge.answer(query, answer, whole=best)
    assert {hit.content for hit in facts["hits"]} == {first(doc_id) for doc_id in site.ids}
    return facts["encoder"], facts["index_encoder"]


def test_the_judge_names_the_encoder_that_really_encoded_a_query(site: Site) -> None:
    own, other = site.own(OWN).fingerprint, site.own(OTHER).fingerprint
    assert judged(site, OWN, OWN) == (own, own)
    assert judged(site, OTHER, OWN) == (other, own)
    assert judged(site, OWN, OTHER)[0].startswith("none that explains")
    assert judged(site, OWN, OWN, fingerprint=other)[0].startswith("fingerprint")


def test_where_nothing_was_cut_off_a_document_must_show_its_best_chunk(site: Site) -> None:
    assert judged(site, OWN, OWN, best=True)[0] == site.own(OWN).fingerprint
    vectors = embedded(site.own(OWN), site.text(first(doc_id_of(3))))[1]
    assert len(vectors) > 1  # or there would be nothing to choose


def _rows(site: Site, text: str, version: int = 1) -> list[Row]:
    chunks, vectors = embedded(site.own(OWN), text)
    return [Row(n, version, one.start, one.end, vectors[n]) for n, one in enumerate(chunks)]


def test_rows_are_those_of_a_text_or_it_is_said_how_they_differ(site: Site) -> None:
    text, own = site.text(first(doc_id_of(0))), site.own(OWN)
    rows = _rows(site, text)
    assert mismatch(rows, text, own) is None
    for spoilt, promise in (
        (rows[:-1], "mixed chunks"),
        ([*rows[:-1], rows[-1]._replace(start=rows[-1].start + 1)], "mixed chunks"),
        ([*rows[:-1], rows[-1]._replace(version=2)], "mixed chunks"),
        ([*rows[:-1], rows[-1]._replace(vector=-rows[-1].vector)], "wrong model"),
        (rows[::-1], "mixed chunks"),
    ):
        found = mismatch(spoilt, text, own)
        assert found is not None
        assert found[0] == promise
    assert mismatch(rows, text, site.own(OTHER)) == mismatch(rows[:], text, site.own(OTHER))
    assert (mismatch(rows, text, site.own(OTHER)) or ("",))[0] == "wrong model"


def test_every_chunk_of_a_text_names_its_put(site: Site) -> None:
    for number in range(200):
        token = token_of(f"d{number}", "a_1", number)
        text = text_of(token, 40)
        assert text.startswith(f"d{number} ")
        assert {token_in(chunk.text) for chunk in site.own(OWN).chunks(text)} == {token}


# An error of the product itself ---------------------------------------------------------------------------------------


def _rolled(encode: Any) -> Any:
    return lambda self, side, pieces: np.roll(encode(self, side, pieces), 1, axis=1)


def _short(windows: Any) -> Any:
    return lambda self, text: (list(windows(self, text))[:-1] or list(windows(self, text))).__iter__()


def _meddled(clean: Any) -> Any:
    return lambda text, *given: clean(text, *given).replace("word1", "word2")


@pytest.mark.parametrize(
    ("owner", "name", "spoil", "promise"),
    [
        (HashingEncoder, "encode", _rolled, "wrong model"),
        (chunking._Windows, "__call__", _short, "mixed chunks"),
        (text, "_cleaned", _meddled, "phantom"),
    ],
    ids=["encoder", "chunker", "cleaning"],
)
def test_an_error_of_the_product_itself_is_found_for_the_judge_shares_no_code_with_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, spoil: Any, promise: str
) -> None:
    monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))
    site, recorder = Site(tmp_path / "project", database_url, SHAPE), Recorder()
    site.begin(recorder)
    found = at_rest(site.engine, site.cid, site.judge(recorder), recorder)
    site.close()
    assert promise in {one.promise for one in found}


def test_a_sound_product_is_found_sound(database_url: str, tmp_path: Path) -> None:
    site, recorder = Site(tmp_path / "project", database_url, SHAPE), Recorder()
    site.begin(recorder)
    assert at_rest(site.engine, site.cid, site.judge(recorder), recorder) == []
    site.close()


def test_an_image_is_judged_as_a_text_is_in_indexes_and_answers(database_url: str, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the images extra is not installed")
    site, recorder = Site(tmp_path / "project", database_url, replace(SHAPE, images=True)), Recorder()
    site.begin(recorder)
    judge, own = site.judge(recorder), site.own(name_of(0))
    assert at_rest(site.engine, site.cid, judge, recorder) == []
    token = first(doc_id_of(3))
    chunks, vectors = embedded(own, site.text(token))
    query = "".join(f"{channel >> 4:x}" for channel in colours_of(token)[0])
    score = float(vectors[-1] @ asked(own, query))
    hit = Hit(doc_id_of(3), score, len(chunks) - 1, *chunks[-1][1:], "", 1, {}, kind="image")
    assert score > 0.2
    seen = [judge._seen(own, query, replace(hit, score=said)) for said in (score, score / 2)]
    assert [None if one is None else one.content for one in seen] == [token, None]
    site.project.documents(COLLECTION).put(doc_id_of(3), site.text(token), image=image_of(first(doc_id_of(4))))
    while site.project.worker().drain():
        pass
    assert any(doc_id_of(3) in str(one) for one in at_rest(site.engine, site.cid, judge, recorder))
    site.close()
