"""Pulling from a registry server that nobody here wrote: Debian's ``docker-registry``, started on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contain.errors import NotFound, RegistryError
from contain.oci import Platform
from contain.oci.image import MEDIA_DOCKER_MANIFEST, MEDIA_INDEX, MEDIA_MANIFEST
from contain.progress import Silent
from contain.reference import parse_reference
from contain.registry.configuration import RegistryConfiguration
from contain.registry.pull import pull
from contain.store import Store

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

SKOPEO = shutil.which("skopeo")
USER, PASSWORD = "ann", "secret"
NOTHING = RegistryConfiguration()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o640, 946684800
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials of whoever runs the tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("DOCKER_AUTH_CONFIG", raising=False)


def log_in(tmp_path: Path, host: str, password: str = PASSWORD) -> None:
    (tmp_path / "docker").mkdir(exist_ok=True)
    stored = {"auths": {host: {"auth": b64encode(f"{USER}:{password}".encode()).decode()}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(stored))


def test_an_index_of_two_platforms_with_gzip_zstd_and_plain_layers(start_registry: Callable[..., Server], store: Store) -> None:
    server = start_registry()
    manifests = {
        architecture: server.put_image(
            "team/app",
            f"only-{architecture}",
            ("gzip", archive({"etc-name": architecture.encode()})),
            ("zstd", archive({"big": bytes(300_000)})),
            ("none", archive({"last": b"3"})),
            architecture=architecture,
        )
        for architecture in ("amd64", "arm64")
    }
    index = {
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "manifests": [
            {
                "mediaType": MEDIA_MANIFEST,
                "digest": digest(data),
                "size": len(data),
                "platform": {"os": "linux", "architecture": architecture},
            }
            for architecture, data in manifests.items()
        ],
    }
    data = json.dumps(index).encode()
    server.put_manifest("team/app", "1.0", data, MEDIA_INDEX)
    for name in (f"{server.host}/team/app:1.0", f"{server.host}/team/app@{digest(data)}"):
        for architecture, manifest in manifests.items():
            image = pull(
                parse_reference(name), store=store, platform=Platform(architecture=architecture), configuration=NOTHING
            )
            assert image.digest == digest(manifest)
            trees = store.layer_trees(image)
            assert (trees[0] / "etc-name").read_text() == architecture
            assert (trees[1] / "big").stat().st_size == 300_000
            assert (trees[2] / "last").stat().st_mode & 0o777 == 0o640
            assert store.find_image(name).digest == image.digest


def test_a_pull_by_digest_moves_no_tag(start_registry: Callable[..., Server], store: Store) -> None:
    server = start_registry()
    first = server.put_image("app", "latest", ("gzip", archive({"a": b"1"})))
    second = server.put_image("app", "other", ("gzip", archive({"a": b"2"})))
    pull(parse_reference(f"{server.host}/app"), store=store, configuration=NOTHING, platform=Platform())
    for name in (f"app@{digest(second)}", f"app:latest@{digest(second)}"):
        image = pull(parse_reference(f"{server.host}/{name}"), store=store, configuration=NOTHING, platform=Platform())
        assert image.digest == digest(second)
    assert store.find_image(f"{server.host}/app").digest == digest(first)


def test_two_empty_stores_get_the_same_image(start_registry: Callable[..., Server], tmp_path: Path) -> None:
    server = start_registry()
    server.put_image("app", "1", ("gzip", archive({"a": b"1"})))
    digests = set()
    for name in ("one", "two"):
        with Store.open(tmp_path / name) as opened:
            digests.add(
                pull(parse_reference(f"{server.host}/app:1"), store=opened, configuration=NOTHING, platform=Platform()).digest
            )
    assert len(digests) == 1


def test_a_password_opens_what_is_closed_without_it(
    start_registry: Callable[..., Server], store: Store, tmp_path: Path
) -> None:
    server = start_registry(password=True)
    manifest = server.put_image("app", "1", ("gzip", archive({"a": b"1"})))
    reference = parse_reference(f"{server.host}/app:1")
    for wrong in (None, "guessed"):
        if wrong is not None:
            log_in(tmp_path, server.host, wrong)
        with pytest.raises(NotFound) as caught:
            pull(reference, store=store, configuration=NOTHING, platform=Platform())
        assert caught.value.code == "image-not-in-registry"
    log_in(tmp_path, server.host)
    assert pull(reference, store=store, configuration=NOTHING, platform=Platform()).digest == digest(manifest)


def test_what_is_not_there_is_said(start_registry: Callable[..., Server], store: Store) -> None:
    server = start_registry()
    server.put_image("app", "1", ("gzip", archive({"a": b"1"})))
    for name in ("app:2", "other:1", f"app@sha256:{'0' * 64}"):
        with pytest.raises(NotFound) as caught:
            pull(parse_reference(f"{server.host}/{name}"), store=store, configuration=NOTHING)
        assert caught.value.code == "image-not-in-registry"


def test_tls_is_verified_unless_the_configuration_says_otherwise(
    start_registry: Callable[..., Server],
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_registry(certificate=certificate)
    manifest = server.put_image("app", "1", ("gzip", archive({"a": b"1"})))
    reference = parse_reference(f"{server.host}/app:1")

    def pulled(name: str, configuration: RegistryConfiguration = NOTHING) -> str:
        with Store.open(tmp_path / name) as opened:
            return pull(reference, store=opened, configuration=configuration, platform=Platform()).digest

    with pytest.raises(RegistryError) as caught:
        pulled("untrusted")
    assert caught.value.code == "registry-certificate"
    assert pulled("insecure", RegistryConfiguration(insecure=frozenset({server.host}))) == digest(manifest)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert pulled("trusted") == digest(manifest)


@pytest.mark.skipif(SKOPEO is None, reason="skopeo is not installed")
def test_docker_manifests_that_skopeo_wrote_keep_their_digest(
    start_registry: Callable[..., Server], store: Store, tmp_path: Path
) -> None:
    server = start_registry()
    server.put_image("app", "oci", ("gzip", archive({"a": b"1"})), ("gzip", archive({"b": b"2"})))
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    skopeo = [SKOPEO or "", "--policy", str(policy), "--tmpdir", str(tmp_path)]
    copy = [*skopeo, "copy", "--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false"]
    name = f"{server.host}/app"
    subprocess.run([*copy, f"docker://{name}:oci", f"docker://{name}:docker"], check=True, capture_output=True, timeout=60)
    raw = [*skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{name}:docker"]
    manifest = subprocess.run(raw, check=True, capture_output=True, timeout=60).stdout
    image = pull(parse_reference(f"{name}:docker"), store=store, configuration=NOTHING, platform=Platform())
    assert image.manifest.media_type == MEDIA_DOCKER_MANIFEST
    assert image.digest == digest(manifest)
    assert len(store.layer_trees(image)) == 2


class Amounts(Silent):
    def __init__(self) -> None:
        self.done: list[int] = []

    def amount(self, label: str, done: int, total: int | None) -> None:
        self.done.append(done)


def test_a_pull_that_was_killed_resumes_and_left_nothing_visible(start_registry: Callable[..., Server], tmp_path: Path) -> None:
    server = start_registry()
    layer = archive({"noise": random.Random(1).randbytes(4 << 20)})
    manifest = server.put_image("app", "1", ("none", layer))
    program = """
        import os, signal, sys
        from pathlib import Path
        from contain.oci import Platform
        from contain.progress import Silent
        from contain.reference import parse_reference
        from contain.registry.configuration import RegistryConfiguration
        from contain.registry.pull import pull
        from contain.store import Store

        class Killer(Silent):
            def amount(self, label, done, total):
                if done > 2 << 20:
                    os.kill(os.getpid(), signal.SIGKILL)

        with Store.open(Path(sys.argv[1])) as store:
            pull(parse_reference(sys.argv[2]), store=store, configuration=RegistryConfiguration(), platform=Platform(),
                 progress=Killer())
    """
    name = f"{server.host}/app:1"
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store"), name]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    with Store.open(tmp_path / "store") as opened:
        assert opened.images() == ()
        assert not opened.has_blob(digest(layer))
        amounts = Amounts()
        image = pull(parse_reference(name), store=opened, configuration=NOTHING, platform=Platform(), progress=amounts)
        assert image.digest == digest(manifest)
        assert amounts.done[0] > 2 << 20  # it did not begin again
