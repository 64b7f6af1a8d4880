from __future__ import annotations

import pytest

from contain.build.graph import BuildGraph, ImageBase, ScratchBase, StageBase, resolve_build
from contain.dockerfile.parse import parse_dockerfile
from contain.errors import NotFound, NotSupported, UsageError
from contain.oci import Platform
from contain.reference import parse_reference

AMD64 = Platform(os="linux", architecture="amd64")
ARM = Platform(os="linux", architecture="arm", variant="v7")


def graph(text: str, *, target: str | None = None, platform: Platform = AMD64, **build_args: str) -> BuildGraph:
    return resolve_build(parse_dockerfile(text), target=target, build_args=build_args, platform=platform, host_platform=AMD64)


def test_only_what_the_target_needs_is_planned_dependencies_first() -> None:
    found = graph(
        "FROM scratch AS a\nFROM scratch AS unused\nFROM scratch AS c\nFROM a AS d\nCOPY --from=c /x /x\nFROM d AS later\n",
        target="d",
    )
    assert [plan.title for plan in found.stages] == ["a", "c", "d"]
    assert found.skipped == (1, 4)


def test_copying_from_a_number_is_a_dependency() -> None:
    found = graph("FROM scratch\nFROM scratch AS b\nCOPY --from=0 /x /\n", target="b")
    assert [plan.index for plan in found.stages] == [0, 1]


@pytest.mark.parametrize("name", ["b", "1", "a"])
def test_copying_from_a_later_stage_or_from_itself_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="defined before") as caught:
        graph(f"FROM scratch AS a\nCOPY --from={name} /x /\nFROM scratch AS b\nCOPY --from=a /x /\n", target="a")
    assert caught.value.code == "stage-order"


def test_an_unknown_target_is_answered_with_the_nearest_stage() -> None:
    with pytest.raises(NotFound, match="did you mean 'builder'"):
        graph("FROM scratch AS builder\nFROM scratch AS final\n", target="bulder")


def test_an_unknown_stage_number_says_which_there_are() -> None:
    with pytest.raises(NotFound, match="from 0 to 0") as caught:
        graph("FROM scratch\nCOPY --from=3 /x /\n")
    assert caught.value.span is not None


def test_a_stage_name_shadows_an_image_and_scratch_is_nothing() -> None:
    found = graph("FROM scratch AS debian\nFROM debian\nFROM python:3\n", target="1")
    assert isinstance(found.stages[0].base, ScratchBase)
    assert found.stages[1].base == StageBase(index=0)
    base = graph("FROM python:3").stages[0].base
    assert isinstance(base, ImageBase)
    assert str(base.reference) == "docker.io/library/python:3"


def test_from_sees_global_args_and_build_arguments() -> None:
    text = "ARG TAG=1\nARG NAME=img:$TAG\nFROM $NAME\n"
    assert graph(text).stages[0].base == ImageBase(reference=parse_reference("img:1"))
    assert graph(text, TAG="2").stages[0].base == ImageBase(reference=parse_reference("img:2"))


def test_an_empty_base_points_at_the_variable() -> None:
    with pytest.raises(UsageError, match="empty") as caught:
        graph("ARG X\nFROM $X\n")
    assert caught.value.span is not None
    assert caught.value.span.line == 2


def test_platform_variables_are_global() -> None:
    found = graph("FROM --platform=$BUILDPLATFORM x AS a\nFROM x\nCOPY --from=a / /\n", platform=ARM)
    assert [plan.platform for plan in found.stages] == [AMD64, ARM]
    assert found.global_arguments["TARGETPLATFORM"] == "linux/arm/v7"
    assert found.global_arguments["TARGETVARIANT"] == "v7"


def test_build_arguments_that_nothing_declares_are_reported() -> None:
    found = graph("ARG G\nFROM scratch\nARG S\nONBUILD ARG T\n", G="", S="", T="", U="", HTTP_PROXY="", SOURCE_DATE_EPOCH="0")
    assert found.unused_arguments == ("U",)


def test_what_is_not_supported_in_a_stage_that_is_not_needed_does_not_matter() -> None:
    text = "FROM scratch AS a\nRUN --device=x true\nFROM scratch AS b\n"
    assert [plan.title for plan in graph(text).stages] == ["b"]
    with pytest.raises(NotSupported):
        graph(text, target="a")
