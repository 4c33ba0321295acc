"""Where an adoption stands, as status says it: what was taken, whether writes are followed, what was found last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from adoption.conftest import Application
from revector.adoption.presets import AdoptionRequest
from revector.adoption.standing import AdoptionStatus
from revector.cli import run


def standing(application: Application) -> AdoptionStatus:
    found = application.project.status("articles").adoption
    assert found is not None
    return found


def test_a_status_says_what_was_taken_and_that_it_is_followed(adopted: Application) -> None:
    found = standing(adopted)
    assert (found.table, found.where, found.copied) == ("public.articles", "lang = 'en'", True)
    assert (found.id, found.text, found.meta) == (("id",), ("title", "body"), ("lang",))
    assert (found.vector, found.model) == ("embedding", "hashing")
    assert found.proof.startswith("same model: 100.0% of 15 sampled rows")
    assert datetime.now(UTC) - datetime.fromisoformat(found.since) < timedelta(hours=1)
    assert (found.faults, found.compared, found.advice) == ((), None, None)


def test_a_collection_without_a_table_has_none(application: Application) -> None:
    assert application.project.status("articles").adoption is None


def test_a_status_says_what_the_last_comparison_of_every_row_found(adopted: Application) -> None:
    adopted.sql("ALTER TABLE public.articles DISABLE TRIGGER revector_1_change")
    adopted.sql("UPDATE public.articles SET title = 'quince' WHERE id = 3")
    adopted.sql("ALTER TABLE public.articles ENABLE ALWAYS TRIGGER revector_1_change")
    adopted.project.verify("articles", sample=5.0, reembed=0)
    assert standing(adopted).compared is None, "a sample looks at no row of the table"
    adopted.project.verify("articles", reembed=0)
    found = standing(adopted)
    assert found.compared is not None
    assert found.compared.differing == ("1 rows of public.articles are not documents as they stand, such as '3'",)
    assert found.advice == "`revector verify -c articles --repair` writes what was missed"
    adopted.project.verify("articles", reembed=0, repair=True)
    adopted.settle()
    adopted.project.verify("articles", reembed=0)
    found = standing(adopted)
    assert found.compared is not None
    assert (found.compared.differing, found.advice) == ((), None)


@pytest.mark.parametrize(
    ("statement", "fault", "advice"),
    [
        ("ALTER TABLE public.articles DISABLE TRIGGER revector_1_write", "switched off", "revector adopt"),
        ("DROP TRIGGER revector_1_truncate ON public.articles", "is missing on public.articles", "revector adopt"),
        ("DROP TABLE public.articles CASCADE", "the table was dropped", "revector unadopt"),
    ],
)
def test_what_keeps_writes_from_being_followed_is_named_with_the_way_out(
    adopted: Application, statement: str, fault: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adopted.sql(statement)
    found = standing(adopted)
    assert fault in found.faults[0]
    assert advice in str(found.advice)
    assert run(["status", "--project", str(adopted.root)]) == 0
    seen = capsys.readouterr().out
    assert fault in seen
    assert advice in seen


def test_an_adoption_that_is_not_copied_yet_says_so(application: Application) -> None:
    application.create(5)
    application.project.adopter("articles").begin(application.plan())
    found = standing(application)
    assert (found.copied, found.faults) == (False, ())
    assert "goes on" in str(found.advice)


def test_a_table_that_was_given_back_is_not_shown(adopted: Application) -> None:
    adopted.project.adopter("articles").end()
    assert adopted.project.status("articles").adoption is None


def test_a_copy_is_shown_as_one_that_is_read_again(
    application: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    source = application.root / "own.csv"
    source.write_text("id,text\n" + "".join(f"{n},apple{n} pear{n}\n" for n in range(5)))
    request = AdoptionRequest(source=str(source), model="hashing", vectors=False)
    adopter = application.project.adopter("articles")
    adopter.begin(adopter.plan(request))
    assert "goes on" in str(standing(application).advice)
    adopter.resume()
    found = standing(application)
    assert (found.table, found.followed, found.copied, found.advice) == (str(source), False, True, None)
    assert (found.id, found.text, found.vector) == (("id",), ("text",), None)
    assert run(["status", "--project", str(application.root)]) == 0
    seen = " ".join(capsys.readouterr().out.split())
    assert "Adopted by copy" in seen
    assert "read again: revector adopt" in seen
    assert "revector verify" not in seen
