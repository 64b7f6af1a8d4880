"""A registry in this process, on loopback, that misbehaves on request; images to put into it; a client for it.

``registries()`` makes servers; each keeps the distribution API with dictionaries, records what it was asked, and plays the
`Answer`s that a test queued for matching requests before it behaves again. Nothing sleeps.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import zstandard

from contain.oci import Descriptor, Image, ImageConfig, Platform
from contain.oci.image import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_LAYER_GZIP,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
)
from contain.reference import Reference, parse_reference
from contain.registry.challenge import Credentials
from contain.registry.client import RegistryClient
from contain.registry.configuration import RegistryConfiguration, is_insecure, plan_endpoints
from contain.registry.pull import pull_with
from contain.registry.push import Pushed, push_with
from contain.registry.session import RegistrySession
from contain.registry.transport import Transport
from contain.store import Store


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server does instead of what it should. ``cut``: bytes of the body really sent, then the connection breaks.
    ``stall``: after them it stays silent until the test is over. ``take``: so many bytes of the request's body are read (and
    kept, if it is a chunk), then the connection breaks without an answer. ``lost``: it does what was asked, without an
    answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # None: what it would have answered
    cut: int | None = None
    stall: bool = False
    ignore_range: bool = False
    take: int | None = None
    lost: bool = False


@dataclass(slots=True, kw_only=True)
class Upload:
    """A session: what it holds, and how often its Location has changed (only the newest is taken)."""

    repository: str
    data: bytearray = field(default_factory=bytearray)
    state: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    media_type: str
    data: bytes
    diff_id: str

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": digest(self.data), "size": len(self.data)}


def make_layer(files: Mapping[str, bytes], compression: str = "gzip") -> Layer:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o644, 946684800
            tar.addfile(info, io.BytesIO(content))
    plain = buffer.getvalue()
    match compression:
        case "gzip":
            return Layer(media_type=MEDIA_LAYER_GZIP, data=gzip.compress(plain, mtime=0), diff_id=digest(plain))
        case "zstd":
            return Layer(media_type=MEDIA_LAYER_ZSTD, data=zstandard.ZstdCompressor().compress(plain), diff_id=digest(plain))
        case _:
            return Layer(media_type=MEDIA_LAYER, data=plain, diff_id=digest(plain))


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeImage:
    """An image's bytes, before anybody serves them."""

    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]
    media_type: str

    @property
    def digest(self) -> str:
        return digest(self.manifest)


def make_image(
    *layers: Layer, platform: str = "linux/amd64", diff_ids: list[str] | None = None, extra: Mapping[str, Any] | None = None
) -> MadeImage:
    system, architecture, *variant = platform.split("/")
    config_value: dict[str, Any] = {
        "os": system,
        "architecture": architecture,
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers] if diff_ids is None else diff_ids},
    }
    if variant:
        config_value["variant"] = variant[0]
    config = json.dumps(config_value, indent=1).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": {"mediaType": MEDIA_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [layer.descriptor for layer in layers],
        **(extra or {}),
    }
    # Indented on purpose: the digest must be that of the served bytes, not of a canonical form.
    return MadeImage(manifest=json.dumps(manifest, indent=3).encode(), config=config, layers=layers, media_type=MEDIA_MANIFEST)


def make_index(*images: tuple[str, MadeImage]) -> bytes:
    rows = []
    for platform, image in images:
        system, architecture, *variant = platform.split("/")
        described: dict[str, Any] = {"os": system, "architecture": architecture}
        if variant:
            described["variant"] = variant[0]
        row = {"mediaType": MEDIA_MANIFEST, "digest": image.digest, "size": len(image.manifest), "platform": described}
        rows.append(row)
    return json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": rows}).encode()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are what these tests are about."""


