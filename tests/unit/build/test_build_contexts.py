from __future__ import annotations

import pytest

from contain.build.contexts.places import ContextKind, context_key, parse_context, parse_layout, parse_named_contexts
from contain.build.outputs import Output, OutputKind, parse_output
from contain.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (".", ContextKind.DIRECTORY),
        ("dir/with:colon", ContextKind.DIRECTORY),
        ("-", ContextKind.STANDARD_INPUT),
        ("https://host/context.tar.gz", ContextKind.URL),
        ("http://host/Dockerfile", ContextKind.URL),
        ("https://host/repository.git", ContextKind.GIT),
        ("https://host/repository.git#main:dir", ContextKind.GIT),
        ("git@host:repository.git", ContextKind.GIT),
        ("git://host/repository", ContextKind.GIT),
        ("ssh://git@host/repository", ContextKind.GIT),
        ("github.com/owner/name", ContextKind.GIT),
    ],
)
def test_what_a_context_is_follows_from_its_text(text: str, kind: ContextKind) -> None:
    assert parse_context(text).kind is kind


def test_a_directory_that_exists_is_meant_whatever_its_name() -> None:
    assert parse_context("github.com/owner/name", is_directory=True).kind is ContextKind.DIRECTORY


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        parse_context("")


def test_named_contexts_are_found_by_any_spelling_of_an_image_name() -> None:
    found = parse_named_contexts(
        ["docker.io/library/alpine:latest=dir", "app:1.2=docker-image://debian:12", "Base=oci-layout://x:1"]
    )
    assert {name: place.kind for name, place in found.items()} == {
        "alpine": ContextKind.DIRECTORY,
        "app:1.2": ContextKind.IMAGE,
        "base": ContextKind.LAYOUT,
    }
    assert context_key("alpine") == context_key("alpine:latest") == context_key("docker.io/alpine") == "alpine"
    assert context_key("Stage_Name") == "stage_name"


@pytest.mark.parametrize(
    "text", ["", "name", "=value", "name=", "scratch=dir", "context=dir", "name=ftp://host/x", "name=docker-image://UPPER"]
)
def test_a_named_context_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_named_contexts([text])


def test_a_layout_is_a_path_with_a_tag_and_a_digest() -> None:
    digest = "sha256:" + "a" * 64
    assert parse_layout("dir") == ("dir", "", "")
    assert parse_layout("./a:b/dir:1.2") == ("./a:b/dir", "1.2", "")
    assert parse_layout(f"dir:tag@{digest}") == ("dir", "tag", digest)
    assert parse_layout(f"dir@{digest}") == ("dir", "", digest)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("out", Output(kind=OutputKind.LOCAL, destination="out")),
        ("-", Output(kind=OutputKind.TAR, destination="-")),
        ("type=local,dest=out", Output(kind=OutputKind.LOCAL, destination="out")),
        ("type=tar", Output(kind=OutputKind.TAR, destination="-")),
        ("type=oci,dest=a.tar", Output(kind=OutputKind.OCI, destination="a.tar")),
        ('type=tar,"dest=a,b.tar"', Output(kind=OutputKind.TAR, destination="a,b.tar")),
        ("type=docker", Output(kind=OutputKind.DOCKER)),
        ("type=docker,dest=a.tar", Output(kind=OutputKind.DOCKER, destination="a.tar")),
        ('type=image,"name=a,b",push=true', Output(kind=OutputKind.IMAGE, names=("a", "b"), push=True)),
        ("type=registry", Output(kind=OutputKind.REGISTRY, push=True)),
    ],
)
def test_an_output_is_what_docker_would_take_it_for(text: str, output: Output) -> None:
    assert parse_output(text) == output


@pytest.mark.parametrize(
    "text",
    [
        "type=lokal",
        "type=local",
        "dest=out,x=y",
        "dest=a,dest=b",
        "type=local,dest=-",
        "type=image,dest=x",
        "type=oci,tar=false",
        '"a,b',
    ],
)
def test_an_output_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_output(text)
    assert caught.value.code == "bad-output"
