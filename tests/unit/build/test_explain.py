from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from contain.build.cache.explain import (
    EXPLAINERS,
    Earlier,
    Outcome,
    Snapshot,
    StepExplanation,
    changed_names,
    choose_nearest,
    explain_files,
    explain_miss,
)
from contain.build.cache.keys import copy_ingredients, key_of, run_ingredients, workdir_ingredients
from contain.build.copy.selection import InputDigest
from contain.build.steps import CopyStep, RunStep, WorkdirStep
from contain.dockerfile.instructions import Run, ScriptFile
from contain.dockerfile.mounts import MountKind, RunMount
from contain.dockerfile.parse import parse_dockerfile
from contain.oci import Platform, canonical_json

INSTRUCTION = parse_dockerfile("FROM a\nRUN true\nWORKDIR /x\n", file="Dockerfile").stages[0].instructions[0]
assert isinstance(INSTRUCTION, Run)
AMD64 = Platform(os="linux", architecture="amd64")

RUN = RunStep(
    instruction=INSTRUCTION,
    created_by="RUN a",
    arguments=("/bin/sh", "-c", "make all"),
    script=None,
    environment=(("A", "1"), ("PATH", "/bin")),
    network="default",
    security="sandbox",
    mounts=(),
    user="",
    working_directory="/w",
)
COPY = CopyStep(
    instruction=INSTRUCTION,
    created_by="COPY src/ /app",
    sources=("src/",),
    documents=(("EOF", "one\ntwo\n"),),
    destination="/app",
    source_name=None,
    chown=None,
    chmod=None,
    mode=None,
    unpack=False,
)
WORKDIR = WorkdirStep(instruction=INSTRUCTION, created_by="WORKDIR /x", path="/x", user="")

LISTINGS: dict[str, dict[str, str]] = {
    "sha256:one": {
        ".": " directory 755 0:0",
        "src/a.py": " file 664 0:0 11",
        "src/l": " symlink 777 0:0 -> 1:a",
        "src/d": " file 644 0:0 33",
    },
    "sha256:two": {
        ".": " directory 755 0:0",
        "src/a.py": " file 644 0:0 22",
        "src/l": " symlink 777 0:0 -> 1:b",
        "src/b.py": " file 644 0:0 33",
    },
}


def run(step: RunStep = RUN, **others: Any) -> Mapping[str, Any]:
    return run_ingredients(step, **{"base": "sha256:b", "platform": AMD64, "epoch_seconds": 1, "normalised": 1, **others})


def copy(step: CopyStep = COPY, *, entries: int = 4, **others: Any) -> Mapping[str, Any]:
    inputs = InputDigest(digest=others.pop("input", "sha256:one"), entries=entries)
    return copy_ingredients(step, inputs=inputs, **{"base": "sha256:b", "epoch_seconds": 1, **others})


def workdir(step: WorkdirStep = WORKDIR, **others: Any) -> Mapping[str, Any]:
    return workdir_ingredients(step, **{"base": "sha256:b", "epoch_seconds": 1, **others})


def bind(content: str) -> dict[str, Any]:
    mount = RunMount(kind=MountKind.BIND, target="/src", read_only=True)
    return dict(run(replace(RUN, mounts=(mount,)), contents=(content,)))


def secret(**values: Any) -> dict[str, Any]:
    mount = RunMount(kind=MountKind.SECRET, target="/run/secrets/x", **values)
    return dict(run(replace(RUN, mounts=(mount,))))


def details(**values: Any) -> dict[str, Any]:
    stack = [["FROM debian:bookworm", "aa"], ["RUN apt-get update", "bb"]]
    return {"arguments": ["A"], "base": "debian:bookworm", "base_digest": "sha256:" + "1" * 64, "stack": stack, **values}


