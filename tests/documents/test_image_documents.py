"""Documents that hold an image: written, refused, embedded, served, changed, moved and verified as texts are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("PIL", reason="the images extra is not installed")

from pictures import COLOURS, ColourEncoder, image
from revector.documents.documents import Documents
from revector.errors import DocumentError, QueryRefused
from revector.indexing.encoding import Encoders
from revector.interfaces import Document
from revector.registry.contents import sweep_images
from revector.spec import ModelSpec
from revector.verify import readback
from worlds import World


@pytest.fixture
def encoders() -> dict[str, ColourEncoder]:
    return {}


@pytest.fixture
def gallery(world: World, encoders: dict[str, ColourEncoder]) -> World:
    """A collection that a model of texts and images serves: colours alone, and beside texts."""

    def load(model: ModelSpec) -> ColourEncoder:
        return encoders.setdefault(model.name, ColourEncoder(model))

    world.project.__dict__["encoders"] = Encoders(load)
    world.put(60)
    world.documents.put_many([Document(name, None, {"colour": name}, image=image(name)) for name in COLOURS])
    world.documents.put("rose", "a flower of the garden", image=image("red", (50, 50)))
    world.upgrade("a100")
    return world


def hits(world: World, query: str | bytes, **options: Any) -> list[tuple[str, str | None]]:
    found = world.project.searcher("docs").search(query, 2, **options).hits
    return [(hit.id, hit.kind) for hit in found]


def verified(world: World) -> list[list[str]]:
    return [found.reasons for found in world.project.verify("docs", actor="tester").generations]


def test_images_are_found_by_text_and_by_image_and_say_that_they_matched(gallery: World) -> None:
    assert {*hits(gallery, "red")} == {("red", "image"), ("rose", "image")}
    assert {*hits(gallery, image("red", (7, 9), format="JPEG"))} == {("red", "image"), ("rose", "image")}
    assert hits(gallery, "flower garden")[0] == ("rose", "text")
    [hit] = gallery.project.searcher("docs").search("blue", 1).hits
    assert (hit.chunk, hit.start, hit.stop, hit.text) == (0, 0, 1, "")
    chunks = gallery.project.searcher("docs").search("red", 3, by="chunk", where={"colour": "red"}).hits
    assert [(one.id, one.kind) for one in chunks] == [("red", "image")]
    assert verified(gallery) == [[]]


def test_a_changed_image_is_a_changed_document_and_the_same_bytes_are_none(gallery: World) -> None:
    documents, before = gallery.documents, gallery.documents.get("rose")
    assert before is not None
    assert documents.put("rose", "a flower of the garden", image=image("red", (50, 50))).changed == 0
    assert documents.put("rose", "a flower of the garden", image=image("yellow", (50, 50))).changed == 1
    [stale] = gallery.project.searcher("docs").search("garden flower", 1).hits
    assert (stale.id, stale.kind, stale.text) == ("rose", None, "a flower of the garden")
    gallery.settle()
    assert ("rose", "image") in hits(gallery, "yellow")
    assert ("rose", "image") not in hits(gallery, "red")
    assert documents.image_of("rose") == image("yellow", (50, 50))
    assert verified(gallery) == [[]]


def test_an_image_that_is_swept_while_it_is_verified_is_no_fault(
    gallery: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, swept = readback.read_shown, list[int]()

    def reading(*asked: Any) -> list[readback.ShownDocument]:
        shown = read(*asked)
        if not swept:
            gallery.documents.put("blue", None, image=image("blue", (9, 9)))
            gallery.settle()
            swept.append(sweep_images(gallery.project.engine))
        return shown

    monkeypatch.setattr(readback, "read_shown", reading)
    assert verified(gallery) == [[]]
    assert swept == [1]


def test_a_write_without_the_image_takes_it_away_by_every_door(gallery: World) -> None:
    writes: dict[str, Callable[[], object]] = {
        "put": lambda: gallery.documents.put("rose", "a flower of the garden"),
        "sql": lambda: gallery.sql("SELECT revector.put('docs', 'rose', 'a flower of the garden')"),
        "delete": lambda: gallery.documents.delete("rose"),
    }
    for write in writes.values():
        gallery.documents.put("rose", "a flower of the garden", image=image("red", (50, 50)))
        write()
        gallery.settle()
        assert gallery.documents.image_of("rose") is None
        assert hits(gallery, "red")[0] == ("red", "image")
        assert ("rose", "image") not in hits(gallery, "red")
    assert verified(gallery) == [[]]


def test_images_are_written_twice_backfilled_verified_and_rolled_back_as_texts_are(
    gallery: World, encoders: dict[str, ColourEncoder]
) -> None:
    gallery.upgrade("b200", to="backfill")
    gallery.documents.put("sky", None, image=image("blue", (8, 8)))
    gallery.settle()
    assert len({*encoders["hashing:seed2"].seen}) >= len(COLOURS) + 2  # and those of the probes
    gallery.upgrade("b200")
    assert {*hits(gallery, image("blue"))} == {("blue", "image"), ("sky", "image")}
    assert verified(gallery) == [[], []]
    gallery.migrator.rollback(reason="a test")
    assert {*hits(gallery, "blue")} == {("blue", "image"), ("sky", "image")}


def test_a_vector_that_is_not_that_of_its_image_is_seen(gallery: World) -> None:
    gallery.documents.put("sky", None, image=image("blue"))
    gallery.settle()
    table = gallery.generation().physical_name
    gallery.sql(
        f"UPDATE {table} SET embedding = (SELECT embedding FROM {table} WHERE doc_id = 'red') WHERE doc_id = 'sky'"
    )
    [[wrong]] = verified(gallery)
    assert "1 documents are damaged (sky: chunk 0 has cosine" in wrong
    gallery.sql(f"UPDATE {table} SET stop = 2 WHERE doc_id = 'sky'")
    assert "offsets outside the text" in verified(gallery)[0][0]


def test_no_database_holds_an_image_under_another_hash_nor_a_document_without_its_bytes(gallery: World) -> None:
    for statement in (
        "INSERT INTO image VALUES (repeat('0', 64), '\\x00')",
        "UPDATE document SET image = repeat('0', 64) WHERE doc_id = 'rose'",
        "DELETE FROM image",
        "TRUNCATE image CASCADE",
    ):
        with pytest.raises(Exception, match=r"an_image_is_its_hash|violates foreign key|not allowed"):
            gallery.sql(statement)


def test_images_that_no_document_holds_are_swept_and_others_are_not(gallery: World) -> None:
    assert sweep_images(gallery.engine) == 0
    gallery.documents.put("copy", None, image=image("green"))
    gallery.documents.delete_many(["green", "blue"])
    assert sweep_images(gallery.engine) == 1
    assert gallery.documents.image_of("copy") == image("green")


def test_a_model_of_texts_leaves_images_out_and_says_so_where_nothing_is_left(served: World) -> None:
    served.documents.put("rose", "a flower of the garden", image=image("red"))
    served.documents.put("red", None, image=image("red"))
    served.settle()
    assert hits(served, "flower garden")[0] == ("rose", "text")
    [(doc_id, reason)] = [(one.doc_id, one.last_error) for one in served.sql("SELECT doc_id, last_error FROM pending")]
    assert doc_id == "red"
    assert "holds image, in which model 'hashing' finds nothing to embed: it embeds text" in reason
    with pytest.raises(QueryRefused, match="embeds text alone"):
        hits(served, image("red"))


def test_a_query_that_is_no_image_is_refused_in_words_of_a_query(gallery: World) -> None:
    with pytest.raises(QueryRefused, match=r"can be read as none of .*\. Nothing was searched"):
        hits(gallery, b"no image")


def test_an_image_that_cannot_be_stored_is_a_dead_letter_and_nothing_of_its_document_is_written(world: World) -> None:
    documents: Documents = world.documents
    with pytest.raises(DocumentError, match="damaged or not whole"):
        documents.put("torn", "its text", image=image("red", (99, 99))[:-30])
    _, refused = documents.put_valid(
        [Document("torn", "its text", image=image("red", (99, 99))[:-30]), Document("whole", None, image=image("red"))],
        "app",
    )
    assert "damaged or not whole" in refused["torn"]
    assert documents.known(["torn", "whole"]) == {"whole"}


def test_a_source_with_images_is_read_in_pages_that_are_no_larger_than_their_images(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Album:
        name = "album"

        def __iter__(self) -> Any:
            yield Document("torn", None, image=b"\xff\xd8\xff\xe0")
            yield Document("lost", None, image=lost)
            yield from (
                Document(f"p{n}", None, image=lambda n=n: image("red", (n + 5, 5), format="BMP")) for n in range(9)
            )

    def lost() -> bytes:
        raise DocumentError("The image cannot be had.")

    monkeypatch.setattr("revector.documents.ingesting.BATCH_MIB", 0)  # one image a page
    report = world.documents.ingest(Album(), actor="tester")
    assert (report.read, report.written, report.rejected) == (11, 9, 2)
    assert report.reasons["lost"] == "The image cannot be had."
    assert world.documents.image_of("p8") == image("red", (13, 5), format="BMP")
    assert world.documents.ingest(Album(), actor="tester").unchanged == 9


def test_a_migration_is_rehearsed_with_the_images_of_its_sample(gallery: World) -> None:
    report = gallery.project.rehearsal("docs", actor="tester").run("b200", share=1.0)
    assert (report.refusals, report.dead_letters, report.verify.passed) == ((), 0, True)
    assert sweep_images(gallery.engine) == 0


def test_a_plan_says_what_becomes_of_the_images(gallery: World, encoders: dict[str, ColourEncoder]) -> None:
    assert "5 images are embedded too, which time and tokens above do not count" in gallery.migrator.plan("b200").risks
    gallery.project.__dict__["encoders"] = Encoders(gallery.loader)
    [said] = [one for one in gallery.migrator.plan("b200").risks if "hold an image" in one]
    assert said.endswith("1 are found by their text alone, 4 become dead letters")