class FaultyRegistry:
    """One server. Its ``host`` is ``127.0.0.1:<port>``."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.seen: list[Seen] = []
        self.token_realm = ""  # demand Bearer tokens from there
        self.basic: tuple[str, str] | None = None  # demand Basic authentication (also of the token server)
        self.tokens: set[str] = set()
        self.granted: dict[str, tuple[str, ...]] = {}
        self.token_answer: Callable[[str], dict[str, Any]] = lambda text: {"token": text}
        self.uploads: dict[str, Upload] = {}
        self.repositories: dict[str, set[str]] = {}  # which blobs were pushed into which; `blobs` are everywhere
        self.mounts = True
        self.heads = True
        self.chunk_minimum = 0
        self.largest_body = 1 << 40
        self.locations = "relative"  # or absolute, or another host's origin
        self.referrers: bool | str = False  # the API: absent, there, or "header": it only says so
        self.page_size = 1000
        self.released = threading.Event()
        self._faults: list[tuple[str, re.Pattern[str], list[Answer]]] = []
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def serve(self, image: MadeImage, repository: str = "app", tag: str = "1") -> None:
        for data in (image.config, *(layer.data for layer in image.layers)):
            self.put(repository, data)
        self.serve_manifest(image.manifest, image.media_type, repository, tag)

    def serve_manifest(self, data: bytes, media_type: str, repository: str = "app", tag: str = "1") -> None:
        self.manifests[repository, tag] = self.manifests[repository, digest(data)] = (media_type, data)

    def put(self, repository: str, data: bytes) -> str:
        self.blobs[digest(data)] = data
        self.repositories.setdefault(repository, set()).add(digest(data))
        return digest(data)

    def fault(self, pattern: str, *answers: Answer, method: str = "GET") -> None:
        """Play these answers, one for each matching request, before behaving again."""
        self._faults.append((method, re.compile(pattern), list(answers)))

    def asked(self, pattern: str) -> list[Seen]:
        return [seen for seen in self.seen if re.search(pattern, seen.path)]

    def reference(self, text: str = "app:1") -> Reference:
        return parse_reference(f"{self.host}/{text}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each small answer costs a delayed acknowledgement, 40 ms

            def log_message(self, _format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                registry._play(self)

            def do_POST(self) -> None:
                registry._play(self)

            def do_HEAD(self) -> None:
                registry._play(self)

            def do_PUT(self) -> None:
                registry._play(self)

            def do_PATCH(self) -> None:
                registry._play(self)

        return Handler

    def _play(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            queue = next(
                (
                    answers
                    for method, pattern, answers in self._faults
                    if method == handler.command and answers and pattern.search(handler.path)
                ),
                None,
            )
            fault = queue.pop(0) if queue else None
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length if fault is None or fault.take is None else fault.take)
        seen = Seen(
            method=handler.command,
            path=handler.path,
            headers={name.title(): value for name, value in handler.headers.items()},
            body=body,
        )
        with self._lock:
            self.seen.append(seen)
        if fault is not None and fault.take is not None:
            upload = self.uploads.get(urlsplit(seen.path).path.rpartition("/")[2])
            if seen.method == "PATCH" and upload is not None:
                upload.data += body
            handler.close_connection = True
            handler.connection.close()
            return
        if fault is not None and fault.status != 200 and seen.method in ("PUT", "PATCH", "POST"):
            status, headers, data = fault.status, dict[str, str](), fault.body or b""  # and nothing is done
        else:
            status, headers, data = self._behave(seen, ignore_range=fault is not None and fault.ignore_range)
        if fault is not None and fault.lost:
            handler.close_connection = True
            handler.connection.close()
            return
        if fault is not None and (fault.status, fault.body) != (200, None):
            status, headers, data = fault.status, {}, fault.body or b""
        if fault is not None:
            headers = {**headers, **fault.headers}
        cut = None if fault is None else fault.cut
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            if value:
                handler.send_header(name, value)
        broken = cut is not None or (fault is not None and fault.stall)
        if broken:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(b"" if seen.method == "HEAD" else data if cut is None else data[:cut])
            handler.wfile.flush()
            if fault is not None and fault.stall:
                self.released.wait()

    def _behave(self, seen: Seen, *, ignore_range: bool) -> tuple[int, dict[str, str], bytes]:
        path = urlsplit(seen.path).path
        if path == "/token":
            return self._token(seen)
        challenge = self._challenge(seen)
        if challenge:
            return 401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}'
        if path == "/v2/":
            return 200, {}, b"{}"
        if seen.method == "HEAD" and not self.heads:
            return 405, {}, b""
        if len(seen.body) > self.largest_body:
            return 413, {}, b""
        if match := re.match(r"^/v2/(.+)/blobs/uploads/([^/]*)$", path):
            return self._upload(seen, match[1], match[2])
        if match := re.match(r"^/v2/(.+)/tags/list$", path):
            return self._tags(seen, match[1])
        if self.referrers is True and (match := re.match(r"^/v2/(.+)/referrers/([^/]+)$", path)):
            return 200, {"Content-Type": MEDIA_INDEX}, self._referrers(match[1], match[2])
        if seen.method == "PUT" and (match := re.match(r"^/v2/(.+)/manifests/([^/]+)$", path)):
            return self._put_manifest(seen, match[1], match[2])
        if match := re.match(r"^/v2/(.+)/manifests/([^/]+)$", path):
            found = self.manifests.get((match[1], match[2]))
            if found is None:
                return 404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            return 200, {"Content-Type": found[0], "Docker-Content-Digest": digest(found[1])}, found[1]
        if (match := re.match(r"^(?:/v2/(.+)/blobs|/storage)/([^/]+)$", path)) and self._has(match[1], match[2]):
            data = self.blobs[match[2]]
            wanted = re.match(r"^bytes=(\d+)-$", seen.headers.get("Range", ""))
            if wanted and not ignore_range:
                start = int(wanted[1])
                return 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]
            return 200, {"Content-Type": "application/octet-stream", "Docker-Content-Digest": match[2]}, data
        return 404, {}, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}'

    def _has(self, repository: str | None, name: str) -> bool:
        pushed = any(name in names for names in self.repositories.values())
        return name in self.blobs and (repository is None or not pushed or name in self.repositories.get(repository, ()))

    def _upload(self, seen: Seen, repository: str, name: str) -> tuple[int, dict[str, str], bytes]:
        """The uploads of the specification: one session each, its Location changing with every step."""
        if seen.method == "POST":
            wanted = seen.query.get("mount", [""])[0]
            if wanted and self.mounts and wanted in self.repositories.get(seen.query["from"][0], ()):
                self.repositories.setdefault(repository, set()).add(wanted)
                return 201, {"Location": f"/v2/{repository}/blobs/{wanted}"}, b""
            name = f"session-{len(self.uploads)}"
            self.uploads[name] = Upload(repository=repository)
            extra = {"OCI-Chunk-Min-Length": str(self.chunk_minimum)} if self.chunk_minimum else {}
            return 202, {**self._session(name), **extra}, b""
        upload = self.uploads.get(name)
        if upload is None or seen.query.get("state") != [str(upload.state)]:
            return 404, {}, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"no such upload, or an old Location"}]}'
        if seen.method == "GET":
            return 204, self._session(name), b""
        if seen.method == "PATCH":
            wanted_range = f"{len(upload.data)}-{len(upload.data) + len(seen.body) - 1}"
            if seen.headers.get("Content-Range", wanted_range) != wanted_range:
                return 416, self._session(name), b""
            upload.data += seen.body
            upload.state += 1
            return 202, self._session(name), b""
        promised = seen.query["digest"][0]
        if digest(bytes(upload.data) + seen.body) != promised:
            return 400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"the bytes are others"}]}'
        del self.uploads[name]
        self.put(repository, bytes(upload.data) + seen.body)
        return 201, {"Location": f"/v2/{repository}/blobs/{promised}", "Docker-Content-Digest": promised}, b""

    def _session(self, name: str) -> dict[str, str]:
        upload = self.uploads[name]
        origin = {"relative": "", "absolute": f"http://{self.host}"}.get(self.locations, self.locations)
        location = f"{origin}/v2/{upload.repository}/blobs/uploads/{name}?state={upload.state}"
        return {"Location": location, "Range": f"0-{max(0, len(upload.data) - 1)}"}

    def _put_manifest(self, seen: Seen, repository: str, target: str) -> tuple[int, dict[str, str], bytes]:
        value = json.loads(seen.body)
        parts = [value["config"], *value["layers"]] if "layers" in value else []
        if any(part["digest"] not in self.repositories.get(repository, ()) for part in parts):
            return 404, {}, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"a blob is missing"}]}'
        named = digest(seen.body)
        for tag in {target, named}:
            self.manifests[repository, tag] = (seen.headers["Content-Type"], seen.body)
        said = {"OCI-Subject": value["subject"]["digest"]} if self.referrers and "subject" in value else {}
        return 201, {"Docker-Content-Digest": named, **said}, b""

    def _referrers(self, repository: str, subject: str) -> bytes:
        rows = []
        for (home, name), (media_type, data) in sorted(self.manifests.items()):
            value = json.loads(data)
            if home == repository and name == digest(data) and value.get("subject", {}).get("digest") == subject:
                row = {"mediaType": media_type, "digest": name, "size": len(data), "artifactType": value["artifactType"]}
                rows.append(row)
        return json.dumps({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": rows}).encode()

    def _tags(self, seen: Seen, repository: str) -> tuple[int, dict[str, str], bytes]:
        names = sorted(name for home, name in self.manifests if home == repository and ":" not in name)
        last = seen.query.get("last", [""])[0]
        page = [name for name in names if name > last][: self.page_size]
        more = page and page[-1] != names[-1]
        link = {"Link": f'</v2/{repository}/tags/list?last={page[-1]}>; rel="next"'} if more else {}
        return 200, {"Content-Type": "application/json", **link}, json.dumps({"name": repository, "tags": page}).encode()

    def _basic_ok(self, seen: Seen) -> bool:
        if self.basic is None:
            return True
        expected = base64.b64encode(":".join(self.basic).encode()).decode()
        return seen.authorization == f"Basic {expected}"

    def _token(self, seen: Seen) -> tuple[int, dict[str, str], bytes]:
        if not self._basic_ok(seen) and seen.method == "GET":
            return 401, {}, b"{}"
        text = f"token-{len(self.tokens)}"
        self.tokens.add(text)
        self.granted[text] = tuple(seen.query.get("scope", ()))
        return 200, {"Content-Type": "application/json"}, json.dumps(self.token_answer(text)).encode()

    def _challenge(self, seen: Seen) -> str:
        if self.token_realm:
            token = (seen.authorization or "").removeprefix("Bearer ")
            path = urlsplit(seen.path).path
            match = re.match(r"^/v2/(.+?)/(?:manifests|blobs|tags|referrers)/", path)
            wanted = f"repository:{match[1]}:{'pull' if seen.method in ('GET', 'HEAD') else 'pull,push'}" if match else ""
            enough = seen.method in ("GET", "HEAD") or wanted in self.granted.get(token, ())
            if token in self.tokens and enough:
                return ""
            return f'Bearer realm="{self.token_realm}",service="test",scope="{wanted}"'
        return "" if self._basic_ok(seen) else 'Basic realm="test"'


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the system's certificates takes 0.1 s, and no test here trusts any."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")


@pytest.fixture
def registries() -> Iterator[Callable[[], FaultyRegistry]]:
    with contextlib.ExitStack() as stack:

        def make() -> FaultyRegistry:
            registry = FaultyRegistry()
            stack.callback(registry.close)
            return registry

        yield make


@pytest.fixture
def registry(registries: Callable[[], FaultyRegistry]) -> FaultyRegistry:
    return registries()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


class Told:
    """A progress delegate that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.amounts: list[tuple[str, int, int | None]] = []

    def step(self, title: str) -> None:
        self.notes.append(title)

    def log(self, text: str) -> None:
        self.notes.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def amount(self, label: str, done: int, total: int | None) -> None:
        self.amounts.append((label, done, total))


