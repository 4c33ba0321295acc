"""The functions `revector.put` and `revector.delete` make the rows that Python makes, or refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from ftfy.badness import BADNESS_RE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from revector.documents.text import check_id, clean
from revector.errors import DocumentError
from revector.interfaces import Content, Document
from worlds import World

GOOD = [
    "plain words",
    "two\nlines\tand a tab",
    "Il est arrivé à l’heure « comme toujours » et naïf. «Il est arrivé» dit-il",
    "Straße, 25 °C, größer als 3 µm · „so“ – oder nicht … ®",
    "Это обычный русский текст, «в кавычках».",
    "Ελληνικό κείμενο με τόνους",
    "日本語のテキスト。「引用」",
    "中文文本，一丁七万",
    "هذا نص عربي، وفيه أرقام ١٢٣",
    "हिन्दी पाठ",
    "한국어 텍스트",
    "emoji 😀🌀🐀 👩‍👩‍👧 🏴󠁧󠁢󠁷󠁬󠁳󠁿",
    "cafe\u0301 stays decomposed, café composed",
    "ﬁne ligatures, Ｆｕｌｌ width, “curly” quotes",
    "fish & chips & co; AT&T &amp",
    "windows\r\nlines\rof\u2028all\u2029kinds",
    "€ 5, £ 6, 100 ¥, § 3, ¶, ± 2, ½, x²",
    "soft\u00adhyphen, zero\u200bwidth, no\u00a0break",
    "IRMÃ E IRMÃO",
    "a little \ufffd damage in a long enough text",
]
UNFIXED = [
    "cafÃ© in Paris",
    "âœ” No problems",
    "&lt;b&gt; quoted",
    "fish &amp; chips",
    "&#8217;",
    "bell \x07 rings",
    "\x1b[31mred\x1b[0m",
    "\ufeffbyte order mark",
    "C1 \x85 control",
    "object \ufffc here",
    "ABC".encode("utf-16-le").decode("utf-16-be"),
]
REFUSED = ["", " \n\t ", "\u200b\u200b", "\u3000", "\ue000\ue001 private", "\ufffd\ue000", None]


@contextmanager
def client(world: World) -> Iterator[psycopg.Connection[Any]]:
    """A session as any application has one."""
    url = sa.make_url(world.database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


def refusal(connection: psycopg.Connection[Any], *call: Any, function: str = "put") -> str:
    """The SQLSTATE that a call is refused with; it says what to do."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(f"SELECT * FROM revector.{function}({', '.join(['%s'] * len(call))})", call)
    assert caught.value.diag.message_hint, caught.value
    return caught.value.sqlstate or ""


def rows(world: World) -> list[Any]:
    wanted = "doc_id, deleted, content, content_hash, meta, external_version, version > tombstone_version"
    return world.sql(f"SELECT {wanted} FROM document ORDER BY doc_id")


@pytest.mark.parametrize("text", GOOD)
def test_a_put_in_sql_makes_the_row_that_python_makes(world: World, text: str) -> None:
    meta = {"lang": "en", "n": [1, 2.5, None, {"at": "2026-01-01T00:00:00Z"}]}
    world.documents.put("a", text, meta)
    with client(world) as connection:
        found = connection.execute(
            "SELECT * FROM revector.put('docs', 'b', %s, %s)", (text, json.dumps(meta))
        ).fetchone()
    assert found == (world.value("SELECT version FROM document WHERE doc_id = 'b'"), "written")
    by_python, by_sql = (tuple(row)[1:] for row in rows(world))
    assert by_python == by_sql
    assert by_sql[2] == Content("text", clean(text)).sha256


@pytest.mark.parametrize("text", UNFIXED)
def test_a_text_that_only_python_can_fix_is_refused_and_said_to_be(world: World, text: str) -> None:
    assert clean(text) != text, "Python fixes it"
    with client(world) as connection:
        assert refusal(connection, "docs", "a", text) == "RV009"
    assert rows(world) == []


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_python_refuses_is_refused(world: World, text: str | None) -> None:
    with pytest.raises(DocumentError):
        clean(text)
    with client(world) as connection:
        assert refusal(connection, "docs", "a", text) == "RV008"


def test_the_size_of_a_text_has_the_same_limit(world: World) -> None:
    with client(world) as connection:
        assert refusal(connection, "docs", "a", "é" * ((2 << 20) + 1)) == "RV008"
        connection.execute("SELECT revector.put('docs', 'a', %s)", ("é" * (2 << 20),))
    assert world.value("SELECT octet_length(content) FROM document") == 4 << 20


@pytest.fixture(scope="module")
def shared(databases: Any, template: str) -> Iterator[psycopg.Connection[Any]]:
    url = sa.make_url(databases.url(databases.create(template))).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


