"""What was adopted by copy is read again: what changed there is written, and what was written here is not overtaken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adoption.conftest import Application
from adoption.test_copies import COUNT, vectors
from adoption.test_other_databases import Shop
from revector.cli import run
from revector.errors import SourceError, TooManyMissing
from revector.migration.adoption_plan import AdoptionReport


class CopiedShop(Shop):
    """A shop that was adopted by copy."""

    def __init__(self, application: Application, root: Path) -> None:
        super().__init__(root)
        self.adopter = application.project.adopter("articles")
        self.adopter.run(self.adopter.plan(self.request()))

    def read(self, **options: Any) -> AdoptionReport:
        return self.adopter.resume(**options)

    def write(self, n: int, title: str) -> None:
        vector = self._written(vectors([title])[0])
        self.sql("INSERT OR REPLACE INTO articles VALUES (?, ?, '', 'en', ?)", n, title, vector)


@pytest.fixture
def shop(application: Application, tmp_path: Path) -> CopiedShop:
    return CopiedShop(application, tmp_path)


def test_what_changed_there_is_written_and_what_is_gone_is_deleted(application: Application, shop: CopiedShop) -> None:
    shop.write(3, "quince")
    shop.write(100, "medlar")
    shop.sql("DELETE FROM articles WHERE id = 7")
    done = shop.read().copied
    assert (done.rows, done.written, done.deleted, done.spared) == (COUNT, 2, 1, 0)
    application.settle()
    assert application.search("quince", 1) == ["3"]
    assert application.search("medlar", 1) == ["100"]
    assert "7" not in application.search("apple7 pear7", 20)
    assert application.project.verify("articles").passed
    done = shop.read().copied
    assert (done.written, done.deleted) == (0, 0)


def test_a_row_that_comes_back_is_a_document_again(application: Application, shop: CopiedShop) -> None:
    shop.sql("DELETE FROM articles WHERE id = 7")
    assert shop.read().copied.deleted == 1
    shop.write(7, "quince")
    done = shop.read().copied
    assert (done.written, done.spared) == (1, 0)
    assert application.documents()["7"][0] == "quince"


def test_more_than_a_share_that_is_gone_is_refused_and_allowed_by_name(
    application: Application, shop: CopiedShop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = application.documents()
    shop.sql("DELETE FROM articles WHERE id < 3")
    shop.write(20, "quince")
    with pytest.raises(TooManyMissing, match=r"adopt --max-missing"):
        shop.read()
    shop.sql("DELETE FROM articles WHERE id < 1000")
    with pytest.raises(SourceError, match="holds no documents"):
        shop.read(max_missing=1)
    assert application.documents() == before
    for n in range(3, COUNT):
        shop.write(n, f"apple{n}")
    monkeypatch.chdir(application.root)
    assert run(("adopt", shop.url, "--table", "articles", "-c", "articles", "--max-missing", "0.1")) == 0
    seen = " ".join(capsys.readouterr().out.split())
    assert "was read again: 37 rows, 37 written, 3 deleted as gone there; 37 documents" in seen
    assert run(("adopt", shop.url, "--table", "other", "-c", "articles")) == 2


def test_what_was_written_here_stays_over_every_reading_and_is_counted(
    application: Application, shop: CopiedShop
) -> None:
    documents = application.project.documents("articles")
    documents.put("3", "quince", {})
    documents.delete("4")
    documents.put("own", "medlar", {})
    for _ in range(2):
        shop.write(3, "another text there")
        done = shop.read().copied
        assert (done.written, done.deleted, done.spared) == (0, 0, 2)
        found = application.documents()
        assert (found["3"][0], found["own"][0], "4" in found) == ("quince", "medlar", False)
    shop.sql("DELETE FROM articles WHERE id = 3")  # and what is gone there is not deleted here
    assert shop.read().copied.deleted == 0
    assert application.documents()["3"][0] == "quince"
