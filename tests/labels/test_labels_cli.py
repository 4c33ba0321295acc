"""The commands about labels on a real database: check, from clicks, pool, and back."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revector.cli import exits, run
from revector.cli.commands_judging import finish
from revector.cli.options import open_session
from revector.errors import LabelError
from revector.labels import load_labels, span_of
from revector.labels.batch import JudgedBatch, ScoreChange
from revector.labels.clicks import label_clicks
from revector.labels.pool import EXAMPLE, read_pool, write_pool
from revector.pages.gate_result import kept_result
from worlds import World

UNUSABLE = LabelError.exit_code


class Cli:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        code = run(["labels", *words])
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def found(self) -> dict[str, int]:
        return {name: one["count"] for name, one in self.json["findings"].items() if one["count"]}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def at(served: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """120 documents served, 60 labelled queries, in the project's folder."""
    monkeypatch.chdir(served.root)
    return served


# check ----------------------------------------------------------------------------------------------------------------


def test_labels_without_fault_pass_the_check(at: World, cli: Cli) -> None:
    assert cli("check") == 0
    assert "60 judgements of 60 queries, 60 queries usable" in cli.out
    assert "Nothing doubtful was found" in cli.out
    assert cli("check", "--json") == 0
    assert (cli.json["found"], cli.json["usable"], cli.found()) == (False, 60, {})


def test_spans_that_quote_their_text_are_measured_where_it_lies_and_checked(at: World, cli: Cli) -> None:
    original = "apple &amp; pear\r\nquince and medlar\r\n"
    at.documents.put("crlf", original)
    start = original.index("medlar")
    head = "query_id,query,doc_id,score,start,end,quote\n"
    (at.root / "labels.csv").write_text(f"{head}q1,medlar,crlf,1,{start},{start + 6},medlar\n")
    at.settings(qrels="labels.csv")
    assert cli("check") == 0
    [item] = at.migrator.queries().items["q1"]
    span = span_of(item)
    assert span is not None
    assert at.documents.get("crlf").text[span.start : span.end] == "medlar"
    (at.root / "labels.csv").write_text(f"{head}q1,medlar,crlf,1,{start},{start + 6},sloe\n")
    assert cli("check", "--json") == exits.CHECK_FAILED
    assert cli.found() == {"spans whose quoted text is not at one place": 1}
    with pytest.raises(LabelError, match="'sloe' does not stand in the document"):
        at.migrator.queries()


DOUBTFUL = """\
query_id,query,doc_id,score,start,end,lang
q1,apple,d00001,1,,,en
q1,apple,d00001,1,,,en
q1,apple,gone-1,1,,,en
q1,apple,gone-2,0,,,en
q2,pear,d00002,0,,,de
q3,PEAR ,d00003,1,0,4,de
q4,words,d00004,1,9,999,de
q5,none left,d00005,1,,,de
"""


def test_everything_doubtful_is_counted_and_named(at: World, cli: Cli) -> None:
    at.documents.delete("d00005")
    (at.root / "doubtful.csv").write_text(DOUBTFUL)
    assert cli("check", "doubtful.csv", "--json") == exits.CHECK_FAILED
    assert cli.found() == {
        "unknown documents": 2,
        "deleted documents": 1,
        "spans outside their document": 1,
        "judgements given twice": 1,
        "queries with the text of another": 1,
        "queries without a relevant document": 1,
        "queries whose relevant documents are all gone": 1,
    }
    named = {name: one["first"] for name, one in cli.json["findings"].items()}
    assert named["unknown documents"] == ["gone-1", "gone-2"]
    assert named["deleted documents"] == ["d00005"]
    assert named["judgements given twice"] == ["('q1', 'd00001') at doubtful.csv:3"]
    assert "9-999) of 37 characters at doubtful.csv:8" in named["spans outside their document"][0]
    assert (cli.json["queries"], cli.json["usable"], cli.json["refusal"]) == (5, 3, None)
    assert cli("check", "doubtful.csv") == exits.CHECK_FAILED
    assert "gone-1, gone-2" in cli.out