ODD = (
    "ÃÂÎÐâ€™œŒŠ°·»«“”©®éèñßäöü²³½×÷±√≈¢£¥§¶¬¦¨¯¸ƒˆ˜†‡‰ªº│╬█αβΑΩабвАБВЂ&;#<"
    "\x80\x9f\xa0\xad\r\u2028\u2029\ufeff\ufffc\ufffd\ue000\ufffe"
)
PIECES = [*ODD, " ", "a", "Z", "1", "\n", "&amp;", "&#39;", "\U0001f600", "Ā", "Ȁ", "䄀"]
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=12
).map("".join)


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
@example("😀🌀🐀")
@example("䄀䈀䌀")
@example("一七万")
def test_whatever_sql_stores_is_what_python_would_store(shared: psycopg.Connection[Any], text: str) -> None:
    with suppress(psycopg.DatabaseError):  # refused
        [(stored,)] = shared.execute("SELECT revector.storable_text(%s)", (text,)).fetchall()
        assert stored == clean(text)


def test_the_sign_of_wrong_decoding_is_that_of_the_ftfy_that_is_installed(shared: psycopg.Connection[Any]) -> None:
    """Every two characters that ftfy looks at, and three where its pattern has three in a row."""
    marks = sorted({c for c in map(chr, range(0x80, 0x2600)) if c in BADNESS_RE.pattern} | set("aZ1 .\n"))
    assert len(marks) > 200
    lines = [a + b for a in marks for b in marks] + [f"{c}{a}{b}" for c in "aØÂВé× " for a in marks for b in marks]
    found = shared.execute(
        'SELECT t FROM unnest(%s::text[]) t WHERE t COLLATE "C" ~ revector.mojibake()', (lines,)
    ).fetchall()
    bad = {line for line in lines if BADNESS_RE.search(line)}
    by_sql = {row[0] for row in found}
    assert bad <= by_sql
    extra = {line for line in by_sql - bad if "\n" not in line}
    assert len(extra) < 0.01 * len(bad), "and it refuses hardly anything else"


IDS = ["a", "é" * 256, "a b", "日本", "x" * 512, "-", "a\u200b"]
NO_IDS = ["", " a", "a\n", "\u3000a", "x" * 513, "a\x00b"[:1] + "\x07", "\x85", "a\u2028", "é" * 257]


@pytest.mark.parametrize("doc_id", [*IDS, *NO_IDS])
def test_an_id_is_taken_or_refused_as_in_python(world: World, doc_id: str) -> None:
    with client(world) as connection:
        if doc_id in NO_IDS:
            with pytest.raises(DocumentError):
                check_id(doc_id)
            assert (
                refusal(connection, "docs", doc_id, "text")
                == refusal(connection, "docs", doc_id, function="delete")
                == "RV008"
            )
        else:
            assert check_id(doc_id)
            connection.execute("SELECT revector.put('docs', %s, 'text')", (doc_id,))
    assert len(rows(world)) == (doc_id in IDS)


def test_versions_keep_the_newest_whatever_the_order_of_messages(world: World) -> None:
    with client(world) as connection:

        def call(sql: str) -> Any:
            return connection.execute(f"SELECT outcome FROM revector.{sql}").fetchone()[0]  # type: ignore[index]

        assert call("put('docs', 'a', 'second', version => 2)") == "written"
        assert call("put('docs', 'a', 'first', version => 1)") == "older"
        assert call("put('docs', 'a', 'second', version => 2)") == "unchanged"
        assert call("put('docs', 'a', 'other', version => 2)") == "older"
        assert call("delete('docs', 'a', version => 3)") == "deleted"
        assert call("put('docs', 'a', 'late', version => 2)") == "older"
        assert call("delete('docs', 'never', version => 1)") == "deleted"
        assert call("delete('docs', 'unknown')") == "unchanged"
        assert call("put('docs', 'b', 'text')") == "written"
        assert call("put('docs', 'b', 'text')") == "unchanged"
        assert call("""put('docs', 'b', 'text', '{"a": 1}')""") == "written"
        assert call("delete('docs', 'b')") == "deleted"
        assert call("delete('docs', 'b')") == "unchanged"
        assert (
            refusal(connection, "docs", "a", "text", "[1]")
            == refusal(connection, "docs", "a", "text", "{}", -1)
            == "RV008"
        )
    assert [(row.doc_id, row.deleted) for row in rows(world)] == [("a", True), ("b", True), ("never", True)]


def test_a_write_is_part_of_the_callers_transaction_and_reaches_every_live_index(swapped: World) -> None:
    with client(swapped) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT revector.put('docs', 'd00007', 'undone')")
        connection.execute("ROLLBACK")
        with connection.transaction():
            connection.execute("SELECT revector.put('docs', 'd00007', 'quince melon', '{\"n\": 7}')")
            connection.execute("SELECT revector.delete('docs', 'd00008')")
    assert swapped.value("SELECT count(*) FROM pending WHERE doc_id IN ('d00007', 'd00008')") == 4
    assert "d00008" not in swapped.search("apple8 pear8", 200), "hidden from the commit on"
    swapped.settle()
    assert swapped.search("quince melon", 1) == ["d00007"]
    for role in ("active", "standby"):
        assert swapped.differences(swapped.generation(role)) == []
    assert swapped.sql("SELECT * FROM i1_lost") == []


def test_a_put_in_sql_answers_a_record_that_was_refused(served: World) -> None:
    served.documents.put_valid([Document("d00007", "", {})], "a source")
    assert served.documents.refused(["d00007"])
    with client(served) as connection:
        connection.execute("SELECT revector.put('docs', 'd00007', 'good text')")
    assert not served.documents.refused(["d00007"])
