from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from contain.build.fetch.url import check_digest, fetch_url, name_of_url, parse_http_time
from contain.errors import IntegrityError, NotFound, RegistryError, UsageError
from contain.progress import Silent
from contain.store import Store

CONTENT = b"content1"
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
WHEN = "Wed, 01 Jan 1997 00:00:00 GMT"


class Server:
    """Answers on loopback, and remembers what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, headers, body = outer.pages.get(self.path, (404, {}, b"none"))
                if headers.get("ETag") and self.headers.get("If-None-Match") == headers["ETag"]:
                    status, body = 304, b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers and status != 304:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_the_content_becomes_a_blob_and_its_time_is_what_the_server_says(server: Server, store: Store) -> None:
    server.pages["/dir/foo.tar?x=1"] = (200, {"Last-Modified": WHEN}, CONTENT)
    found = fetch_url(f"{server.url}/dir/foo.tar?x=1#part", store=store, progress=Silent())
    assert (found.name, found.digest, found.size_bytes, found.fresh) == ("foo.tar", DIGEST, 8, True)
    assert found.modified_seconds == 852076800
    assert store.read_blob(DIGEST) == CONTENT


def test_an_unchanged_file_is_asked_about_and_not_downloaded(server: Server, store: Store) -> None:
    server.pages["/foo"] = (200, {"ETag": '"one"', "Last-Modified": WHEN}, CONTENT)
    first = fetch_url(f"{server.url}/foo", store=store, progress=Silent())
    assert store.read_blob(first.digest) == CONTENT
    assert first.modified_seconds == 852076800
    second = fetch_url(f"{server.url}/foo", store=store, progress=Silent())
    assert (first.fresh, second.fresh, second.digest) == (True, False, DIGEST)
    assert server.asked[1][1]["if-none-match"] == '"one"'
    assert server.asked[1][1]["if-modified-since"] == WHEN
    assert server.asked[0][1]["accept-encoding"] == "identity"


def test_a_changed_file_is_downloaded_again(server: Server, store: Store) -> None:
    server.pages["/foo"] = (200, {"ETag": '"one"'}, CONTENT)
    fetch_url(f"{server.url}/foo", store=store, progress=Silent())
    server.pages["/foo"] = (200, {"ETag": '"two"'}, b"other")
    assert (
        fetch_url(f"{server.url}/foo", store=store, progress=Silent()).digest
        == "sha256:" + hashlib.sha256(b"other").hexdigest()
    )


def test_with_a_checksum_what_is_here_is_not_asked_about(server: Server, store: Store) -> None:
    server.pages["/foo"] = (200, {}, CONTENT)
    fetch_url(f"{server.url}/foo", store=store, progress=Silent(), checksum=DIGEST)
    server.pages["/foo"] = (200, {}, b"moved on")
    assert fetch_url(f"{server.url}/foo", store=store, progress=Silent(), checksum=DIGEST).digest == DIGEST
    assert len(server.asked) == 1
    fetch_url(f"{server.url}/foo", store=store, progress=Silent())
    assert fetch_url(f"{server.url}/foo", store=store, progress=Silent(), checksum=DIGEST).digest == DIGEST
    assert len(server.asked) == 2


def test_a_mismatch_names_both_digests_and_keeps_nothing(server: Server, store: Store) -> None:
    server.pages["/foo"] = (200, {}, CONTENT)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(IntegrityError) as caught:
        fetch_url(f"{server.url}/foo", store=store, progress=Silent(), checksum=wrong)
    assert caught.value.code == "checksum-mismatch"
    assert wrong in str(caught.value)
    assert DIGEST in str(caught.value)
    assert not store.has_blob(DIGEST)


def test_a_file_that_does_not_exist_is_not_found(server: Server, store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        fetch_url(f"{server.url}/nope", store=store, progress=Silent())
    assert caught.value.code == "url-not-found"
    assert "404" in str(caught.value)


def test_a_server_that_fails_is_asked_again_and_then_named(server: Server, store: Store) -> None:
    server.pages["/foo"] = (503, {}, b"")
    waits: list[float] = []
    with pytest.raises(RegistryError) as caught:
        fetch_url(f"{server.url}/foo", store=store, progress=Silent(), pause=waits.append)
    assert caught.value.code == "url-failed"
    assert len(server.asked) == len(waits) + 1 > 1


def test_a_server_that_is_not_there_is_named(server: Server, store: Store) -> None:
    url = server.url
    server.close()
    server.close = lambda: None  # type: ignore[method-assign]
    with pytest.raises(RegistryError) as caught:
        fetch_url(f"{url}/foo", store=store, progress=Silent(), pause=lambda _: None)
    assert caught.value.code == "url-unreachable"


def test_a_body_that_breaks_off_is_an_error_and_keeps_nothing(server: Server, store: Store) -> None:
    server.pages["/foo"] = (200, {"Content-Length": "100", "Connection": "close"}, CONTENT)
    with pytest.raises(IntegrityError) as caught:
        fetch_url(f"{server.url}/foo", store=store, progress=Silent())
    assert caught.value.code == "url-broken-off"
    assert not store.has_blob(DIGEST)


def test_a_redirect_is_followed_without_the_password_when_it_leads_elsewhere(server: Server, store: Store) -> None:
    other = Server()
    try:
        server.pages["/foo"] = (302, {"Location": f"{other.url}/bar"}, b"")
        other.pages["/bar"] = (200, {}, CONTENT)
        url = server.url.replace("://", "://me:secret@")
        found = fetch_url(f"{url}/foo", store=store, progress=Silent())
    finally:
        other.close()
    assert found.name == "foo"
    assert "secret" not in found.url
    assert server.asked[0][1]["authorization"] == "Basic bWU6c2VjcmV0"
    assert "authorization" not in other.asked[0][1]


def test_when_only_the_digest_is_wanted_a_missing_blob_is_not_downloaded_again(server: Server, store: Store) -> None:
    server.pages["/foo"] = (200, {"ETag": '"one"'}, CONTENT)
    fetch_url(f"{server.url}/foo", store=store, progress=Silent())
    (store.home / "blobs" / "sha256" / DIGEST.removeprefix("sha256:")).unlink()
    assert not fetch_url(f"{server.url}/foo", store=store, progress=Silent(), content=False).fresh
    assert fetch_url(f"{server.url}/foo", store=store, progress=Silent()).fresh
    assert store.read_blob(DIGEST) == CONTENT


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://host:port/x", "http://ho st/"])
def test_what_is_no_web_address_is_refused(url: str, store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        fetch_url(url, store=store, progress=Silent())
    assert caught.value.code == "bad-url"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b.tar.gz", "b.tar.gz"),
        ("https://h/a/b/", "b"),
        ("https://h/", "__unnamed__"),
        ("https://h", "__unnamed__"),
        ("https://h/a%20b?c=d/e#f/g", "a b"),
        ("https://h/a/%2e%2e", "__unnamed__"),
        ("https://h/%2fetc%2fpasswd", "__unnamed__"),
    ],
)
def test_a_file_is_named_after_the_end_of_the_path(url: str, name: str) -> None:
    assert name_of_url(url) == name


@pytest.mark.parametrize("text", ["md5:7e55db001d319a94b0b713529a756623", "unknown:aa", "a" * 64, "sha256:aa", "sha256:", ""])
def test_a_checksum_must_be_a_sha256_digest(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_digest(text)
    assert caught.value.code == "bad-checksum"


def test_a_time_that_cannot_be_read_is_none() -> None:
    assert [parse_http_time(text) for text in ("", "soon", WHEN)] == [None, None, 852076800]
