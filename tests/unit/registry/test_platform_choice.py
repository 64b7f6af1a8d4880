"""Which image of an index runs here."""

from __future__ import annotations

import pytest

from contain.errors import NotFound, UsageError
from contain.oci import Descriptor, Platform
from contain.registry.platform import choose_platform, host_platform, parse_platform, runs_on


def offer(*platforms: str | None) -> list[Descriptor]:
    return [
        Descriptor(
            media_type="m",
            digest=f"sha256:{number:064x}",
            size=number,
            platform=None if text is None else parse_platform(text),
        )
        for number, text in enumerate(platforms)
    ]


@pytest.mark.parametrize(
    ("wanted", "offered", "position"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"], 2),
        ("linux/arm64", ["linux/arm64/v8"], 0),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64", ["linux/arm64/v9", "linux/arm64/v8"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", [None], 0),
    ],
)
def test_the_newest_variant_that_runs_is_taken(wanted: str, offered: list[str | None], position: int) -> None:
    assert choose_platform(offer(*offered), parse_platform(wanted), name="x").size == position


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/amd64", ["linux/amd64/v2"]),
        ("linux/amd64", ["windows/amd64", "unknown/unknown"]),
        ("linux/arm64", ["linux/arm/v7"]),
        ("linux/amd64", [None, None]),
        ("linux/amd64", []),
    ],
)
def test_what_does_not_run_is_not_taken(wanted: str, offered: list[str | None]) -> None:
    with pytest.raises(NotFound) as caught:
        choose_platform(offer(*offered), parse_platform(wanted), name="x")
    assert caught.value.code == "platform-not-in-image"
    assert "unknown" not in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("riscv64", "linux/riscv64"),
        ("i686", "linux/386"),
    ],
)
def test_machines_have_their_go_names(machine: str, expected: str) -> None:
    assert str(host_platform(machine)) == expected


def test_platforms_are_parsed_as_docker_writes_them() -> None:
    assert parse_platform("arm64") == Platform(architecture="arm64")
    assert parse_platform("linux/x86_64") == Platform()
    for wrong in ("", "linux/", "a/b/c/d", "Linux/amd64"):
        with pytest.raises(UsageError):
            parse_platform(wrong)


def test_a_variant_without_a_number_must_be_the_same() -> None:
    assert runs_on(Platform(architecture="mips", variant="soft"), Platform(architecture="mips", variant="soft"))
    assert not runs_on(Platform(architecture="mips", variant="soft"), Platform(architecture="mips"))
