"""Locks: what moved is named, and nothing else; the file is stable text, and nonsense in it is a clear error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contain.build.lock.compare import (
    Lock,
    LockedBase,
    LockedStage,
    LockedStep,
    Moved,
    compare_locks,
    moved_error,
    render_moved,
)
from contain.build.lock.constraints import constraints_of
from contain.build.lock.file import parse_lock, render_lock
from contain.build.lock.outline import outline
from contain.errors import UsageError


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


BASE = LockedBase(
    digest=digest(1), platform="linux/amd64", source="registry docker.io", state="", packages={"dpkg": {"libc6": "2.36-9"}}
)
COPY = LockedStep(text="COPY . /app", layer=digest(11), from_context=True, files={"/app/a": "01", "/app/b": "02"})
APT = LockedStep(text="RUN apt-get install curl", layer=digest(12), packages={"dpkg": {"curl": "7.88"}}, files={"/usr/": "05"})
PIP = LockedStep(
    text="RUN pip install flask", layer=digest(13), packages={"python": {"flask": "3.0", "click": "8.1"}}, files={"/opt/": "06"}
)
LOCK = Lock(
    image=digest(100),
    dockerfile="Dockerfile",
    target="",
    platform="linux/amd64",
    epoch_seconds=946684800,
    build_args={"A": "1", "API_TOKEN": None},
    options={},
    bases={"debian:bookworm": BASE},
    sources={"https://example.org/x": digest(7)},
    stages=(
        LockedStage(name="tools", base="debian:bookworm", steps=(APT,)),
        LockedStage(name="app", base="stage tools", steps=(LockedStep(text="ENV A=1"), COPY, PIP)),
    ),
)


def with_steps(*changed: LockedStep, **fields: Any) -> Lock:
    """The lock with another image, and with steps of the same texts replaced."""
    by_text = {step.text: step for step in changed}
    stages = tuple(replace(stage, steps=tuple(by_text.get(step.text, step) for step in stage.steps)) for stage in LOCK.stages)
    return replace(LOCK, image=digest(101), stages=stages, **fields)


def names(built: Lock) -> list[tuple[str, str]]:
    return [(row.kind, row.name) for row in compare_locks(LOCK, built)]


def test_the_locked_image_is_the_locked_image_whatever_else_the_lock_says() -> None:
    assert compare_locks(LOCK, replace(with_steps(replace(COPY, layer=digest(50))), image=LOCK.image)) == ()


def test_a_package_that_moved_is_named_with_its_step_and_nothing_that_follows_from_it() -> None:
    pip = replace(PIP, layer=digest(51), packages={"python": {"flask": "3.1", "click": "8.1"}}, files={"/opt/": "99"})
    assert compare_locks(LOCK, with_steps(pip)) == (
        Moved(kind="python package", name="flask", locked="3.0", built="3.1", where="RUN pip install flask"),
    )


def test_packages_that_came_and_went_are_named() -> None:
    apt = replace(APT, layer=digest(51), packages={"dpkg": {"wget": "1.21"}}, removed={"dpkg": {"nano": "7"}})
    rows = compare_locks(LOCK, with_steps(apt))
    assert [(row.name, row.locked, row.built, row.where) for row in rows] == [
        ("curl", "7.88", "", "RUN apt-get install curl"),
        ("wget", "", "1.21", "RUN apt-get install curl"),
        ("nano", "", "7", "removed by RUN apt-get install curl"),
    ]


def test_a_file_of_the_context_is_named_and_the_steps_after_it_are_not() -> None:
    copy = replace(COPY, layer=digest(51), files={"/app/a": "01", "/app/b": "03", "/app/c": "04"})
    pip = replace(PIP, layer=digest(52), files={"/opt/": "77"})  # it stands on the copy, so its bytes may differ as well
    assert names(with_steps(copy, pip)) == [("file", "/app/b"), ("file", "/app/c")]


def test_a_file_that_a_command_wrote_is_named_if_nothing_else_explains_it() -> None:
    pip = replace(PIP, layer=digest(52), files={"/opt/": "77"})
    assert names(with_steps(pip)) == [("file", "/opt/")]


def test_the_layers_themselves_are_compared_where_they_are_here() -> None:
    pip = replace(PIP, layer=digest(52), files={"/opt/": "77"})
    listings = {digest(13): {"/opt/x": "1", "/opt/y": "1"}, digest(52): {"/opt/x": "1", "/opt/y": "2"}}
    rows = compare_locks(LOCK, with_steps(pip), files_of=listings.get)
    assert [row.name for row in rows] == ["/opt/y"]


def test_bytes_that_nothing_explains_are_named_by_their_layer() -> None:
    (row,) = compare_locks(LOCK, with_steps(replace(PIP, layer=digest(52))))
    assert (row.kind, row.name, row.where) == ("layer", "built bytes differ at layer 2", "RUN pip install flask")


def test_a_base_that_moved_is_named_with_its_packages() -> None:
    base = replace(BASE, digest=digest(2), packages={"dpkg": {"libc6": "2.36-10"}})
    apt = replace(APT, layer=digest(51), files={"/usr/": "99"})  # the package database holds the base's packages, too
    rows = compare_locks(LOCK, with_steps(apt, bases={"debian:bookworm": base}))
    assert [(row.kind, row.name, row.locked, row.built) for row in rows] == [
        ("base", "debian:bookworm", digest(1), digest(2)),
        ("dpkg package", "libc6", "2.36-9", "2.36-10"),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"epoch_seconds": 5}, ("input", "SOURCE_DATE_EPOCH")),
        ({"platform": "linux/arm64"}, ("input", "platform")),
        ({"target": "x"}, ("input", "target")),
        ({"build_args": {"A": "2", "API_TOKEN": None}}, ("build argument", "A")),
        ({"options": {"strict-modes": True}}, ("option", "strict-modes")),
        ({"sources": {"https://example.org/x": digest(8)}}, ("source", "https://example.org/x")),
        ({}, ("config", "the image's configuration")),
    ],
)
def test_every_other_input_is_named(fields: Any, expected: tuple[str, str]) -> None:
    assert names(with_steps(**fields)) == [expected]


def test_another_version_of_contain_is_named_if_nothing_better_explains_it() -> None:
    locked = replace(LOCK, version="1")
    pip = replace(PIP, layer=digest(52), files={"/opt/": "77"})
    rows = compare_locks(locked, replace(with_steps(pip), version="2"))
    assert [(row.kind, row.name) for row in rows] == [("input", "version of contain"), ("file", "/opt/")]
    pip = replace(PIP, layer=digest(52), packages={"python": {"flask": "3.1", "click": "8.1"}})
    rows = compare_locks(locked, replace(with_steps(pip), version="2"))
    assert [row.name for row in rows] == ["flask"]


def test_an_instruction_that_was_changed_is_named_with_both_texts() -> None:
    changed = replace(APT, text="RUN apt-get install wget", layer=digest(51))
    stages = (replace(LOCK.stages[0], steps=(changed,)), LOCK.stages[1])
    rows = compare_locks(LOCK, replace(LOCK, image=digest(101), stages=stages))
    assert [(row.kind, row.locked, row.built) for row in rows] == [
        ("instruction", "RUN apt-get install curl", "RUN apt-get install wget")
    ]


def test_a_stage_that_came_or_went_is_named() -> None:
    rows = compare_locks(LOCK, replace(LOCK, image=digest(101), stages=LOCK.stages[1:]))
    assert [(row.kind, row.name, row.locked, row.built) for row in rows] == [("stage", "tools", "present", "absent")]


def test_the_error_is_a_table_that_ends() -> None:
    rows = tuple(Moved(kind="file", name=f"/{number}", locked="1", built="2") for number in range(100))
    text = str(moved_error(LOCK, rows, built=digest(101)))
    assert "... and 60 more" in text
    assert max(len(line) for line in text.splitlines()) < 250
    assert render_moved((Moved(kind="base", name="x", locked=digest(1), built=""),)).splitlines()[1].split() == [
        "base",
        "x",
        digest(1)[:19],
        "-",
    ]


def test_a_lock_survives_its_file_and_the_file_is_the_same_each_time() -> None:
    text = render_lock(LOCK)
    read = parse_lock(text.encode(), path="contain.lock")
    assert read == LOCK
    assert render_lock(read) == text
    turned = replace(LOCK, build_args=dict(reversed(list(LOCK.build_args.items()))))
    assert render_lock(turned) == text


def test_one_package_is_one_line_and_a_secret_is_in_none() -> None:
    lines = [line.strip() for line in render_lock(LOCK).splitlines()]
    assert '"flask": "3.0"' in lines
    assert '"API_TOKEN": null' in lines


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("\xff", "not UTF-8"),
        ("[]", "must be an object"),
        ("{}", 'there is no "lock"'),
        ('{"lock": 2}', "format is 2"),
        ("[" * 100_000, "nested too deeply"),
        ('{"lock": 1, "lock": 1}', "'lock' is there twice"),
        ('<<<<<<< ours\n{"lock": 1}\n', "merge conflict"),
        ('{"lock": 1, "image": "sha256:xyz", "source_date_epoch": 0}', "image is not a sha256 digest"),
        ('{"lock": 1, "source_date_epoch": -1}', "source_date_epoch"),
        ('{"lock": 1, "source_date_epoch": true}', "source_date_epoch"),
        ('{"lock": 1, "source_date_epoch": 0, "colour": 1}', "unknown field 'colour'"),
    ],
)
def test_nonsense_is_a_clear_error(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lock(text.encode("latin-1"), path="some.lock")
    assert caught.value.code == "bad-lock"
    assert "some.lock" in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize("at", range(40))
def test_a_value_of_another_type_anywhere_is_a_clear_error(at: int) -> None:
    value = json.loads(render_lock(LOCK))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = places[at % len(places)]
    node[key] = 3.5
    with pytest.raises(UsageError, match="cannot be used as a lock"):
        parse_lock(json.dumps(value).encode(), path="some.lock")


def test_a_step_is_told_the_versions_that_it_installed_and_no_others() -> None:
    step = LockedStep(
        text="RUN",
        packages={
            "python": {"flask": "3.0", "two": "1, 2", "mine": "1 from a directory", "odd": "1;x\nevil"},
            "dpkg": {"curl": "7.88.1-10+deb12u8", "libc6": "1, 2"},
            "npm": {"left-pad": "1"},
        },
    )
    found = constraints_of(step)
    assert found.pip == "flask==3.0\n"
    assert found.apt == "Package: curl\nPin: version 7.88.1-10+deb12u8\nPin-Priority: 1001\n\n"
    assert not constraints_of(COPY)


def test_a_cached_layer_is_refused_only_where_the_locked_one_can_still_come_about() -> None:
    base = digest(5)
    assert LOCK.pinned_layer("app", PIP.text, (base, COPY.layer)) == PIP.layer
    assert LOCK.pinned_layer("app", PIP.text, (base, digest(99))) == ""  # what it stands on has moved already
    assert LOCK.pinned_layer("app", PIP.text, ()) == ""
    assert LOCK.pinned_layer("app", COPY.text, (base,)) == ""  # installs nothing
    assert LOCK.pinned_layer("app", "RUN something else", (base, COPY.layer)) == ""
    assert LOCK.pinned_layer("nowhere", PIP.text, (base, COPY.layer)) == ""


def test_an_outline_has_every_file_if_there_are_few_and_directories_if_there_are_many() -> None:
    few = {"/": "0", "/app/": "1", "/app/a": "2", "/app/b": "3"}
    assert list(outline(few, limit=10)) == ["/app/a", "/app/b"]
    many = {"/": "0", "/one": "1", "/app/": "1", **{f"/app/{number}": "2" for number in range(100)}}
    assert list(outline(many, limit=10)) == ["/app/", "/one"]


def test_one_changed_file_changes_one_line_of_an_outline() -> None:
    files = {"/": "0", "/a/": "1", "/b/": "1", "/b/c/": "1", "/b/c/y": "3", **{f"/a/{number}": "2" for number in range(100)}}
    before = outline(files, limit=5)
    for path, shown in (("/a/50", "/a/"), ("/b/c/y", "/b/c/y")):
        after = outline({**files, path: "changed"}, limit=5)
        assert [name for name in before if before[name] != after[name]] == [shown]
        assert list(before) == list(after)