def snapshot(ingredients: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> Snapshot:
    # As it comes from the store: through JSON.
    plain = json.loads(canonical_json(ingredients))
    return Snapshot(
        ingredients=plain, details=details() if found is None else found, listing=lambda digest: LISTINGS.get(digest, {})
    )


CHANGES: list[tuple[str, Mapping[str, Any], Mapping[str, Any], str]] = [
    ("v", run(), {**run(), "v": 0}, "the recorded step was made by another version of contain"),
    ("kind", copy(), copy(replace(COPY, unpack=True)), "the instruction: copy -> add"),
    ("command", run(), run(replace(RUN, arguments=("/bin/sh", "-c", "make test"))), "the command: make all -> make test"),
    ("command", run(), run(replace(RUN, arguments=("/bin/bash", "-c", "make all"))), "SHELL: /bin/sh -c -> /bin/bash -c"),
    (
        "script",
        run(replace(RUN, script=ScriptFile(path="/p", body="#!/bin/sh\na\n"))),
        run(replace(RUN, script=ScriptFile(path="/p", body="#!/bin/sh\nb\n"))),
        "the script, line 2: a -> b",
    ),
    ("documents", copy(), copy(replace(COPY, documents=(("EOF", "one\n2\n"),))), "the heredoc EOF, line 2: two -> 2"),
    ("documents", copy(), copy(replace(COPY, documents=())), "the heredoc EOF removed"),
    ("environment", run(), run(replace(RUN, environment=(("A", "2"), ("PATH", "/bin")))), "build-arg A: 1 -> 2"),
    ("environment", run(), run(replace(RUN, environment=(("A", "1"), ("PATH", "/x")))), "ENV PATH: /bin -> /x"),
    ("environment", run(), run(replace(RUN, environment=(("A", "1"),))), "ENV PATH removed"),
    ("environment", run(), run(replace(RUN, environment=(*RUN.environment, ("B", "x")))), "ENV B=x added"),
    (
        "environment",
        run(replace(RUN, environment=(("API_TOKEN", "hunter1"),))),
        run(replace(RUN, environment=(("API_TOKEN", "hunter2"),))),
        "ENV API_TOKEN changed (value not shown)",
    ),
    ("environment", run(), run(replace(RUN, environment=(*RUN.environment, ("API_TOKEN", "hunter2")))), "ENV API_TOKEN added"),
    (
        "input",
        copy(),
        copy(input="sha256:two"),
        "2 files changed: src/a.py (mode 0664 -> 0644, content), src/l (target); 1 added: src/b.py; 1 removed: src/d",
    ),
    ("input", copy(), copy(input="sha256:unknown"), "files changed (what they were is not on record)"),
    ("entries", copy(), copy(entries=5), "4 entries -> 5"),
    ("mounts", run(), secret(id="x"), "--mount type=secret /run/secrets/x added"),
    ("mounts", secret(id="x"), run(), "--mount type=secret /run/secrets/x removed"),
    ("mounts", secret(id="x"), secret(id="y"), "--mount type=secret /run/secrets/x id: x -> y"),
    (
        "mounts",
        bind("sha256:one"),
        bind("sha256:two"),
        "; ".join(
            f"--mount type=bind /src: {text}"
            for text in (
                "2 files changed: src/a.py (mode 0664 -> 0644, content), src/l (target)",
                "1 added: src/b.py",
                "1 removed: src/d",
            )
        ),
    ),
    ("user", run(), run(replace(RUN, user="app")), "USER: root -> app"),
    ("working_directory", run(), run(replace(RUN, working_directory="/v")), "WORKDIR: /w -> /v"),
    ("path", workdir(), workdir(replace(WORKDIR, path="/y")), "WORKDIR: /x -> /y"),
    ("network", run(), run(replace(RUN, network="none")), "--network: default -> none"),
    ("security", run(), run(replace(RUN, security="insecure")), "--security: sandbox -> insecure"),
    ("host_names", run(), run(host_names=["db"]), "--add-host: none -> db"),
    ("hostname", run(), run(hostname="builder"), "the container's host name: the usual -> builder"),
    ("normalised", run(), run(normalised=None), "--reproducible on -> off"),
    ("normalised", run(), run(normalised=2), "the rules that take noise out of a layer changed"),
    ("link", copy(), copy(replace(COPY, link=True)), "--link added"),
    ("parents", copy(replace(COPY, parents=True)), copy(), "--parents removed"),
    ("exclude", copy(), copy(replace(COPY, exclude=("*.md", "b"))), "--exclude: none -> *.md, b"),
    ("unpack_remote", copy(), copy(replace(COPY, unpack_remote=True)), "--unpack added"),
    ("destination", copy(), copy(replace(COPY, destination="/srv")), "the destination: /app -> /srv"),
    ("owner", copy(), copy(replace(COPY, chown="app")), "--chown: none -> app"),
    ("mode", copy(), copy(replace(COPY, chmod="755")), "--chmod: none -> 755"),
    ("platform", run(), run(platform=Platform(os="linux", architecture="arm64")), "platform: linux/amd64 -> linux/arm64"),
    ("epoch_seconds", run(), run(epoch_seconds=2), "SOURCE_DATE_EPOCH: 1 -> 2"),
    ("base", run(), run(base="sha256:c"), "what it stands on changed"),
]


@pytest.mark.parametrize(
    ("name", "before", "after", "words"), CHANGES, ids=[f"{number}-{row[0]}" for number, row in enumerate(CHANGES)]
)
def test_each_ingredient_changed_alone_is_told(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], words: str
) -> None:
    assert changed_names(snapshot(before).ingredients, snapshot(after).ingredients) == (name,)
    assert key_of(before) != key_of(after)
    assert "; ".join(explain_miss(snapshot(before), snapshot(after))) == words


