"""`revector adopt` and `unadopt`, as a person and as a script use them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adoption.conftest import Application, Call, caller

LANGCHAIN = """
CREATE TABLE public.langchain_pg_collection (uuid uuid PRIMARY KEY, name varchar);
CREATE TABLE public.langchain_pg_embedding (id varchar PRIMARY KEY, collection_id uuid REFERENCES
  public.langchain_pg_collection ON DELETE CASCADE, embedding vector, document varchar, cmetadata jsonb);
INSERT INTO public.langchain_pg_collection VALUES ('6f1c0c2e-0000-4000-8000-00000000000a', 'docs')
"""
LAYOUTS: dict[str, tuple[str, str]] = {
    "langchain": (
        LANGCHAIN,
        """INSERT INTO public.langchain_pg_embedding SELECT CAST(:n AS text), uuid, CAST(:v AS vector), :text,
        '{"lang": "en"}' FROM public.langchain_pg_collection""",
    ),
    "llamaindex": (
        """CREATE TABLE public.data_docs (id bigserial PRIMARY KEY, text varchar NOT NULL, metadata_ json,
        node_id varchar, embedding vector(64))""",
        """INSERT INTO public.data_docs (text, metadata_, node_id, embedding) VALUES (:text, '{"lang": "en"}',
        CAST(:n AS text), CAST(:v AS vector))""",
    ),
    "supabase": (
        "CREATE TABLE public.documents (id bigserial PRIMARY KEY, content text, metadata jsonb, embedding vector(64))",
        """INSERT INTO public.documents (content, metadata, embedding) VALUES (:text, '{"lang": "en"}',
        CAST(:v AS vector))""",
    ),
    "pgai": (
        """CREATE TABLE public.blog_embedding_store (embedding_uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(), id int,
        chunk_seq int, chunk text NOT NULL, embedding vector(64))""",
        """INSERT INTO public.blog_embedding_store (id, chunk_seq, chunk, embedding) VALUES (:n, 0, :text,
        CAST(:v AS vector))""",
    ),
    "django": (
        """CREATE TABLE public.blog_post (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug varchar(80),
        body text, created timestamptz DEFAULT now(), embedding vector(64))""",
        """INSERT INTO public.blog_post (slug, body, embedding) VALUES ('s' || CAST(:n AS text), :text,
        CAST(:v AS vector))""",
    ),
    "vecshift": (
        """CREATE FUNCTION public.empty_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.embedding_v2 := NULL;
        RETURN NEW; END'; CREATE TABLE public.notes (id bigserial PRIMARY KEY, title text, page_content text,
        embedding_v2 vector(64), embedding vector(64), embedding_old vector(64)); CREATE TRIGGER
        vecshift_sync_embedding_v2 BEFORE UPDATE OF page_content, embedding_v2 ON public.notes FOR EACH ROW EXECUTE
        FUNCTION public.empty_it()""",
        """INSERT INTO public.notes (title, page_content, embedding_v2, embedding) VALUES ('t', :text,
        array_fill(0.5::real, ARRAY[64])::vector, CAST(:v AS vector))""",
    ),
    "rails": (
        "CREATE TABLE public.posts (id bigserial PRIMARY KEY, name varchar, embedding halfvec(64), updated_at date)",
        "INSERT INTO public.posts (name, embedding) VALUES (:text, CAST(:v AS halfvec))",
    ),
}


@pytest.fixture
def call(application: Application, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(application, monkeypatch, capsys)


def _given(statement: str, **values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if f":{name}" in statement}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tables_of_frameworks_are_adopted_by_their_name(application: Application, call: Call, layout: str) -> None:
    create, insert = LAYOUTS[layout]
    application.sql(create)
    for n in range(30):
        text = f"apple{n} pear{n} some words here"
        application.sql(insert, **_given(insert, n=n, v=application.vector(text), text=text))
    table = create.split("CREATE TABLE ")[-1].split(" ")[0]
    code, out, err = call("adopt", table, "--like", layout, "-c", "mine", "--model", "hashing", "--yes", "--json")
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert (done["documents"], done["reused"]) == (30, 30)
    assert "[collections.mine]" in (application.root / "revector.toml").read_text()
    code, out, _ = call("search", "-c", "mine", "apple7 pear7", "--json")
    assert "apple7" in json.loads(out)["hits"][0]["text"]
    assert call("verify", "-c", "mine")[0] == 0


def test_a_plan_is_shown_and_nothing_is_changed(application: Application, call: Call) -> None:
    application.create(20)
    before = (application.root / "revector.toml").read_text()
    words = ("adopt", "public.articles", "-c", "posts", "--text", "title,body", "--model", "hashing")
    code, out, _ = call(*words, "--dry-run", "--chunk-of", "lang")
    assert code == 0
    assert "20, chunks of 2 by lang" in out
    assert call(*words, "--dry-run", "--chunk-of", "nothing")[0] == 2
    assert "same model: 100.0% of 20 sampled rows" in out
    assert "gains three triggers; nothing else of it changes" in out
    code, _, err = call(*words)
    assert (code, "no terminal to ask" in err) == (2, True)
    assert (application.root / "revector.toml").read_text() == before
    assert application.sql("SELECT count(*) FROM revector.adoption")[0][0] == 0
    code, out, _ = call(*words[:-1], "hashing:seed2", "--dry-run", "--json")
    assert (code, json.loads(out)["proof"]["verdict"]) == (7, "other")


def test_an_adoption_by_settings_goes_on_where_it_was_stopped_and_is_given_back(
    application: Application, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.create(20)
    with (application.root / "revector.toml").open("a") as file:
        file.write('[collections.articles.adopt]\ntable = "public.articles"\ntext = ["title", "body"]\n')
        file.write('model = "hashing"\nwhere = "lang = \'en\'"\n')
    application.project.adopter("articles").begin(application.plan(where="lang = 'en'", meta=()))
    code, out, _ = call("adopt")
    assert code == 0
    assert "going on from there" in out
    assert "15 documents in collection articles, 15 with the vectors that were there" in out
    code, out, _ = call("doctor", "--json")
    assert {one["name"]: one["ok"] for one in json.loads(out)}["articles, adopted table"]
    application.sql("ALTER TABLE public.articles DISABLE TRIGGER revector_1_write")
    code, out, _ = call("doctor", "--json")
    assert not {one["name"]: one["ok"] for one in json.loads(out)}["articles, adopted table"]
    code, out, _ = call("history", "--events", "-c", "articles")
    assert "The table public.articles is followed from now on: same model" in out
    code, out, _ = call("unadopt", "-c", "articles", "--drop-copies", "--json")
    assert (code, json.loads(out)) == (0, {"collection": "articles", "table": "public.articles", "deleted": 15})


def test_a_collection_follows_one_table(application: Application, call: Call) -> None:
    application.create(5)
    application.adopt()
    application.sql("CREATE TABLE public.others (id int PRIMARY KEY, title text)")
    code, _, err = call("adopt", "public.others", "-c", "articles", "--text", "title", "--model", "hashing")
    assert (code, "has adopted public.articles, not public.others" in err) == (2, True)
    assert call("adopt", "public.others", "--like", "nothing")[0] == 2
    assert call("adopt")[0] == 2
