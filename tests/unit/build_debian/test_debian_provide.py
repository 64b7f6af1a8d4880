from __future__ import annotations

import hashlib
import lzma
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Protocol

import pysequoia
import pytest

from contain.build.debian import provide, provide_debian_base
from contain.build.debian.debfile import DebContents, plain_deb
from contain.build.debian.provide import SOURCE, refuse_one_owner, remove_old_downloads
from contain.errors import ContainError, HostError, IntegrityError, NotFound
from contain.oci import History, Image, ImageConfig
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import Store

BOOKWORM = parse_reference("debian:bookworm")
NAMES = ("base-files", "base-passwd", "apt", "debian-archive-keyring")
DEBS = {name: b"".join(plain_deb(DebContents(control=name.encode(), data=bytes(1024)))) for name in NAMES}


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


def fill(
    archive: Archive,
    key: pysequoia.Tsk,
    *,
    suite: str = "bookworm",
    codename: str = "bookworm",
    version: str = "12.15",
    debs: Mapping[str, bytes] = DEBS,
) -> None:
    packages = "".join(
        f"Package: {name}\nEssential: yes\nVersion: 1\nArchitecture: amd64\nFilename: pool/{name}.deb\n"
        f"Size: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n\n"
        for name, deb in debs.items()
    )
    index = lzma.compress(packages.encode())
    text = (
        f"Suite: oldstable\nCodename: {codename}\nVersion: {version}\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n"
        f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages.xz\n"
    )
    signed = pysequoia.sign(key.signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR)
    archive.files[f"dists/{suite}/InRelease"] = signed
    archive.files[f"dists/{suite}/main/binary-amd64/Packages.xz"] = index
    archive.files |= {f"pool/{name}.deb": deb for name, deb in debs.items()}


def refused(archive: Archive, store: Store, name: str = "debian:bookworm") -> ContainError:
    with pytest.raises(ContainError) as caught:
        provide_debian_base(parse_reference(name), store=store, progress=Silent(), mirror=archive.address, environ={})
    assert store.images() == ()
    assert store.name_source(parse_reference(name)) is None
    return caught.value


def test_other_images_are_left_to_others_without_asking_an_archive(archive: Archive, store: Store) -> None:
    for name in ("python:3.12", "registry.example/library/debian:12"):
        assert provide_debian_base(parse_reference(name), store=store, progress=Silent(), mirror=archive.address) is None
    assert archive.asked == []


def test_a_strangers_archive_is_refused_before_anything_else_is_fetched(archive: Archive, store: Store) -> None:
    fill(archive, pysequoia.Tsk.generate("Somebody else <else@example.org>", profile=pysequoia.Profile.RFC4880))
    error = refused(archive, store)
    assert (type(error), error.code) == (IntegrityError, "debian-signature")
    assert archive.asked == ["/debian/dists/bookworm/InRelease"]


def test_another_suites_signed_file_is_refused(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    fill(archive, key, suite="bookworm", codename="bullseye")
    assert refused(archive, store).code == "debian-wrong-suite"


def test_a_changed_list_of_packages_is_refused(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    fill(archive, key)
    place = "dists/bookworm/main/binary-amd64/Packages.xz"
    archive.files[place] = lzma.compress(b"Package: evil\n")
    assert refused(archive, store).code == "debian-digest"


def test_a_changed_package_is_refused(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    fill(archive, key)
    archive.files["pool/base-passwd.deb"] = DEBS["base-passwd"][:-1] + b"x"
    assert refused(archive, store).code == "debian-digest"


def test_a_signed_package_that_is_none_is_refused(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    fill(archive, key, debs=DEBS | {"apt": b"!<arch>\nnot much of a package"})
    assert refused(archive, store).code == "debian-package"


def test_a_stable_release_of_the_future_is_refused_by_name(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    fill(archive, key, suite="oldstable", codename="sarge")
    error = refused(archive, store, "debian:oldstable")
    assert isinstance(error, NotFound)
    assert "oldstable is sarge" in error.message


def test_a_point_release_must_be_the_present_one(archive: Archive, store: Store, key: pysequoia.Tsk) -> None:
    fill(archive, key)
    assert "12.15" in refused(archive, store, "debian:12.11").remedy


def test_what_another_process_made_meanwhile_is_taken(archive: Archive, store: Store) -> None:
    image = store.put_image(ImageConfig(), ())
    store.tag(BOOKWORM, image.digest, source=SOURCE)
    provided = provide_debian_base(BOOKWORM, store=store, progress=Silent(), mirror=archive.address)
    assert provided is not None
    assert provided.image == image
    assert archive.asked == []


def test_one_state_of_the_archive_is_bootstrapped_once_for_all_its_names(
    archive: Archive, store: Store, key: pysequoia.Tsk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def bootstrap(plan: provide.BootstrapPlan, *_: object, **__: object) -> Image:
        made.append(plan.key)
        return store.put_image(ImageConfig(history=(History(comment=plan.release.digest),)), ())

    monkeypatch.setattr(provide, "_bootstrap", bootstrap)

    def digest(name: str) -> str:
        provided = provide_debian_base(parse_reference(name), store=store, progress=Silent(), mirror=archive.address)
        assert provided is not None
        assert provided.source == SOURCE
        assert store.name_source(parse_reference(name)) == (provided.image.digest, SOURCE)
        return provided.image.digest

    fill(archive, key)
    assert digest("debian:bookworm") == digest("debian:12-slim") == digest("debian:12.15")
    assert len(made) == 1
    fill(archive, key, version="12.16")
    assert digest("debian:12") != digest("debian:bookworm")
    assert len(made) == 2


def test_downloads_that_nobody_used_for_long_can_be_removed(tmp_path: Path) -> None:
    import os

    (tmp_path / "debian").mkdir()
    for name in ("old", "new"):
        (tmp_path / "debian" / name).write_bytes(b"12345")
    os.utime(tmp_path / "debian/old", (0, 0))
    assert remove_old_downloads(tmp_path, older_than_seconds=86400) == 5
    assert [entry.name for entry in (tmp_path / "debian").iterdir()] == ["new"]


def test_a_user_who_is_one_only_is_told_before_anything_is_downloaded() -> None:
    refuse_one_owner("         0          0 4294967295\n", name="debian:bookworm")
    refuse_one_owner("0 1000 1\n1 100000 65536\n", name="debian:bookworm")
    with pytest.raises(HostError, match="several owners") as caught:
        refuse_one_owner("         0       1000          1\n", name="debian:bookworm")
    assert "contain load" in caught.value.remedy
