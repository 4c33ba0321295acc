"""Images of a source: files of its folder, bytes in a column, addresses; each that cannot be had says why."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from revector.errors import DocumentError, SourceError
from revector.formats.images import ImageLimits
from revector.interfaces import Document
from revector.sources import located, open_source
from revector.sources.fetching import Fetcher, is_public

DATA = b"bytes of an image"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with two images, beside a file that is none of it."""
    folder = tmp_path / "album"
    (folder / "trip").mkdir(parents=True)
    (folder / "a.JPG").write_bytes(DATA)
    (folder / "trip" / "b.png").write_bytes(DATA + b"2")
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder


def data_of(document: Document) -> bytes:
    assert document.image is not None
    return document.image() if callable(document.image) else document.image


def lines(folder: Path, *records: dict[str, object]) -> list[Document]:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": str(n), **one}) + "\n" for n, one in enumerate(records)))
    return list(open_source(str(path), image_field="image", images=ImageLimits(mib=1)))


def test_files_of_the_folder_are_read_and_what_is_metadata_is_none_of_it(album: Path) -> None:
    one, nested, without = lines(
        album, {"image": "a.JPG", "lang": "en"}, {"text": "b", "metadata": {"image": "trip/b.png"}}, {"text": "c"}
    )
    assert (one.text, one.meta, data_of(one)) == (None, {"lang": "en"}, DATA)
    assert (nested.text, nested.meta, data_of(nested)) == ("b", {}, DATA + b"2")
    assert without.image is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret.png", "is not in .*album, the folder of the source"),
        ("/etc/passwd", "is not in .*album"),
        ("link.png", "is not in .*album"),
        ("absent.png", "cannot be read in .*album"),
        ("trip", "cannot be read in .*album"),
        ("nul\0.png", "cannot be read|null"),
    ],
)
def test_no_file_outside_of_the_folder_is_read(album: Path, name: str, said: str) -> None:
    (album / "link.png").symlink_to(album.parent / "secret.png")
    [document] = lines(album, {"image": name})
    with pytest.raises(DocumentError, match=said):
        data_of(document)


def test_of_a_large_file_one_byte_more_than_is_allowed_is_read(album: Path) -> None:
    (album / "large.png").write_bytes(b"\0" * (3 << 20))
    [document] = lines(album, {"image": "large.png"})
    assert len(data_of(document)) == (1 << 20) + 1


