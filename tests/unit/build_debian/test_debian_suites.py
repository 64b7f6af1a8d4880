from __future__ import annotations

import pytest

from contain.build.debian.suites import WantedSuite, debian_architecture, resolve_suite
from contain.errors import NotFound, NotSupported
from contain.reference import parse_reference


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("debian:bookworm", "bookworm"),
        ("debian:bookworm-slim", "bookworm"),
        ("debian:12", "bookworm"),
        ("debian:12-slim", "bookworm"),
        ("debian:bullseye", "bullseye"),
        ("debian:11", "bullseye"),
        ("debian:trixie-slim", "trixie"),
        ("debian:13", "trixie"),
        ("debian", "stable"),
        ("debian:stable-slim", "stable"),
        ("docker.io/library/debian:oldstable", "oldstable"),
    ],
)
def test_every_form_of_a_known_tag_means_its_suite(name: str, suite: str) -> None:
    assert resolve_suite(parse_reference(name)) == WantedSuite(suite=suite)


def test_a_point_release_is_asked_for_exactly() -> None:
    assert resolve_suite(parse_reference("debian:12.11-slim")) == WantedSuite(suite="bookworm", point_release="12.11")


@pytest.mark.parametrize(
    "name",
    [
        "python:3.12",
        "ubuntu:bookworm",
        "someone/debian:bookworm",
        "registry.example/library/debian:bookworm",
        f"debian:12@sha256:{'0' * 64}",
    ],
)
def test_what_an_archive_cannot_promise_is_left_to_others(name: str) -> None:
    assert resolve_suite(parse_reference(name)) is None


def test_an_unknown_tag_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(NotFound, match="did you mean debian:bookworm"):
        resolve_suite(parse_reference("debian:bokworm"))


@pytest.mark.parametrize("tag", ["bookworm-20250520", "bookworm-backports", "buster", "9", "10.13"])
def test_tags_that_no_archive_holds_are_refused(tag: str) -> None:
    with pytest.raises(NotFound) as caught:
        resolve_suite(parse_reference(f"debian:{tag}"))
    assert caught.value.code == "no-such-debian"


def test_an_architecture_is_refused_by_its_name() -> None:
    assert debian_architecture("aarch64") == "arm64"
    with pytest.raises(NotSupported, match="riscv64"):
        debian_architecture("riscv64")
