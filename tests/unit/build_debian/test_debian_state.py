"""The state of an archive that a lock names is made again, from wherever it still is, and never taken for another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Protocol

import pysequoia
import pytest

from contain.build.debian import provide, provide_debian_state
from contain.build.debian.mirror import parse_debian_snapshots, parse_debian_table, snapshot_mirrors
from contain.errors import UsageError
from contain.oci import History, Image, ImageConfig
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import Store

BOOKWORM = parse_reference("debian:bookworm")


class Archive(Protocol):
    files: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]]
    asked: list[str]
    address: str


@pytest.fixture(scope="module")
def key() -> pysequoia.Tsk:
    return pysequoia.Tsk.generate("A test archive <archive@example.org>", profile=pysequoia.Profile.RFC4880)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, key: pysequoia.Tsk, tmp_path: Path) -> None:
    monkeypatch.setattr(provide, "shipped_keys", lambda: (bytes(key.extract_certificate()),))
    monkeypatch.setattr(provide, "read_host_keyring", lambda: ())
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "none.toml").write_text("")
    monkeypatch.setenv("CONTAIN_CONFIG", str(tmp_path / "none.toml"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:

        def bootstrap(plan: provide.BootstrapPlan, *_: object, **__: object) -> Image:
            return opened.put_image(ImageConfig(history=(History(comment=plan.release.digest),)), ())

        monkeypatch.setattr(provide, "_bootstrap", bootstrap)
        yield opened


def publish(archive: Archive, key: pysequoia.Tsk, place: str, *, version: str, date: str = "11 Jul 2026 10:16:37") -> str:
    """A signed state below ``place``; what a lock says of it."""
    text = (
        f"Suite: oldstable\nCodename: bookworm\nVersion: {version}\nDate: Sat, {date} UTC\nSHA256:\n"
        f" {'0' * 64} 5 main/binary-amd64/Packages.xz\n"
    )
    signed = pysequoia.sign(key.signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR)
    archive.files[f"{place}dists/bookworm/InRelease"] = signed
    covered = bytes(pysequoia.verify(signed, lambda _: [key.extract_certificate()]).bytes or b"")
    digest = hashlib.sha256(covered).hexdigest()
    return f"Debian {version} (bookworm), Release file of 2026-07-11T10:16:37Z, sha256:{digest}"


def ask(archive: Archive, store: Store, state: str, snapshots: str | None = None) -> Image | None:
    address = f"{archive.address}/snapshots" if snapshots is None else snapshots
    return provide_debian_state(
        BOOKWORM, state, store=store, progress=Silent(), mirror=archive.address, snapshots=address, environ={}
    )


def test_a_mirror_that_still_has_the_state_is_enough(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    state = publish(archive, key, "", version="12.14")
    image = ask(archive, store, state)
    assert image is not None
    assert image.config.history[0].comment == state.rpartition(" ")[2]
    assert archive.asked == ["/debian/dists/bookworm/InRelease"]
    assert store.name_source(BOOKWORM) is None


def test_an_earlier_state_comes_from_the_archive_of_states(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    publish(archive, key, "", version="12.15")
    state = publish(archive, key, "snapshots/20260711T161637Z/", version="12.14")
    image = ask(archive, store, state)
    assert image is not None
    assert image.config.history[0].comment == state.rpartition(" ")[2]


def test_a_state_that_is_nowhere_is_not_replaced_by_another(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    state = publish(archive, key, "", version="12.14")
    publish(archive, key, "", version="12.15")
    for hour in ("20260712T101637Z", "20260711T161637Z", "20260711T121637Z"):
        publish(archive, key, f"snapshots/{hour}/", version="12.16")
    assert ask(archive, store, state) is None
    assert store.images() == ()
    assert len(archive.asked) == 4


def test_a_strangers_state_is_not_taken(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    publish(archive, key, "", version="12.15")
    stranger = pysequoia.Tsk.generate("Somebody else <else@example.org>", profile=pysequoia.Profile.RFC4880)
    state = publish(archive, stranger, "snapshots/20260712T101637Z/", version="12.14")
    assert ask(archive, store, state) is None


def test_an_archive_of_states_that_cannot_be_reached_is_asked_once(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    state = publish(archive, key, "", version="12.14")
    publish(archive, key, "", version="12.15")
    assert ask(archive, store, state, snapshots="http://127.0.0.1:1/none") is None
    assert ask(archive, store, state, snapshots="") is None


@pytest.mark.parametrize("state", ["", "nothing", "Debian 12, Release file of yesterday, sha256:00"])
def test_a_lock_that_says_nothing_asks_nobody(archive: Archive, store: Store, state: str) -> None:
    assert ask(archive, store, state) is None
    assert provide_debian_state(parse_reference("python"), state, store=store, progress=Silent()) is None
    assert archive.asked == []


def test_the_archive_of_states_is_a_setting() -> None:
    assert parse_debian_snapshots({}).startswith("https://snapshot.debian.org/")
    assert parse_debian_snapshots({"snapshots": "http://own.example/x/"}) == "http://own.example/x"
    assert parse_debian_snapshots({"snapshots": ""}) == ""
    assert parse_debian_table({"snapshots": ""}) is None
    for table in ({"snapshots": 1}, {"snapshots": "ftp://x"}, {"snapshots": "nonsense"}):
        with pytest.raises(UsageError):
            parse_debian_snapshots(table)
    assert snapshot_mirrors("http://own.example", 0)[0] == "http://own.example/19700102T000000Z"
    assert snapshot_mirrors("", 0) == ()