def test_only_ten_are_named_and_all_counted(at: World, cli: Cli) -> None:
    at.labels((f"{'d' if n else 'x'}{n:05d}" if n % 2 else f"gone{n}", f"query {n}") for n in range(60))
    assert cli("check", "--json") == exits.CHECK_FAILED
    unknown = cli.json["findings"]["unknown documents"]
    assert (unknown["count"], len(unknown["first"])) == (30, 10)


UNUSABLE_LABELS: list[tuple[str, str, dict[str, int], str]] = [
    ("q1 a", "q1 d00001 1,q1 d00001 2", {"conflicting judgements": 1}, "judged 1 and 2"),
    ("q1 a,q1 b", "q1 d00001 1", {"query ids given twice": 1}, "a second time"),
    ("q1 a,q2", "q1 d00001 1,q2 d00002 1,q3 d00003 1", {"judged queries without text": 2}, "'q2', 'q3'"),
    ("q1 a", "q1 d00001 0", {"queries without a relevant document": 1}, "no document relevant"),
    (
        "q1 a,q9 z",
        "q1 elsewhere 1",
        {"unknown documents": 1, "queries whose relevant documents are all gone": 1},
        "the labels belong to other documents",
    ),
]


def test_unusable_labels_say_why(at: World, cli: Cli) -> None:
    for queries, qrels, found, refusal in UNUSABLE_LABELS:
        lines = (dict(zip(("_id", "text"), one.split(), strict=False)) for one in queries.split(","))
        (at.root / "labels" / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (at.root / "labels" / "qrels" / "test.tsv").write_text(qrels.replace(" ", "\t").replace(",", "\n"))
        assert cli("check", "--json") == UNUSABLE, refusal
        assert cli.found() == found
        assert refusal in cli.json["refusal"]
        assert cli.json["unjudged"]["count"] == ("q9" in queries)
    assert cli("check") == UNUSABLE
    assert "Unusable: " in cli.out


def test_what_cannot_be_read_is_refused_by_line(at: World, cli: Cli) -> None:
    (at.root / "labels" / "qrels" / "test.tsv").write_text("q1\td00001\t1\nq2 d00002 1\n")
    assert cli("check") == UNUSABLE
    assert r"test.tsv:2: found 'q2 d00002 1'" in cli.err
    assert r"such as 'q1\td7\t1'" in cli.err
    (at.root / "labels" / "qrels" / "test.tsv").write_text("")
    assert cli("check") == UNUSABLE
    assert "holds no judgement" in cli.err
    at.settings(qrels=None)
    assert cli("check") == UNUSABLE
    assert "has no labelled queries" in cli.err


def test_labels_in_a_table_of_the_database_are_checked(at: World, cli: Cli) -> None:
    at.sql("CREATE TABLE public.judged (query_id int, query text, doc_id text, score numeric, lang text)")
    at.sql("INSERT INTO public.judged VALUES (1, 'apple', 'd00001', 1.0, 'en'), (2, 'pear', 'd00002', 2, NULL)")
    assert cli("check", "sql:SELECT * FROM public.judged", "--json") == 0
    assert (cli.json["name"], cli.json["usable"]) == ("sql", 2)
    assert cli("check", "sql:SELECT * FROM public.absent") == UNUSABLE
    assert "does not exist" in cli.err


def test_the_gate_measures_on_labels_in_a_table(at: World) -> None:
    at.sql("CREATE TABLE public.judged (query_id text, query text, doc_id text, score int, lang text)")
    at.sql(
        "INSERT INTO public.judged SELECT 'q' || n, 'apple' || n || ' pear' || n, 'd' || lpad(n::text, 5, '0'), 1, "
        "'en' FROM generate_series(0, 59) n"
    )
    at.settings(qrels="sql:SELECT * FROM public.judged WHERE lang = 'en'")
    at.upgrade("b200")
    assert at.project.status("docs").labels == "sql"
    measured = at.events("gate")[0]["detail"]
    assert (measured["labels"], measured["queries"]) == ("sql", 60)


# from-clicks ----------------------------------------------------------------------------------------------------------


def write_clicks(path: Path, *rows: str, positions: bool = False) -> Path:
    path.write_text("query,doc_id,time" + ",position" * positions + "\n" + "\n".join(rows) + "\n")
    return path


def repeated(count: int, query: str, doc: str, day: int = 10, *more: str) -> list[str]:
    return [",".join((query, doc, f"2026-03-{day:02d}T12:00:00", *more))] * count


def test_clicks_become_labels_that_can_be_measured_and_state_their_bias(at: World, cli: Cli) -> None:
    rows = [
        *repeated(2, "apple1 pear1", "d00001"),
        *repeated(1, "  Apple1   PEAR1 ", "d00001"),
        *repeated(2, "apple1 pear1", "d00009"),
        *repeated(2, "apple2 pear2", "d00002"),
        *repeated(1, " ", "d00003"),
        *repeated(9, "apple4 pear4", "d00004", 1),
    ]
    write_clicks(at.root / "clicks.csv", *rows)
    assert cli("from-clicks", "clicks.csv", "-o", "new", "--days", "5", "--json") == 0
    counts = cli.json["counts"]
    assert (counts["clicks"], counts["outside_days"], counts["unusable"]) == (7, 9, 1)
    assert counts["first_unusable"] == ["clicks.csv:9"]
    assert (counts["pairs"], counts["pairs_below"], counts["queries"], counts["queries_below"]) == (3, 2, 2, 1)
    labels = load_labels(at.root / "new")
    assert list(labels.queries.values()) == ["apple1 pear1"]
    assert list(labels.qrels.values()) == [{"d00001": 1}]
    told = (at.root / "new" / "README.md").read_text()
    assert "only what was shown could be clicked" in told
    assert "nothing was done about it" in told
    assert cli("from-clicks", "clicks.csv", "-o", "all") == 0
    assert "Such labels are biased" in cli.out
    assert "only what was shown could be clicked" in cli.out
    assert load_labels(at.root / "all").queries.items() > labels.queries.items()  # ids are those of the text
    assert cli("from-clicks", "clicks.csv", "-o", "new") == UNUSABLE
    assert "not empty" in cli.err
    at.settings(qrels="all")
    assert cli("check") == 0


def test_clicks_at_the_top_count_less_where_positions_are_known(tmp_path: Path) -> None:
    rows = [*repeated(3, "a", "top", 10, "1"), *repeated(3, "a", "fifth", 10, "5"), *repeated(2, "a", "far", 10, "90")]
    path = write_clicks(tmp_path / "clicks.csv", *rows, positions=True)
    found = label_clicks(path, min_clicks=3, days=None)
    assert found.mean_weight == pytest.approx((3 * 1 + 3 * 5 + 2 * 10) / 8)
    assert list(found.labels.qrels.values()) == [{"fifth": 1}]  # far weighs enough, but was clicked twice only
    alone = write_clicks(tmp_path / "one.csv", *repeated(3, "a", "top", 10, "1"), positions=True)
    assert list(label_clicks(alone, min_clicks=3, days=None).labels.qrels.values()) == [{"top": 1}]


@pytest.mark.parametrize(
    ("head", "row", "finding"),
    [
        ("query,doc_id", "a,d", r"clicks\.csv:1: found no column time .*'how do I begin,d7,2026"),
        ("query,doc_id,time", "a,d,yesterday", r"clicks\.csv:2: found time 'yesterday'; expected a time in ISO 8601"),
        ("query,doc_id,time", "a,,2026-01-01", r"clicks\.csv:2: found doc_id ''"),
        ("query,doc_id,time,position", "a,d,2026-01-01,0", r"clicks\.csv:2: found position '0'; .*,3'"),
        ("query,doc_id,time,position", "a,d,2026-01-01,", r"clicks\.csv:2: found position ''"),
        ("query,doc_id,time", " ,d,2026-01-01", r"holds no click that can be used \(1 have"),
        ("query,doc_id,time", "", r"holds no click that can be used"),
        ("query,doc_id,time", "a,d,2026-01-01", r"none of the 1 pairs .* has 2 clicks"),
    ],
)
def test_bad_clicks_are_refused_by_line(tmp_path: Path, head: str, row: str, finding: str) -> None:
    (tmp_path / "clicks.csv").write_text(f"{head}\n{row}\n")
    with pytest.raises(LabelError, match=finding):
        label_clicks(tmp_path / "clicks.csv", min_clicks=2, days=7)


# pool and add ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(swapped: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """b200 active, a100 on standby."""
    monkeypatch.chdir(swapped.root)
    return swapped


BOTH = ("--generation", "active", "--generation", "standby")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def judge(path: Path, score: Callable[[dict[str, str]], str]) -> None:
    rows = [{**row, "score": score(row)} for row in read_csv(path)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_pool_holds_what_either_generation_found_and_says_nothing_of_them(two: World, cli: Cli) -> None:
    two.labels((f"d{n:05d}", f"apple{n} pear{n}") for n in range(9))
    assert cli("pool", "-o", "pool.csv", *BOTH, "-k", "3", "--json") == 0
    rows = read_csv(two.root / "pool.csv")
    assert list(rows[0]) == ["query_id", "query", "doc_id", "text", "judged", "score"]
    labels = load_labels(two.root / "labels")
    generations = [two.generation(role).gen for role in ("active", "standby")]
    by_query: dict[str, list[str]] = {}
    for row in rows:
        by_query.setdefault(row["query_id"], []).append(row["doc_id"])
        assert row["text"] == two.documents.get(row["doc_id"]).text
        assert (row["judged"] == "yes") is (row["doc_id"] in labels.qrels[row["query_id"]])
    for query, text in labels.queries.items():
        wanted = {doc for gen in generations for doc in two.search(text, 3, generation=gen)}
        assert sorted(by_query[query]) == sorted(wanted)
    judged = sum(row["judged"] == "yes" for row in rows)
    assert cli.json == {"file": "pool.csv", "queries": 9, "rows": len(rows), "judged": judged, "seed": 0}
    assert cli("pool", "-o", "other.jsonl", "--generation", "standby", "--generation", "active", "-k", "3") == 0
    again = [json.loads(line) for line in (two.root / "other.jsonl").read_text().splitlines()]
    assert again == rows  # which generation was asked first shows nowhere
    assert cli("pool", "-o", "seeded.csv", *BOTH, "-k", "3", "--seed", "1") == 0
    seeded = read_csv(two.root / "seeded.csv")
    assert seeded != rows
    assert sorted(map(str, seeded)) == sorted(map(str, rows))


def test_a_judged_pool_goes_back_into_the_labels(two: World, cli: Cli) -> None:
    (two.root / "new.jsonl").write_text(
        '{"_id": "n1", "text": "apple7 pear7"}\n{"_id": "q1", "text": "apple1 pear1"}\n'
    )
    before = (two.root / "labels" / "qrels" / "test.tsv").read_text()
    assert cli("pool", "-o", "pool.csv", *BOTH, "-k", "2", "--queries", "new.jsonl") == 0
    assert cli("add", "pool.csv") == UNUSABLE
    assert "holds no judged row" in cli.err
    judge(two.root / "pool.csv", lambda row: {"d00007": "2", "d00001": "1"}.get(row["doc_id"], ""))
    assert cli("add", "pool.csv", "--json") == 0
    rows = read_csv(two.root / "pool.csv")
    given = [row for row in rows if row["score"]]
    added = [row for row in given if row["judged"] == "no"]
    assert cli.json == {
        "folder": str(two.root / "labels"), "rows": len(rows), "added": len(added), "known": len(given) - len(added),
        "empty": len(rows) - len(given), "new_queries": 1, "disputed": 0, "held_back": 0, "agreement": None,
    }  # fmt: skip
    labels = load_labels(two.root / "labels")
    assert labels.qrels["n1"]["d00007"] == 2
    assert labels.queries["n1"] == "apple7 pear7"
    assert labels.qrels["q1"]["d00001"] == 1
    assert (two.root / "labels" / "qrels" / "test.tsv").read_text().startswith(before)
    assert cli("add", "pool.csv", "--json") == 0
    assert (cli.json["added"], cli.json["known"]) == (0, len(given))
    assert load_labels(two.root / "labels") == labels
    assert cli("add", "pool.csv", "--to", "fresh") == 0
    assert load_labels(two.root / "fresh").qrels["n1"]["d00007"] == 2


def test_what_two_judges_said_is_added_with_how_far_they_agree(two: World, cli: Cli) -> None:
    (two.root / "new.jsonl").write_text("".join(f'{{"_id": "n{n}", "text": "apple{n} pear{n}"}}\n' for n in range(3)))
    assert cli("pool", "-o", "pool.jsonl", *BOTH, "-k", "2", "--queries", "new.jsonl") == 0
    batch = JudgedBatch(two.root / "pool.jsonl")
    for judge, odd in (("ada", ""), ("bo", "n1")):
        for query in batch.queries:
            rows = batch.documents(query, judge)
            right = f"d0000{query[1:]}" if query != odd else "none"
            batch.save(judge, query, [ScoreChange(row.document, int(row.document == right), None) for row in rows])
    whole = len(batch.documents("n0", "ada")) + len(batch.documents("n2", "ada"))
    batch.close()
    assert cli("add", "pool.jsonl") == 0
    assert f"Added {whole} judgements and 2 queries to" in cli.out
    assert "On 1 the judges differ" in cli.out
    assert re.search(r"2 judges say the same of (\d+) of \d+ documents \(Krippendorff's alpha 0\.\d\d\)", cli.out)
    labels = load_labels(two.root / "labels")
    assert (labels.qrels["n2"]["d00002"], "n1" in labels.qrels) == (1, False)


def test_what_is_judged_after_the_gate_has_passed_is_added_and_said_not_to_be_in_its_verdict(
    at: World, cli: Cli
) -> None:
    asked = "".join(f'{{"_id": "u{n}", "text": "apple{n} words {n}"}}\n' for n in range(20))
    (at.root / "asked.jsonl").write_text(asked)
    at.settings(queries="asked.jsonl")
    model, gate = 'model = ModelSpec(name="hashing:seed2", dim=64)', "gate = Gate(max_drop=1.0, min_overlap=None)"
    at.revision("b200", "a100", model, gate)
    at.upgrade("b200", to="gate")
    assert cli("next", "-n", "2", "-o", "next.jsonl") == 0
    file, session = at.root / "next.jsonl", open_session(at.root, None)
    judge_all(file)
    passed = kept_result(at.project, "docs")
    done = finish(session, file, at.root / "labels")
    assert kept_result(at.project, "docs").id == passed.id
    assert (done["verdict"], done["added"]["new_queries"]) == ("pass", 2)
    assert done["told"].startswith("This verdict is of before these judgements, which are not in it")


def judge_all(file: Path) -> None:
    batch = JudgedBatch(file)
    for query in batch.queries:
        batch.save("ada", query, [ScoreChange(row.document, 1, None) for row in batch.documents(query, "ada")])
    batch.close()


CONTRADICTIONS = [
    (["q1,apple1 pear1,d00001,0"], r"('q1', 'd00001') is 0 here and 1 at"),
    (["q1,apple1 pear1,d00009,0", "q1,apple1 pear1,d00009,1"], "('q1', 'd00009') is 1 here and 0 above"),
    (["q1,another text,d00009,0"], "query 'q1' is 'another text' here and 'apple1 pear1' elsewhere"),
    (["n1,,d00009,1"], "query 'n1' is '' here"),
    (["q1,apple1 pear1,9,1"], "documents that the collection never had: '9' at judged.csv:2"),
    (["q1,apple1 pear1,d00009,good"], "judged.csv:2: found query_id 'q1', doc_id 'd00009' and score 'good'"),
    (["q1,apple1 pear1"], "judged.csv:2: found 2 fields under 4 columns"),
]


def test_a_pool_that_contradicts_is_refused_as_a_whole(at: World, cli: Cli) -> None:
    before = load_labels(at.root / "labels")
    for rows, finding in CONTRADICTIONS:
        text = "\n".join(["query_id,query,doc_id,score", *rows, "q2,apple2 pear2,d00050,1"])
        (at.root / "judged.csv").write_text(text)
        assert cli("add", "judged.csv") == UNUSABLE
        assert finding in cli.err
        assert load_labels(at.root / "labels") == before


def test_judgements_are_added_to_gzipped_labels_and_to_no_other_form(at: World, cli: Cli) -> None:
    import gzip

    path = at.root / "labels" / "qrels" / "test.tsv"
    path.with_name("test.tsv.gz").write_bytes(gzip.compress(path.read_bytes().rstrip(b"\n")))
    path.unlink()
    (at.root / "judged.jsonl").write_text(
        '{"query_id": "q1", "query": "apple1 pear1", "doc_id": "d00009", "score": 1}\n'
    )
    assert cli("add", "judged.jsonl") == 0
    assert load_labels(at.root / "labels").qrels["q1"] == {"d00001": 1, "d00009": 1}
    twice = '{"query_id": "q1", "query": "apple1 pear1", "doc_id": "d00008", "score": 1, "score": 0}\n'
    (at.root / "twice.jsonl").write_text(twice)
    assert cli("add", "twice.jsonl") == UNUSABLE
    assert "the key 'score' stands twice" in cli.err
    (at.root / "labels.csv").write_text("query_id,query,doc_id,score\nq1,apple1 pear1,d00001,1\n")
    at.settings(qrels="labels.csv")
    assert cli("add", "judged.jsonl") == UNUSABLE
    assert "no folder in BEIR layout" in cli.err


IMPOSSIBLE = [
    ("-o pool.txt", 2, "must end in .csv or .jsonl"),
    ("-o absent/pool.csv", 2, "there is no folder absent"),
    ("-o there.csv", 2, "exists, and may hold judgements"),
    ("-o pool.csv", 2, "generation 'building' was asked for; there are: active 1"),
    ("-o pool.csv --generation 99", 4, "generation 99 of 'docs' is in no slot"),
    ("-o pool.csv --queries other.jsonl --generation active", UNUSABLE, "have another text in the labels"),
]


def test_a_pool_that_cannot_be_is_refused(at: World, cli: Cli) -> None:
    (at.root / "there.csv").touch()
    (at.root / "other.jsonl").write_text('{"_id": "q1", "text": "another text"}\n')
    for words, code, finding in IMPOSSIBLE:
        assert cli("pool", *words.split()) == code, words
        assert finding in cli.err
    assert not (at.root / "pool.csv").exists()


def test_no_cell_of_a_pool_is_a_formula_and_ids_come_back_as_they_were(at: World, cli: Cli) -> None:
    at.documents.put("=1+1", "=HYPERLINK() apple")
    at.settle()
    (at.root / "new.jsonl").write_text('{"_id": "-q", "text": "=HYPERLINK() apple"}\n')
    assert cli("pool", "-o", "pool.csv", "--generation", "active", "--queries", "new.jsonl") == 0
    rows = read_csv(at.root / "pool.csv")
    assert not [cell for row in rows for cell in row.values() if cell[:1] in set("=+-@")]
    judge(at.root / "pool.csv", lambda row: "1" if row["doc_id"] == "'=1+1" else "")
    assert cli("add", "pool.csv") == 0
    assert load_labels(at.root / "labels").qrels["-q"] == {"=1+1": 1}
    assert load_labels(at.root / "labels").queries["-q"] == "=HYPERLINK() apple"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_every_cell_comes_back_from_a_file_as_it_was(tmp_path: Path, ending: str) -> None:
    odd = ["=1", "'=1", "''-x", "'plain", "-", "@a,b", '"', "007", " a "]
    rows = [
        {"query_id": one, "query": one, "doc_id": one, "text": "two\nlines", "judged": "no", "score": "-1"}
        for one in odd
    ]
    write_pool(tmp_path / f"pool.{ending}", rows)
    pool = read_pool(tmp_path / f"pool.{ending}")
    assert [(row.query, row.text, row.document, row.score) for row in pool.rows] == [(one, one, one, -1) for one in odd]
    assert pool.empty == 0


def test_the_example_of_a_right_row_is_right(tmp_path: Path) -> None:
    (tmp_path / "pool.csv").write_text(f"query_id,query,doc_id,text,judged,score\n{EXAMPLE}\n")
    assert [(row.document, row.score) for row in read_pool(tmp_path / "pool.csv").rows] == [("d7", 1)]


# sample ---------------------------------------------------------------------------------------------------------------


def several_languages(at: World) -> None:
    """60 labelled queries: 40 in English, 19 in German, one in Thai."""
    path = at.root / "labels" / "queries.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    languages = ["en"] * 40 + ["de"] * 19 + ["th"]
    told = (row | {"metadata": {"lang": one}} for row, one in zip(rows, languages, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in told))


def test_a_sample_keeps_the_shares_of_a_field_and_what_is_known_of_its_queries(at: World, cli: Cli) -> None:
    several_languages(at)
    assert cli("sample", "-o", "few", "--queries", "15", "--by", "lang", "--json") == 0
    assert {one: part["drawn"] for one, part in cli.json["parts"].items()} == {"en": 9, "de": 5, "th": 1}
    whole, few = load_labels(at.root / "labels"), load_labels(at.root / "few")
    assert few.queries.items() <= whole.queries.items()
    assert few.qrels.items() <= whole.qrels.items()
    assert few.meta.items() <= whole.meta.items()
    assert cli("check", "few") == 0
    at.settings(canary="few")
    assert at.project.canary("docs").queries == 15


def test_a_seed_decides_and_a_larger_sample_holds_the_smaller_one(at: World, cli: Cli) -> None:
    for out, count, seed in (("a", 20, 1), ("b", 20, 1), ("c", 20, 2), ("d", 30, 1)):
        assert cli("sample", "-o", out, "--queries", str(count), "--seed", str(seed)) == 0
    a, b, c, d = (load_labels(at.root / name) for name in "abcd")
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.queries.items() < d.queries.items()


def test_queries_whose_documents_are_gone_are_not_drawn(at: World, cli: Cli) -> None:
    at.documents.delete("d00007")
    assert cli("sample", "-o", "all", "--queries", "60") == UNUSABLE
    assert "has 59 with a relevant document that exists" in cli.err
    assert cli("sample", "-o", "all", "--queries", "59") == 0
    assert "q7" not in load_labels(at.root / "all").queries


def test_a_sample_that_cannot_be_drawn_writes_nothing(at: World, cli: Cli) -> None:
    several_languages(at)
    for words, finding in (
        (("--by", "tenant", "--queries", "9"), "none of 60 queries has that field, they have: lang"),
        (("--by", "lang", "--queries", "2"), "it has 3"),
        (("--queries", "600"), "ask for 1 to 60"),
    ):
        assert cli("sample", "-o", "few", *words) == UNUSABLE
        assert finding in " ".join(cli.err.split())
        assert not (at.root / "few").exists()
