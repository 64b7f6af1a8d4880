"""Pushing to a registry server that nobody here wrote, reading back with tools that nobody here wrote, and the commands."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.oci import Platform, canonical_json
from contain.oci.image import MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD, MEDIA_MANIFEST
from contain.reference import parse_reference
from contain.registry.artifacts import bytes_blob, fetch_blob, fetch_manifest, list_referrers, push_artifact, push_manifest
from contain.registry.configuration import RegistryConfiguration
from contain.registry.pull import pull
from contain.registry.push import push
from contain.registry.session import open_session
from contain.store import Store

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

SKOPEO = shutil.which("skopeo")
NOTHING = RegistryConfiguration()
NOISE = random.Random(2).randbytes(3 << 20)
needs_skopeo = pytest.mark.skipif(SKOPEO is None, reason="skopeo is not installed")


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials and no configuration of whoever runs the tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("CONTAIN_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("CONTAIN_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("DOCKER_AUTH_CONFIG", raising=False)


@pytest.fixture
def contain() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, text: str | None = None, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "contain.cli.start", *arguments]
        done = subprocess.run(
            command,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert status is None or done.returncode == status, done.stderr
        return done

    return run


def archive(files: Mapping[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def make_image(home: Path, name: str, files: Mapping[str, bytes]) -> str:
    from contain.engine import Engine

    with Engine.open(home) as engine:
        return engine.import_image(archive(files), name).digest


def names_of(server: Server, repository: str) -> list[str]:
    try:
        return sorted(server.read(f"{repository}/tags/list")["tags"] or [])
    except urllib.error.HTTPError:
        return []


def test_the_digest_stays_from_store_to_registry_to_store(start_registry: Callable[..., Server], tmp_path: Path) -> None:
    server = start_registry()
    name = parse_reference(f"{server.host}/team/app:1")
    made = make_image(tmp_path / "one", str(name), {"noise": NOISE, "etc/name": b"x"})
    with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        assert push(name, store=one, configuration=NOTHING).digest == made
        image = pull(name, store=two, configuration=NOTHING)
        assert image.digest == made
        # And on, from the store that only pulled it, to another repository.
        other = parse_reference(f"{server.host}/other/app:2")
        two.tag(other, image.digest, source="tagged")
        assert push(other, store=two, configuration=NOTHING).digest == made
        assert pull(other, store=one, configuration=NOTHING).digest == made


@pytest.mark.parametrize("chunk_bytes", [0, 1_000_000])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_each_way_of_sending_can_be_pulled(
    start_registry: Callable[..., Server], tmp_path: Path, chunk_bytes: int, compression: str
) -> None:
    server = start_registry()
    name = parse_reference(f"{server.host}/app:1")
    made = make_image(tmp_path / "one", str(name), {"noise": NOISE, "zeros": bytes(1 << 20)})
    with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        pushed = push(name, store=one, configuration=NOTHING, compression=compression, chunk_bytes=chunk_bytes)
        image = pull(name, store=two, configuration=NOTHING)
        assert image.digest == pushed.digest
        assert (pushed.digest == made) is (not compression)
        assert image.config == one.image(made).config
        kinds = {"gzip": MEDIA_LAYER_GZIP, "zstd": MEDIA_LAYER_ZSTD}
        assert not compression or image.manifest.layers[0].media_type == kinds[compression]
        assert (two.layer_trees(image)[0] / "noise").read_bytes() == NOISE


def skopeo(tmp_path: Path, *arguments: str) -> bytes:
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    command = [SKOPEO or "", "--policy", str(policy), "--tmpdir", str(tmp_path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@needs_skopeo
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_skopeo_reads_what_was_pushed_and_keeps_its_digest(
    start_registry: Callable[..., Server], tmp_path: Path, compression: str
) -> None:
    server = start_registry()
    name = parse_reference(f"{server.host}/app:1")
    make_image(tmp_path / "store", str(name), {"noise": NOISE, "etc/name": b"x"})
    with Store.open(tmp_path / "store") as store:
        pushed = push(name, store=store, configuration=NOTHING, compression=compression).digest
    seen = json.loads(skopeo(tmp_path, "inspect", "--tls-verify=false", f"docker://{name}"))
    assert seen["Digest"] == pushed
    skopeo(tmp_path, "copy", "--src-tls-verify=false", "--preserve-digests", f"docker://{name}", f"oci:{tmp_path}/layout:1")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert index["manifests"][0]["digest"] == pushed
    # And back again through it, to another name.
    back = f"{server.host}/back:1"
    skopeo(tmp_path, "copy", "--dest-tls-verify=false", "--preserve-digests", f"oci:{tmp_path}/layout:1", f"docker://{back}")
    with Store.open(tmp_path / "other") as store:
        assert pull(parse_reference(back), store=store, configuration=NOTHING).digest == pushed


def test_a_push_that_was_killed_leaves_the_tag_as_it_was(start_registry: Callable[..., Server], tmp_path: Path) -> None:
    server = start_registry()
    name = parse_reference(f"{server.host}/app:1")
    first = make_image(tmp_path / "store", str(name), {"etc/name": b"first"})
    with Store.open(tmp_path / "store") as store:
        push(name, store=store, configuration=NOTHING)
    second = make_image(tmp_path / "store", str(name), {"noise": NOISE})
    program = """
        import os, signal, sys
        from pathlib import Path
        from contain.progress import Silent
        from contain.reference import parse_reference
        from contain.registry.configuration import RegistryConfiguration
        from contain.registry.push import push
        from contain.store import Store

        class Killer(Silent):
            def amount(self, label, done, total):
                if done > 1 << 20:
                    os.kill(os.getpid(), signal.SIGKILL)

        with Store.open(Path(sys.argv[1])) as store:
            push(parse_reference(sys.argv[2]), store=store, configuration=RegistryConfiguration(), progress=Killer())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store"), str(name)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    with Store.open(tmp_path / "other") as other:
        assert pull(name, store=other, configuration=NOTHING).digest == first
        with Store.open(tmp_path / "store") as store:
            assert push(name, store=store, configuration=NOTHING).digest == second
        assert pull(name, store=other, configuration=NOTHING).digest == second


