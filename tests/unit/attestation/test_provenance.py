"""Provenance: a statement that other people's tools read, and that gives no secret away."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contain.attestation import BuildInputs, Dependency, StepLayer, render_provenance

DIGEST = "sha256:" + "ab" * 32
INPUTS = BuildInputs(
    dockerfile="Dockerfile",
    dockerfile_digest="sha256:" + "cd" * 32,
    platform="linux/amd64",
    epoch_seconds=946684800,
    target="app",
    build_args={"VERSION": "1.2", "API_TOKEN": "hunter2"},
    dependencies=(
        Dependency(kind="url", uri="https://example.org/a.tar", digest="sha256:" + "01" * 32),
        Dependency(kind="base", uri="pkg:docker/debian@bookworm", digest="sha256:" + "02" * 32, name="debian:bookworm"),
        Dependency(kind="git", uri="git+https://example.org/x.git", commit="f" * 40),
    ),
    layers=(StepLayer(stage="app", text="COPY . /app", digest="sha256:" + "03" * 32),),
)


def statement(inputs: BuildInputs = INPUTS) -> Any:
    return json.loads(render_provenance(DIGEST, inputs, tool_version="1"))


def test_the_statement_says_what_was_built_from_what() -> None:
    value = statement()
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    assert value["subject"] == [{"name": "image", "digest": {"sha256": "ab" * 32}}]
    assert value["predicate"]["runDetails"]["byproducts"] == [
        {"name": "COPY . /app", "digest": {"sha256": "03" * 32}, "annotations": {"stage": "app"}}
    ]
    rows = value["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [(row["annotations"]["kind"], row["digest"]) for row in rows] == [
        ("base", {"sha256": "02" * 32}),
        ("git", {"gitCommit": "f" * 40}),
        ("url", {"sha256": "01" * 32}),
    ]


def test_no_value_of_a_build_argument_leaves() -> None:
    text = render_provenance(DIGEST, INPUTS, tool_version="1").decode()
    assert "hunter2" not in text
    arguments = statement()["predicate"]["buildDefinition"]["externalParameters"]["buildArgs"]
    assert arguments["API_TOKEN"] == {}  # not even a digest: short secrets can be guessed
    assert set(arguments["VERSION"]) == {"sha256"}


def test_the_order_of_the_inputs_does_not_show() -> None:
    turned = replace(INPUTS, dependencies=INPUTS.dependencies[::-1], build_args=dict(reversed(list(INPUTS.build_args.items()))))
    assert render_provenance(DIGEST, INPUTS, tool_version="1") == render_provenance(DIGEST, turned, tool_version="1")


@pytest.mark.parametrize(
    ("changes", "reproducible"),
    [
        ({}, True),
        ({"networked": ("RUN apt-get update",)}, False),
        ({"networked": ("RUN apt-get update",), "lock_digest": DIGEST}, True),
        ({"dependencies": (Dependency(kind="url", uri="https://example.org/a"),)}, False),
    ],
)
def test_a_build_is_called_reproducible_only_if_nothing_was_left_open(changes: Any, reproducible: bool) -> None:
    metadata = statement(replace(INPUTS, **changes))["predicate"]["runDetails"]["metadata"]
    assert metadata["contain_reproducible"] is reproducible
    assert bool(metadata["contain_openEnds"]) is not reproducible
    assert not {"startedOn", "finishedOn", "invocationId"} & set(metadata)


def test_the_reference_library_takes_the_statement_and_the_predicate() -> None:
    statements = pytest.importorskip("in_toto_attestation.v1.statement", reason="in-toto-attestation is not installed")
    json_format = pytest.importorskip("google.protobuf.json_format")
    messages = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    predicate = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    value = statement()
    message = json_format.ParseDict(value, messages.Statement())
    statements.Statement.copy_from_pb(message).validate()
    # Fields of our own are allowed: "<vendor>_<name>", and readers pass over what they do not know.
    metadata = value["predicate"]["runDetails"]["metadata"]
    ours = {name: metadata.pop(name) for name in list(metadata) if name.startswith("contain_")}
    assert set(ours) == {"contain_reproducible", "contain_openEnds"}
    parsed = json_format.ParseDict(value["predicate"], predicate.Provenance())  # raises for anything that it does not know
    assert parsed.build_definition.resolved_dependencies[0].name == "debian:bookworm"