def test_every_ingredient_has_an_explanation_and_a_case_here() -> None:
    """A new ingredient needs a function in EXPLAINERS and a row in CHANGES."""
    names = {name for _, before, after, _ in CHANGES for name in (*before, *after)}
    everything = {*run(), *copy(), *workdir(), *names}
    assert everything <= set(EXPLAINERS)
    assert {row[0] for row in CHANGES} == set(EXPLAINERS)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"base_digest": "sha256:" + "2" * 64}, "base debian:bookworm moved: 111111111111 -> 222222222222"),
        ({"base": "debian:trixie", "base_digest": "sha256:22"}, "base changed: debian:bookworm -> debian:trixie"),
        (
            {"stack": [["FROM debian:bookworm", "aa"], ["RUN apt-get update", "cc"]]},
            "an earlier step gave other files: RUN apt-get update",
        ),
        ({"stack": [["FROM debian:bookworm", "aa"], ["RUN b", "cc"]]}, "an earlier step changed: RUN apt-get update -> RUN b"),
        (
            {"stack": [["FROM debian:bookworm", "aa"], ["RUN apt-get update", "bb"], ["RUN new", "cc"]]},
            "a step was added before it: RUN new",
        ),
        ({"stack": [["FROM debian:bookworm", "aa"]]}, "a step before it is gone: RUN apt-get update"),
        ({"fingerprint": "x"}, "this machine's root, the base, changed"),
    ],
)
def test_what_a_step_stands_on_is_told_by_the_base_or_step_that_differs(found: dict[str, Any], words: str) -> None:
    assert explain_miss(snapshot(run()), snapshot(run(base="sha256:c"), details(**found))) == (words,)


def test_the_first_time_is_said_to_be_one() -> None:
    assert explain_miss(None, snapshot(run())) == ("first time",)


def test_several_changes_are_all_told_the_steps_own_first() -> None:
    after = run(replace(RUN, network="none", arguments=("/bin/sh", "-c", "make x")), base="sha256:c")
    reasons = explain_miss(snapshot(run()), snapshot(after))
    assert reasons == ("the command: make all -> make x", "--network: default -> none", "what it stands on changed")
    assert explain_miss(snapshot(run()), snapshot(after), ignore=("base",)) == reasons[:2]


def test_an_ingredient_that_nobody_knows_is_shown_all_the_same() -> None:
    assert explain_miss(snapshot(run()), snapshot({**run(), "moon": "full"})) == ("moon: none -> full",)


def test_the_nearest_record_is_of_the_same_command_then_of_the_same_place_then_the_most_alike() -> None:
    here_other = Earlier(snapshot=snapshot(run(epoch_seconds=1)), same_place=True, same_command=False)
    elsewhere = Earlier(snapshot=snapshot(run(epoch_seconds=3, base="x")), same_place=False, same_command=True)
    here_far = Earlier(snapshot=snapshot(run(epoch_seconds=3, base="y")), same_place=True, same_command=True)
    here_near = Earlier(snapshot=snapshot(run(epoch_seconds=3)), same_place=True, same_command=True)
    wanted = run(epoch_seconds=1)
    assert choose_nearest(wanted, []) is None
    assert choose_nearest(wanted, [here_other, elsewhere]) is elsewhere
    assert choose_nearest(wanted, [here_other, elsewhere, here_far, here_near]) is here_near
    assert choose_nearest(wanted, [here_other]) is here_other


def test_many_files_are_counted_and_the_first_are_named() -> None:
    old = {".": " directory 755 0:0"}
    new = {**old, **{f"f{number}": " file 644 0:0 1" for number in range(9)}}
    assert explain_files(old, new) == ["9 added: f0, f1, f2 and 6 more"]


def test_kinds_owners_and_hard_links_are_told_apart() -> None:
    old = {"a": " file 644 0:0 1", "b": " file 644 0:0 1", "c": " file 644 0:0 1"}
    new = {"a": " symlink 777 0:0 -> 1:b", "b": " file 644 7:7 1", "c": " file 644 0:0 = 1:b 1"}
    assert explain_files(old, new) == ["3 files changed: a (file -> symlink), b (owner 0:0 -> 7:7), c (hard link)"]


def test_a_damaged_listing_of_another_machine_is_no_fault() -> None:
    assert explain_files({"a": ""}, {"a": " file 644 0:0 1"}) == ["1 file changed: a (changed)"]


def test_no_control_character_reaches_the_terminal() -> None:
    old, new = {"a\x1b[2J": " file 644 0:0 1"}, {"a\x1b[2J": " file 644 0:0 2"}
    assert explain_files(old, new) == ["1 file changed: a?[2J (content)"]
    step = replace(RUN, arguments=("/bin/sh", "-c", "\x1b]0;x"))
    assert "\x1b" not in "".join(explain_miss(snapshot(run()), snapshot(run(step))))


def test_an_explanation_is_one_line() -> None:
    found = StepExplanation(outcome=Outcome.MISS, stage="one", text="COPY a /", place="Dockerfile:3", reasons=("x", "y"))
    assert str(found) == "MISS COPY a /  x, y"
    assert str(replace(found, outcome=Outcome.HIT, reasons=())) == "HIT  COPY a /"