def test_an_interrupted_push_ends_at_once(start_registry: Callable[..., Server], tmp_path: Path) -> None:
    """Ctrl-C while threads are sending: 130, and no tag."""
    server = start_registry()
    name = f"{server.host}/app:1"
    make_image(tmp_path / "store", name, {"noise": NOISE * 20})
    command = [sys.executable, "-m", "contain.cli.start", "push", "--chunk-size", "64k", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not server.uploads() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert names_of(server, "app") == []


def test_a_password_and_tls_as_a_user_meets_them(
    start_registry: Callable[..., Server],
    certificate: tuple[Path, Path],
    contain: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_registry(password=True, certificate=certificate)
    name = f"{server.host}/app:1"
    made = make_image(tmp_path / "store", name, {"noise": NOISE})
    assert "certificate is not trusted" in contain("push", name, status=1).stderr
    assert (
        "certificate is not trusted"
        in contain("login", "-u", "ann", "--password-stdin", server.host, text="x", status=1).stderr
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    denied = contain("push", name, status=1)
    assert "denied" in denied.stderr
    assert f"contain login {server.host}" in denied.stderr
    wrong = contain("login", "-u", "ann", "--password-stdin", server.host, text="guessed\n", status=1)
    assert "incorrect username or password" in wrong.stderr
    assert not (tmp_path / "docker").exists()
    right = contain("login", "-u", "ann", "--password-stdin", server.host, text="secret\n")
    assert right.stdout == "Login Succeeded\n"
    assert "unencrypted" in right.stderr
    again = contain("login", server.host)
    assert "existing credentials" in again.stderr
    assert f"1: digest: {made} size: " in contain("push", name).stdout
    assert names_of(server, "app") == ["1"]
    assert contain("pull", "-q", name).stdout == f"{name}\n"
    assert contain("logout", server.host).stdout == f"Removing login credentials for {server.host}\n"
    assert contain("logout", server.host).stdout == f"Not logged in to {server.host}\n"
    assert "not found" in contain("pull", name, status=1).stderr


def test_all_tags_both_ways(
    start_registry: Callable[..., Server],
    contain: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_registry()
    digests = {
        tag: make_image(tmp_path / "store", f"{server.host}/app:{tag}", {"tag": tag.encode()}) for tag in ("a", "b", "c")
    }
    make_image(tmp_path / "store", f"{server.host}/other:d", {"other": b""})
    pushed = contain("push", "-a", f"{server.host}/app").stdout
    assert pushed.startswith(f"The push refers to repository [{server.host}/app]\n")
    assert names_of(server, "app") == ["a", "b", "c"]
    assert names_of(server, "other") == []
    monkeypatch.setenv("CONTAIN_HOME", str(tmp_path / "empty"))
    assert contain("pull", "-a", f"{server.host}/app").stdout.split() == list(digests.values())
    assert "tag can't be used" in contain("pull", "-a", f"{server.host}/app:a", status=1).stderr
    assert "tag can't be used" in contain("push", "-a", f"{server.host}/app:a", status=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("push", "nobody"), "No such image"),
        (("push", "-a", "nobody"), "No such image"),
        (("push", "localhost:1/app@sha256:" + "0" * 64), "No such image"),
        (("push", "Bad Name"), "invalid reference format"),
        (("push", "--compression", "lzma", "localhost:1/app:1"), "lzma"),
        (("push", "--chunk-size", "much", "localhost:1/app:1"), "--chunk-size"),
        (("push", "localhost:1/app:1"), "cannot reach localhost:1"),
        (("pull", "localhost:1/app:1"), "cannot reach localhost:1"),
        (("pull", "--platform", "x y", "localhost:1/app"), "not a platform"),
        (("login", "a b"), "not a registry's address"),
        (("login", "localhost:1"), "non TTY"),
        (("login", "-p", "x", "--password-stdin", "localhost:1"), "not allowed with"),
        (("login", "--password-stdin", "localhost:1"), "--username"),
        (("login", "-u", "ann", "-p", "x", "localhost:1"), "cannot reach localhost:1"),
    ],
)
def test_what_cannot_be_done_is_said(
    contain: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    make_image(tmp_path / "store", "localhost:1/app:1", {"a": b""})
    assert message in contain(*arguments, status=1).stderr


def test_documents_are_attached_and_found_without_a_referrers_api(
    start_registry: Callable[..., Server], tmp_path: Path
) -> None:
    """This server has none, and says nothing in OCI-Subject."""
    server = start_registry()
    name = parse_reference(f"{server.host}/app:1")
    subject = make_image(tmp_path / "store", str(name), {"a": b"1"})
    with Store.open(tmp_path / "store") as store, open_session(name.domain, configuration=NOTHING) as session:
        push(name, store=store, configuration=NOTHING)
        kinds = ("application/vnd.cyclonedx+json", "application/vnd.in-toto+json")
        for kind in kinds:
            push_artifact(name, subject, artifact_type=kind, blob=bytes_blob(kind, b'{"kind":1}'), session=session)
        assert [row.artifact_type for row in list_referrers(name, subject, session=session)] == list(kinds)
        (found,) = list_referrers(name, subject, artifact_type=kinds[1], session=session)
        manifest = fetch_manifest(parse_reference(f"{name.name}@{found.descriptor.digest}"), session=session)
        out = io.BytesIO()
        layer = json.loads(manifest.data)["layers"][0]
        fetch_blob(name, bytes_blob(kinds[1], b'{"kind":1}').descriptor, out, session=session)
        assert (out.getvalue(), layer["mediaType"]) == (b'{"kind":1}', kinds[1])
    assert names_of(server, "app") == ["1", subject.replace(":", "-")]


def test_a_build_cache_can_live_there(start_registry: Callable[..., Server]) -> None:
    server = start_registry()
    name = parse_reference(f"{server.host}/cache:main")
    config, layer = bytes_blob("application/vnd.example.cache.v1+json", b"{}"), bytes_blob("application/octet-stream", NOISE)

    def row(blob: Any) -> dict[str, Any]:
        return {"mediaType": blob.descriptor.media_type, "digest": blob.descriptor.digest, "size": blob.descriptor.size}

    manifest = canonical_json({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": row(config), "layers": [row(layer)]})
    with open_session(name.domain, configuration=NOTHING) as session:
        push_manifest(name, manifest, [config, layer], session=session)
        assert fetch_manifest(name, session=session).data == manifest
        out = io.BytesIO()
        fetch_blob(name, layer.descriptor, out, session=session)
        assert out.getvalue() == NOISE


def test_an_image_for_another_platform_is_pulled_when_asked_for(
    start_registry: Callable[..., Server], contain: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    server = start_registry()
    manifest = server.put_image("app", "1", ("gzip", archive({"a": b"1"}).getvalue()), architecture="s390x")
    assert "linux/s390x" in contain("pull", "--platform", "linux/arm64", f"{server.host}/app:1", status=1).stderr
    contain("pull", "--platform", "linux/s390x", f"{server.host}/app:1")
    with Store.open(tmp_path / "store") as store:
        image = store.find_image(f"{server.host}/app:1")
        assert image.config.platform == Platform(architecture="s390x")
        assert store.read_blob(image.digest) == manifest
