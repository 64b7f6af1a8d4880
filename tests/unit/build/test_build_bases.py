from __future__ import annotations

from pathlib import Path
from typing import Any

import pluggy
import pytest

from contain.build.bases import BaseProviderHooks, ProvidedBase, find_base, hookimpl
from contain.build.host_root import HOST_LABEL, host_fingerprint, image_trees
from contain.errors import Conflict, NotFound, RegistryError
from contain.oci import Descriptor, Image, ImageConfig, Manifest, Platform
from contain.progress import Progress, Silent
from contain.reference import Reference, parse_reference

AMD64 = Platform(os="linux", architecture="amd64")
NAME = parse_reference("debian:bookworm")


def image(character: str, config: ImageConfig | None = None) -> Image:
    digest = "sha256:" + character * 64
    descriptor = Descriptor(media_type="x", digest=digest, size=0)
    return Image(digest=digest, manifest=Manifest(config=descriptor, layers=()), config=config or ImageConfig(platform=AMD64))


class FakeStore:
    """Names and images in memory: what `find_base` asks a store."""

    def __init__(self, *, local: Image | None = None, source: str = "") -> None:
        self.names = {str(NAME): (local.digest, source)} if local is not None else {}
        self.kept = {local.digest: local} if local is not None else {}

    def name_source(self, reference: Reference) -> tuple[str, str] | None:
        return self.names.get(str(reference))

    def image(self, digest: str) -> Image:
        return self.kept[digest]

    def tag(self, reference: Reference, digest: str, *, source: str) -> None:
        self.names[str(reference)] = (digest, source)

    def layer_trees(self, _image: Image) -> tuple[Path, ...]:
        return (Path("/layer"),)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Provider:
    @hookimpl
    def contain_provide_base(self, reference: Reference) -> ProvidedBase | None:
        return ProvidedBase(image=image("c"), source="made up") if reference == NAME else None


def providers() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("contain")
    manager.add_hookspecs(BaseProviderHooks)
    manager.register(Provider())
    return manager


def pulled(_reference: Reference, _platform: Platform, _progress: Progress) -> Image:
    return image("b")


def unreachable(_reference: Reference, _platform: Platform, _progress: Progress) -> Image:
    raise RegistryError("no connection", code="registry-unreachable")


def absent(_reference: Reference, _platform: Platform, _progress: Progress) -> Image:
    raise NotFound("docker.io has no such image", code="image-not-in-registry")


def find(store: FakeStore, pull: Any, reference: Reference = NAME, progress: Notes | None = None) -> Any:
    fake: Any = store
    return find_base(reference, AMD64, progress or Notes(), store=fake, pull=pull, providers=providers)


def test_the_local_store_comes_first_and_says_how_the_name_got_there() -> None:
    notes = Notes()
    found = find(FakeStore(local=image("a"), source="imported"), pulled, progress=notes)
    assert found.image.digest == image("a").digest
    assert (found.source.source, found.source.local) == ("imported", True)
    assert notes.notes == [f"debian:bookworm: in the local store (imported), {image('a').digest}"]


def test_a_local_image_of_another_platform_is_not_taken() -> None:
    other = image("a", ImageConfig(platform=Platform(os="linux", architecture="s390x")))
    assert find(FakeStore(local=other), pulled).image.digest == image("b").digest


def test_another_platform_is_not_answered_with_this_machine_s_image() -> None:
    store: Any = FakeStore(local=image("a"), source="bootstrapped")
    arm = Platform(os="linux", architecture="arm64")
    with pytest.raises(NotFound, match=r"debian:bookworm cannot be had for linux/arm64") as caught:
        find_base(NAME, arm, Notes(), store=store, pull=unreachable, providers=providers)
    assert caught.value.code == "platform-not-in-image"
    assert store.names[str(NAME)] == (image("a").digest, "bootstrapped")
    nobody = pluggy.PluginManager("contain")
    nobody.add_hookspecs(BaseProviderHooks)
    with pytest.raises(NotFound, match=r"in the local store for linux/amd64, not for linux/arm64"):
        find_base(NAME, arm, Notes(), store=store, pull=unreachable, providers=lambda: nobody)


