"""Images over HTTP and on the command line: documents that hold one, and searches by one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="the images extra is not installed")

from pictures import ColourEncoder, image
from revector.cli import run
from revector.config import Project
from revector.indexing.encoding import Encoders
from services import SEARCH, UPLOAD, refused, serve
from worlds import World

BY_IMAGE = f"{SEARCH}/image"
PNG = {"content-type": "image/png"}


@pytest.fixture
def gallery(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Served by a model of texts and images: two documents with an image, and 60 without."""
    monkeypatch.setattr(Project, "load_encoder", lambda _self, model: ColourEncoder(model))
    world.__dict__.pop("project", None)
    world.project.__dict__["encoders"] = Encoders(ColourEncoder)
    world.put(60)
    world.documents.put("rose", "a flower of the garden", {"kind": "plant"}, image=image("red"))
    world.documents.put("sky", None, image=image("blue"))
    world.upgrade("a100")
    return world


def found(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 200, answer.text
    return [(hit["id"], hit["kind"]) for hit in answer.json()["hits"]]


def test_an_image_is_the_body_of_a_search(gallery: World) -> None:
    with serve(gallery.project) as client:
        asked = {"content": image("blue", (9, 9), format="WEBP"), "headers": {"content-type": "image/webp"}}
        assert found(client.post(BY_IMAGE, params={"k": 1}, **asked)) == [("sky", "image")]
        where = json.dumps({"kind": "plant"})
        assert found(client.post(BY_IMAGE, params={"k": 1, "where": where}, **asked))[0][0] == "rose"
        assert found(client.post(SEARCH, json={"query": "red", "k": 1})) == [("rose", "image")]
        assert found(client.post(SEARCH, json={"query": "garden", "k": 1})) == [("rose", "text")]


def test_a_search_by_what_is_no_image_or_by_a_large_one_is_refused(gallery: World) -> None:
    gallery.project.settings.max_image_mib = 1
    with serve(gallery.project) as client:
        said = refused(client.post(BY_IMAGE, content=b"no image", headers=PNG), 422, "QueryRefused")
        assert "can be read as none of JPEG" in said
        said = refused(client.post(BY_IMAGE, content=b"\0" * ((1 << 20) + 1), headers=PNG), 413, "TooLarge")
        assert "1,048,576 bytes" in said
        for where in ("{oops", "[1]"):
            answer = client.post(BY_IMAGE, params={"where": where}, content=image("red"), headers=PNG)
            assert "where must be a JSON object" in answer.text
            assert answer.status_code == 422


def test_a_model_of_texts_refuses_to_be_asked_by_an_image(served: World) -> None:
    with serve(served.project) as client:
        assert "embeds text alone" in refused(
            client.post(BY_IMAGE, content=image("red"), headers=PNG), 422, "QueryRefused"
        )


def test_a_document_comes_with_its_image_alone_and_in_an_upload(gallery: World) -> None:
    packed = base64.b64encode(image("green")).decode()
    line = json.dumps({"id": "leaf", "text": "", "image": packed})
    with serve(gallery.project) as client:
        path = f"{UPLOAD}/grass"
        assert client.put(path, json={"text": "what grows", "image": packed}).json()["changed"]
        report = client.post(UPLOAD, content=f"{line}\n", headers={"content-type": "application/x-ndjson"})
        assert report.json()["written"] == 1
        assert client.get(path).json()["image"] is not None
        torn = base64.b64encode(image("green")[:70]).decode()
        assert "damaged or not whole" in client.put(path, json={"text": "what grows", "image": torn}).text
        assert client.put(path, json={"text": "what grows", "image": "no base64!"}).status_code == 422
        gallery.settle()
        assert {*found(client.post(SEARCH, json={"query": "green", "k": 2}))} == {("grass", "image"), ("leaf", "image")}


def test_the_command_line_stores_ingests_and_asks_by_images(
    gallery: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str]:
        code = run([*words, "--project", str(gallery.root)])
        said = capsys.readouterr()
        return code, said.out + said.err

    album = tmp_path / "album"
    album.mkdir()
    (album / "sun.png").write_bytes(image("yellow"))
    (album / "torn.png").write_bytes(b"\x89PNG")
    assert call("document", "put", "lemon", "--image", str(album / "sun.png"))[0] == 0
    code, said = call("ingest", f"images:{album}")
    assert (code, "1 written" in said, "torn.png: The image begins with" in said) == (0, True, True)
    gallery.settle()
    code, said = call("search", "--image", str(album / "sun.png"), "-k", "2")
    assert code == 0
    assert said.count("(its image)") == 2
    assert "sun.png" in said
    assert "image" in call("document", "get", "lemon")[1]
    for words in (("search",), ("search", "a", "--image", "b"), ("search", "--image", str(album / "absent.png"))):
        assert call(*words)[0] == 2