class KnownCredentials:
    def __init__(self, known: Mapping[str, Credentials]) -> None:
        self.known, self.asked = known, list[str]()

    def find(self, *, host: str, repository: str = "") -> Credentials | None:
        self.asked.append(host)
        return self.known.get(host)


class Puller:
    """Pulls with a client whose waiting is recorded, not waited."""

    def __init__(self, store: Store) -> None:
        self.store, self.told, self.pauses = store, Told(), list[float]()
        self.credentials = KnownCredentials({})
        self.read_seconds = 20.0
        self.environ: Mapping[str, str] = {}
        self.clock = 1000.0

    def __call__(
        self,
        reference: Reference,
        *,
        platform: Platform | None = None,
        configuration: RegistryConfiguration | None = None,
    ) -> Any:
        configuration = configuration or RegistryConfiguration()
        transport = Transport(environ=self.environ, read_seconds=self.read_seconds)
        client = RegistryClient(
            transport=transport,
            credentials=self.credentials,
            progress=self.told,
            insecure=lambda host: is_insecure(host, configuration),
            pause=self.pauses.append,
            clock=lambda: self.clock,
            jitter=lambda: 0.0,
        )
        try:
            return pull_with(
                client,
                reference,
                endpoints=plan_endpoints(reference.domain, configuration),
                store=self.store,
                platform=platform,
                progress=self.told,
                stop=threading.Event(),
                abort=transport.abort,
            )
        finally:
            transport.close()