@pytest.mark.parametrize("pull", [unreachable, absent])
def test_a_provider_is_asked_when_no_registry_has_it_and_its_source_is_kept_with_the_name(pull: Any) -> None:
    store = FakeStore()
    found = find(store, pull)
    assert found.source.source == "made up"
    assert store.names[str(NAME)] == (image("c").digest, "made up")


def test_a_registry_comes_before_a_provider() -> None:
    assert find(FakeStore(), pulled).source.source == "registry docker.io"


def test_with_pull_the_registry_comes_before_the_local_store() -> None:
    store: Any = FakeStore(local=image("a"), source="imported")
    found = find_base(NAME, AMD64, Notes(), store=store, pull=pulled, providers=providers, refresh=True)
    assert found.image.digest == image("b").digest
    # A provider makes its images anew as well.
    found = find_base(NAME, AMD64, Notes(), store=store, pull=unreachable, providers=providers, refresh=True)
    assert found.source.source == "made up"


def test_with_pull_what_cannot_be_had_anew_is_taken_from_the_store_with_a_warning() -> None:
    warnings: list[str] = []

    class Told(Notes):
        def warn(self, text: str) -> None:
            warnings.append(text)

    store: Any = FakeStore(local=image("a"), source="built")

    def nobody() -> pluggy.PluginManager:
        manager = pluggy.PluginManager("contain")
        manager.add_hookspecs(BaseProviderHooks)
        return manager

    found = find_base(NAME, AMD64, Told(), store=store, pull=absent, providers=nobody, refresh=True)
    assert found.image.digest == image("a").digest
    assert warnings == ["debian:bookworm could not be looked up anew: docker.io has no such image; the local one is used"]


def test_a_registry_that_refuses_is_not_passed_over() -> None:
    def refuses(_reference: Reference, _platform: Platform, _progress: Progress) -> Image:
        raise RegistryError("denied", code="registry-denied")

    with pytest.raises(RegistryError, match="denied"):
        find(FakeStore(), refuses)


def test_an_unknown_name_says_what_each_place_answered() -> None:
    expected = r"not in the local store; the registry docker\.io cannot be reached \(no connection\); no base provider"
    with pytest.raises(NotFound, match=expected):
        find(FakeStore(), unreachable, parse_reference("nothing:1"))


def test_a_provider_that_has_no_such_image_does_not_hide_that_the_registry_was_out_of_reach() -> None:
    class Choosy:
        @hookimpl
        def contain_provide_base(self) -> ProvidedBase | None:
            raise NotFound("debian:sid is not made here", code="no-such-debian")

    manager = pluggy.PluginManager("contain")
    manager.add_hookspecs(BaseProviderHooks)
    manager.register(Choosy())
    store: Any = FakeStore()
    with pytest.raises(NotFound, match=r"cannot be reached \(no connection\); debian:sid is not made here") as caught:
        find_base(NAME, AMD64, Notes(), store=store, pull=unreachable, providers=lambda: manager)
    assert caught.value.code == "no-such-debian"


def test_an_image_of_another_machine_s_root_is_refused_and_this_one_s_stands_on_it() -> None:
    store: Any = FakeStore()
    here = image("a", ImageConfig(labels={HOST_LABEL: host_fingerprint()}))
    assert image_trees(here, store) == (Path("/"), Path("/layer"))
    with pytest.raises(Conflict):
        image_trees(image("a", ImageConfig(labels={HOST_LABEL: "sha256:other"})), store)
    assert image_trees(image("a"), store) == (Path("/layer"),)


def test_the_fingerprint_changes_with_the_packages(tmp_path: Path) -> None:
    empty = host_fingerprint(tmp_path)
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text("Package: a\n")
    packages = host_fingerprint(tmp_path)
    (tmp_path / "usr/lib/python3/dist-packages/x-1.dist-info").mkdir(parents=True)
    assert len({empty, packages, host_fingerprint(tmp_path)}) == 3
    assert host_fingerprint(tmp_path) == host_fingerprint(tmp_path)