def test_bytes_in_parquet_are_images_plain_and_as_hugging_face_has_them(album: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = pa.table({"_id": ["1", "2"], "image": pa.array([DATA, None], pa.binary())})
    struct = pa.table({"_id": ["1", "2"], "image": [{"bytes": DATA, "path": "x"}, {"bytes": None, "path": "a.JPG"}]})
    for table, second in ((plain, None), (struct, DATA)):
        pq.write_table(table, album / "x.parquet")
        documents = list(open_source(str(album / "x.parquet"), image_field="image"))
        assert data_of(documents[0]) == DATA
        assert (documents[1].image if second is None else data_of(documents[1])) == second


def test_a_folder_of_images_is_a_source_and_paths_are_ids(album: Path) -> None:
    documents = list(open_source(f"images:{album}"))
    assert [one.id for one in documents] == ["a.JPG", "trip/b.png"]
    assert [data_of(one) for one in documents] == [DATA, DATA + b"2"]
    assert located("images:album", album.parent) == f"images:{album}"
    with pytest.raises(SourceError, match="does not exist"):
        open_source("images:/nowhere")


def test_an_image_field_of_another_type_or_that_is_absent_refuses_the_source(album: Path) -> None:
    with pytest.raises(SourceError, match=r"line 1: the image field 'image' holds int"):
        lines(album, {"image": 7})
    (album / "x.csv").write_text("_id,text\n1,a\n")
    with pytest.raises(SourceError, match="image field 'photo' is missing"):
        list(open_source(str(album / "x.csv"), image_field="photo"))
    [document] = lines(album, {"image": {"bytes": None, "path": None}, "text": "x"})
    assert document.image is None


# Addresses ------------------------------------------------------------------------------------------------------------


@contextmanager
def answering(**answers: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on loopback that answers each path by a function."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers[self.path.strip("/").partition("?")[0]](self)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def body(data: bytes, handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(data)


def to(place: str, handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", place)
    handler.end_headers()


def status(code: int, handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(code)
    handler.end_headers()


PRIVATE = "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 224.0.0.1 255.255.255.255"
BEHIND = "::1 :: fe80::1%eth0 fd00::1 ff02::1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1::"


@pytest.mark.parametrize("address", [*PRIVATE.split(), *BEHIND.split()])
def test_addresses_of_networks_that_are_not_public_are_told(address: str) -> None:
    assert not is_public(address)


def test_a_private_address_is_refused_by_number_and_by_name_and_nothing_is_asked() -> None:
    with answering() as url:
        for place in (url, url.replace("127.0.0.1", "localhost"), "http://2130706433/"):
            with pytest.raises(DocumentError, match=r"leads to .*, which is no public address"):
                Fetcher(99)(place)
    for place in ("http:///x", "ftp://example.org/x", "http://[::1"):
        with pytest.raises(DocumentError, match=r"no http or https address|cannot be fetched"):
            Fetcher(99)(place)


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    public = {"127.0.0.1"}  # plays the internet here
    fetch = Fetcher(99, allowed=public.__contains__)
    with answering(a=partial(to, "http://10.0.0.1/x"), b=partial(to, "file:///etc/passwd")) as url:
        with pytest.raises(DocumentError, match=r"leads to 10\.0\.0\.1"):
            fetch(f"{url}/a")
        with pytest.raises(DocumentError, match="no http or https address"):
            fetch(f"{url}/b")
    # A name with one private address among others.
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(DocumentError, match=r"leads to 10\.0\.0\.1"):
        fetch("http://two.example/x")


def test_a_name_is_looked_up_once_and_its_address_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, look_up = iter(("127.0.0.1", "10.0.0.1")), socket.getaddrinfo

    def changing(host: str, *rest: Any, **named: Any) -> Any:
        return look_up(next(answers) if host == "images.example" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    with answering(x=partial(body, DATA)) as url:
        place = url.replace("127.0.0.1", "images.example")
        assert Fetcher(99, allowed=lambda _: True)(f"{place}/x") == DATA
    assert next(answers) == "10.0.0.1"


def test_an_address_that_cannot_be_reached_is_followed_by_the_next_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(x=partial(body, DATA)) as url:
        port = int(url.rpartition(":")[2])
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("127.0.0.9", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: found if host == "two.example" else found[1:])
        connect, tried = socket.create_connection, list[str]()

        def connecting(place: tuple[str, int], timeout: float | None) -> socket.socket:
            tried.append(place[0])
            if place[0] == "127.0.0.9":
                raise OSError("no route to host")
            return connect(place, timeout)

        monkeypatch.setattr(socket, "create_connection", connecting)
        assert Fetcher(99, allowed=lambda _: True)(f"http://two.example:{port}/x") == DATA
        assert tried == ["127.0.0.9", "127.0.0.1"]


def test_what_an_address_answers_is_bounded_and_an_answer_that_is_none_is_said() -> None:
    fetch = Fetcher(10, allowed=lambda _: True)
    answers: dict[str, Any] = {"x": partial(body, DATA), "gone": partial(status, 404), "round": partial(to, "/round")}
    with answering(**answers, away=partial(to, "/x?size=2")) as url:
        assert fetch(f"{url}/x") == DATA[:11]
        assert fetch(f"{url}/away") == DATA[:11]
        for path, said in (("gone", "answered 404"), ("round", "redirected more than 5 times")):
            with pytest.raises(DocumentError, match=said):
                fetch(f"{url}/{path}")
    with pytest.raises(DocumentError, match="cannot be fetched: ConnectionRefusedError"):
        fetch(f"{url}/x")