@pytest.fixture
def puller(store: Store) -> Puller:
    return Puller(store)


class Pusher:
    """Sessions for pushing, whose waiting is recorded, not waited."""

    def __init__(self, store: Store) -> None:
        self.store, self.told, self.pauses = store, Told(), list[float]()
        self.credentials = KnownCredentials({})
        self.clock = 1000.0

    @contextlib.contextmanager
    def session(self, domain: str, configuration: RegistryConfiguration | None = None) -> Iterator[RegistrySession]:
        configuration = configuration or RegistryConfiguration()
        transport = Transport(environ={}, read_seconds=20.0)
        client = RegistryClient(
            transport=transport,
            credentials=self.credentials,
            progress=self.told,
            insecure=lambda host: is_insecure(host, configuration),
            pause=self.pauses.append,
            clock=lambda: self.clock,
            jitter=lambda: 0.0,
        )
        try:
            yield RegistrySession(
                client=client,
                endpoints=plan_endpoints(domain, configuration),
                progress=self.told,
                stop=threading.Event(),
                abort=transport.abort,
            )
        finally:
            transport.close()

    def image(self, name: Reference, *contents: Mapping[str, bytes]) -> Image:
        """An image made here: each layer is a directory of files, its archive canonical."""
        descriptors = []
        for files in contents:
            diff_id = self.store.import_layer(io.BytesIO(make_layer(files, "none").data), progress=self.told)
            descriptors.append(Descriptor(media_type=MEDIA_LAYER, digest=diff_id, size=self.store.layer_size(diff_id)))
        config = ImageConfig(diff_ids=tuple(row.digest for row in descriptors), command=("sh",))
        image = self.store.put_image(config, descriptors)
        self.store.tag(name, image.digest, source="imported")
        return image

    def __call__(self, name: Reference, **options: Any) -> Pushed:
        with self.session(name.domain) as session:
            return push_with(session, name, store=self.store, **options)


@pytest.fixture
def pusher(store: Store) -> Pusher:
    return Pusher(store)


@pytest.fixture
def make() -> Any:
    """The makers of this module, for tests (which cannot import a conftest)."""

    class Makers:
        layer = staticmethod(make_layer)
        image = staticmethod(make_image)
        index = staticmethod(make_index)
        answer = Answer
        digest = staticmethod(digest)

    return Makers
