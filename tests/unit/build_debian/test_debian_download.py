from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Protocol

import pytest

from contain.build.debian.download import Amounts, ArchiveClient
from contain.errors import IntegrityError, NotFound, RegistryError
from contain.progress import Silent

DATA = b"a package" * 100_000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Archive(Protocol):
    """What ``conftest`` serves on loopback."""

    files: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]]
    asked: list[str]
    address: str


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.amounts: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def amount(self, label: str, done: int, total: int | None) -> None:
        self.amounts.append(done)


@pytest.fixture
def opened(archive: Archive, tmp_path: Path) -> Iterator[Callable[..., ArchiveClient]]:
    clients: list[ArchiveClient] = []

    def make(*mirrors: str, proxies: Mapping[str, str] | None = None, progress: Silent | None = None) -> ArchiveClient:
        client = ArchiveClient(
            mirrors or (archive.address,), tmp_path / "cache", environ={}, proxies=proxies or {}, progress=progress or Silent()
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


Opened = Callable[..., ArchiveClient]


def test_a_promised_file_is_fetched_once_and_then_comes_from_the_cache(archive: Archive, opened: Opened) -> None:
    archive.files["pool/x+1~2.deb"] = DATA
    for _ in range(2):
        assert opened().promised(["pool/x+1~2.deb"], sha256=SHA256, size_bytes=len(DATA)) == DATA
    assert archive.asked == ["/debian/pool/x+1~2.deb"]


def test_a_damaged_cache_is_not_believed(archive: Archive, opened: Opened, tmp_path: Path) -> None:
    archive.files["pool/x.deb"] = DATA
    opened().promised(["pool/x.deb"], sha256=SHA256, size_bytes=len(DATA))
    (tmp_path / "cache" / SHA256).write_bytes(b"A" + DATA[1:])
    assert opened().promised(["pool/x.deb"], sha256=SHA256, size_bytes=len(DATA)) == DATA
    assert len(archive.asked) == 2


@pytest.mark.parametrize("sent", [b"A" + DATA[1:], DATA[:-1], DATA + b"x", b""])
def test_other_bytes_than_promised_are_refused_and_not_kept(
    archive: Archive, opened: Opened, tmp_path: Path, sent: bytes
) -> None:
    archive.files["pool/x.deb"] = sent
    with pytest.raises(IntegrityError) as caught:
        opened().promised(["pool/x.deb"], sha256=SHA256, size_bytes=len(DATA))
    assert caught.value.code == "debian-digest"
    assert not [*tmp_path.glob("cache/*")]


def test_an_endless_answer_is_cut_off(archive: Archive, opened: Opened) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    archive.files["pool/x.deb"] = endless
    with pytest.raises(IntegrityError, match="longer than"):
        opened().promised(["pool/x.deb"], sha256=SHA256, size_bytes=len(DATA))


def test_a_body_that_breaks_off_is_asked_for_again(archive: Archive, opened: Opened) -> None:
    def broken(handler: BaseHTTPRequestHandler) -> None:
        archive.files["pool/x.deb"] = DATA
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:5000])
        handler.close_connection = True

    archive.files["pool/x.deb"] = broken
    progress = Notes()
    amounts = Amounts(progress, "packages", len(DATA))
    assert opened().promised(["pool/x.deb"], sha256=SHA256, size_bytes=len(DATA), amounts=amounts) == DATA
    assert progress.amounts[-1] == len(DATA)


def test_the_second_path_is_tried_when_the_first_does_not_exist(archive: Archive, opened: Opened) -> None:
    archive.files["dists/x/Packages.xz"] = DATA
    assert opened().promised(["dists/x/by-hash/SHA256/0", "dists/x/Packages.xz"], sha256=SHA256, size_bytes=len(DATA)) == DATA
    with pytest.raises(NotFound):
        opened().promised(["dists/x/none"], sha256="0" * 64, size_bytes=1)


def test_the_first_mirror_that_has_the_suite_is_used(archive: Archive, opened: Opened) -> None:
    archive.files["dists/bookworm/InRelease"] = b"signed"
    progress = Notes()
    client = opened(archive.address + "-none", archive.address, progress=progress)
    assert client.read_inrelease("bookworm") == b"signed"
    assert client.mirror == archive.address
    assert progress.notes == [f"{archive.address}-none has no bookworm for us, trying {archive.address}"]


def test_a_suite_that_no_mirror_has_is_not_found(opened: Opened) -> None:
    with pytest.raises(NotFound):
        opened().read_inrelease("bookworm")


def test_a_refusal_names_the_status_and_the_address(archive: Archive, opened: Opened) -> None:
    def forbidden(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(403)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    archive.files["dists/bookworm/InRelease"] = forbidden
    with pytest.raises(RegistryError, match=r"answered 403 to http://127\.0\.0\.1.*InRelease") as caught:
        opened().read_inrelease("bookworm")
    assert not caught.value.retryable


def test_an_apt_proxy_of_the_host_is_used(archive: Archive, opened: Opened) -> None:
    archive.files["http://mirror.example/debian/dists/bookworm/InRelease"] = b"through the proxy"
    client = opened("http://mirror.example/debian", proxies={"http": archive.address.removesuffix("/debian")})
    assert client.read_inrelease("bookworm") == b"through the proxy"


def test_amounts_of_several_threads_add_up() -> None:
    progress = Notes()
    amounts = Amounts(progress, "packages", 400)

    def work() -> None:
        for _ in range(100):
            amounts.add(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.amounts == [*range(1, 401)]
