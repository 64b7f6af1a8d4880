"""A registry server that nobody here wrote, Debian's ``docker-registry``, started on loopback for one test."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from contain.oci.image import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD, MEDIA_MANIFEST

REGISTRY = shutil.which("docker-registry", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
OPENSSL = shutil.which("openssl")
USER, PASSWORD = "ann", "secret"
HTPASSWD = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # bcrypt of "secret"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    headers: Any
    body: bytes

    def read(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running registry, and the few requests that fill it."""

    host: str
    scheme: str
    context: ssl.SSLContext | None
    authorization: str
    directory: Path

    def read(self, path: str) -> Any:
        """A JSON answer of ``/v2/<path>``."""
        return json.loads(self._open("GET", f"{self.scheme}://{self.host}/v2/{path}", None, {}).read())

    def uploads(self) -> list[Path]:
        """What uploads have brought so far."""
        return [path for path in self.directory.rglob("_uploads/*/data") if path.stat().st_size]

    def send(self, method: str, url: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        return self._open(method, url, data, headers or {}).headers

    def _open(self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(url, data=data, method=method, headers={**headers})
        if self.authorization:
            request.add_header("Authorization", self.authorization)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.context))
        with urllib.request.build_opener(*handlers).open(request, timeout=20) as response:
            return _Answer(headers=response.headers, body=response.read())

    def put_blob(self, repository: str, data: bytes) -> dict[str, Any]:
        location = self.send("POST", f"{self.scheme}://{self.host}/v2/{repository}/blobs/uploads/")["Location"]
        separator = "&" if "?" in location else "?"
        self.send("PUT", f"{location}{separator}digest={digest(data)}", data, {"Content-Type": "application/octet-stream"})
        return {"digest": digest(data), "size": len(data)}

    def put_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> None:
        url = f"{self.scheme}://{self.host}/v2/{repository}/manifests/{tag}"
        self.send("PUT", url, data, {"Content-Type": media_type})

    def put_image(self, repository: str, tag: str, *layers: tuple[str, bytes], architecture: str = "amd64") -> bytes:
        """Layers are (compression, tar). Returns the manifest."""
        rows = []
        for compression, plain in layers:
            packed, media_type = {
                "gzip": (gzip.compress(plain, mtime=0), MEDIA_LAYER_GZIP),
                "zstd": (zstandard.ZstdCompressor().compress(plain), MEDIA_LAYER_ZSTD),
                "none": (plain, MEDIA_LAYER),
            }[compression]
            rows.append({"mediaType": media_type, **self.put_blob(repository, packed)})
        config = json.dumps(
            {
                "os": "linux",
                "architecture": architecture,
                "config": {"Cmd": ["/bin/sh"], "WorkingDir": "/srv"},
                "rootfs": {"type": "layers", "diff_ids": [digest(plain) for _, plain in layers]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": {"mediaType": MEDIA_CONFIG, **self.put_blob(repository, config)},
            "layers": rows,
        }
        data = json.dumps(manifest, indent=2).encode()
        self.put_manifest(repository, tag, data, MEDIA_MANIFEST)
        return data


@pytest.fixture
def start_registry(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers: ``start_registry(password=True, certificate=(file, key))``; they end with the test."""
    if REGISTRY is None:
        pytest.skip("docker-registry is not installed")
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(_running(tmp_path, **options))


@contextlib.contextmanager
def _running(directory: Path, *, password: bool = False, certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = directory / f"registry-{port}"
    home.mkdir()
    configuration: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(home / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of the tests"},
    }
    if password:
        (home / "htpasswd").write_text(HTPASSWD)
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(home / "htpasswd")}}
    if certificate is not None:
        configuration["http"]["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
    (home / "config.yml").write_text(json.dumps(configuration))  # JSON is YAML
    assert REGISTRY is not None
    with open(home / "log", "wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", str(home / "config.yml")], stdout=log, stderr=log, cwd=home)
    try:
        context = ssl.create_default_context(cafile=str(certificate[0])) if certificate else None
        server = Server(
            host=f"127.0.0.1:{port}",
            scheme="https" if certificate else "http",
            context=context,
            directory=home / "data",
            authorization="Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode() if password else "",
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                server.send("GET", f"{server.scheme}://{server.host}/v2/")
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline, (home / "log").read_text()
                time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = f"{OPENSSL} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    return certificate, key
