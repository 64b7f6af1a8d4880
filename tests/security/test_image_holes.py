"""An image's config and a registry's answers are data that nobody vouches for: what they say must not reach the machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from contain.container.files.volumes import Volumes
from contain.container.lifecycle.records import describe_spec
from contain.container.request.resolve import RunRequest, resolve_spec
from contain.errors import ContainError, UsageError
from contain.oci import ImageConfig, Platform
from contain.oci.image import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_MANIFEST
from contain.reference import parse_reference
from contain.registry.challenge import Credentials
from contain.registry.configuration import RegistryConfiguration
from contain.registry.pull import pull
from contain.spec import ContainerSpec, Identity
from contain.store import Store

# -- 25: the config ------------------------------------------------------------------------------------------------------------


def spec_of(config: ImageConfig, home: Path, *layers: Path) -> ContainerSpec:
    return resolve_spec(
        RunRequest(image="x"),
        container_id="a" * 64,
        name="x",
        image_digest="",
        config=config,
        layers=layers,
        upper=None,
        identity=Identity(),
        home="/",
        store=home,
        image_volumes=True,
    )


def config_of(**changes: Any) -> ImageConfig:
    return ImageConfig(platform=Platform(os="linux", architecture="amd64"), command=("true",), **changes)


@pytest.mark.parametrize("volume", ["/../etc", "/a/../../etc", "/..", "/", "//", "etc", "/proc/self", "/sys", "/a\0b"])
def test_cve_2022_23648_a_volume_of_an_image_that_leads_out_is_refused(tmp_path: Path, volume: str) -> None:
    with pytest.raises(UsageError):
        spec_of(config_of(volumes=(volume,)), tmp_path)


@pytest.mark.parametrize("way", ["{outside}", "/../../../../../../../../..{outside}", "../../../../../../../../../..{outside}"])
def test_cve_2022_23648_no_file_of_the_machine_gets_into_an_images_volume(tmp_path: Path, outside: Path, way: str) -> None:
    layer, home = tmp_path / "layer", tmp_path / "home"
    layer.mkdir()
    home.mkdir()
    (layer / "data").symlink_to(way.format(outside=outside))
    spec = spec_of(config_of(volumes=("/data",)), home, layer)
    with Volumes(home).hold(describe_spec(spec)):
        pass
    assert [path.name for path in home.rglob("canary")] == []


@pytest.mark.parametrize(
    "prefix", ["", "contain.", "io.contain.", "io.containerd.", "com.docker.", "org.opencontainers.image."]
)
def test_cve_2026_53488_labels_of_an_image_are_never_options(tmp_path: Path, prefix: str) -> None:
    options = {
        "privileged": "true",
        "cap-add": "SYS_ADMIN",
        "capabilities": "SYS_ADMIN",
        "security-opt": "seccomp=unconfined",
        "network": "host",
        "userns": "host",
        "pid": "host",
        "volume": "/:/host",
        "mount": "type=bind,source=/,target=/host",
        "device": "/dev/mem",
        "user": "root",
        "runtime": "none",
        "restart": "always",
    }
    labels = {prefix + name: value for name, value in options.items()}
    plain, labelled = spec_of(config_of(), tmp_path), spec_of(config_of(labels=labels), tmp_path)
    different = [one.name for one in fields(plain) if getattr(plain, one.name) != getattr(labelled, one.name)]
    assert different == ["labels"]


# -- 26: a registry's answers --------------------------------------------------------------------------------------------------


class Server:
    """An HTTP server with answers by path, which remembers what was asked with which credentials."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.wants_password = False
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization")
                server.seen.append((self.path, authorization))
                status, headers, body = server.answers.get(self.path, (404, {}, b"{}"))
                if server.wants_password and authorization is None:
                    status, headers, body = 401, {"WWW-Authenticate": 'Basic realm="test"'}, b"{}"
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - what http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    registry, elsewhere = Server(), Server()
    yield registry, elsewhere
    registry.close()
    elsewhere.close()


class Known:
    def find(self, *, host: str, repository: str = "") -> Credentials | None:
        return Credentials(username="ann", password="secret")


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def serve_image(registry: Server) -> tuple[str, bytes]:
    """An image of one empty layer; where its layer is asked for, and the layer."""
    layer = bytes(1024)
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}})
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": {"mediaType": MEDIA_CONFIG, "digest": digest_of(config.encode()), "size": len(config)},
            "layers": [{"mediaType": MEDIA_LAYER, "digest": digest_of(layer), "size": len(layer)}],
        }
    ).encode()
    registry.answers["/v2/"] = (200, {}, b"{}")
    registry.answers["/v2/image/manifests/latest"] = (200, {"Content-Type": MEDIA_MANIFEST}, manifest)
    registry.answers[f"/v2/image/blobs/{digest_of(config.encode())}"] = (200, {}, config.encode())
    return f"/v2/image/blobs/{digest_of(layer)}", layer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_cve_2024_3727_credentials_do_not_follow_a_redirect_to_another_host(
    servers: tuple[Server, Server], store: Store, status: int
) -> None:
    registry, elsewhere = servers
    registry.wants_password = True
    path, layer = serve_image(registry)
    registry.answers[path] = (status, {"Location": f"http://{elsewhere.host}/storage"}, b"")
    elsewhere.answers["/storage"] = (200, {}, layer)
    pull(
        parse_reference(f"{registry.host}/image:latest"),
        store=store,
        platform=Platform(),
        configuration=RegistryConfiguration(insecure=frozenset({registry.host, elsewhere.host})),
        credentials=Known(),
    )
    expected = "Basic " + base64.b64encode(b"ann:secret").decode()
    assert (path, expected) in registry.seen
    assert elsewhere.seen == [("/storage", None)]


def test_cve_2024_3727_a_digest_in_an_answer_is_no_path(servers: tuple[Server, Server], store: Store, tmp_path: Path) -> None:
    registry, _ = servers
    serve_image(registry)
    status, headers, manifest = registry.answers["/v2/image/manifests/latest"]
    value = json.loads(manifest)
    value["layers"][0]["digest"] = "sha256:../../../../image/blobs/other"
    registry.answers["/v2/image/manifests/latest"] = (status, headers, json.dumps(value).encode())
    with pytest.raises(ContainError):
        pull(
            parse_reference(f"{registry.host}/image:latest"),
            store=store,
            platform=Platform(),
            configuration=RegistryConfiguration(insecure=frozenset({registry.host})),
            credentials=Known(),
        )
    assert not any(".." in path for path, _ in registry.seen)
