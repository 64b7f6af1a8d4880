"""How an image was made, as an in-toto Statement with a SLSA provenance predicate. Values to bytes.

Deterministic: the times of a run, its number and its machine are left out, as is what differs between a cached and an uncached
build. Values of build arguments are given as sha256 digests, of those whose names look secret the names only. The build type's
parameters are described in ``docs/reproducible-builds.md``.

Sources: https://slsa.dev/spec/v1.0/provenance, https://github.com/in-toto/attestation (``spec/v1``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import Any
from contain.environment.facts import looks_secret
from contain.values import dataclass, field

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pytest-contain:build-type:dockerfile:v1"
BUILDER_ID = "urn:pytest-contain:builder:contain"


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """Something that the build took from elsewhere. ``uri`` says from where, ``digest`` (``sha256:…``) which bytes; empty: not known.

    ``kind``: base, layout, url, git, context.
    """

    kind: str
    uri: str
    digest: str = ""
    name: str = ""
    commit: str = ""
    annotations: Mapping[str, str] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayer:
    """The layer (``digest``: its diff_id) that an instruction of a stage made."""

    stage: str
    text: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInputs:
    """Everything that the result of one build depended on.

    ``options``: switches of the build that change bytes. ``networked``: the RUN steps that could reach a network.
    ``lock_digest``: of the lock file that the result was checked against. ``layers``: what each step made of it.
    """

    dockerfile: str
    dockerfile_digest: str
    platform: str
    epoch_seconds: int
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=_nothing)
    options: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    lock_digest: str = ""
    dependencies: tuple[Dependency, ...] = ()
    networked: tuple[str, ...] = ()
    layers: tuple[StepLayer, ...] = ()


def render_provenance(image_digest: str, inputs: BuildInputs, *, tool_version: str) -> bytes:
    """The statement's bytes, indented, with a newline at the end."""
    parameters: dict[str, Any] = {
        "dockerfile": {"path": inputs.dockerfile, "digest": _digest_set(inputs.dockerfile_digest)},
        "platform": inputs.platform,
        "sourceDateEpoch": inputs.epoch_seconds,
    }
    if inputs.target:
        parameters["target"] = inputs.target
    if inputs.build_args:
        parameters["buildArgs"] = {name: _hidden(name, value) for name, value in sorted(inputs.build_args.items())}
    if inputs.options:
        parameters["options"] = dict(sorted(inputs.options.items()))
    if inputs.lock_digest:
        parameters["lock"] = {"digest": _digest_set(inputs.lock_digest)}
    dependencies = sorted(inputs.dependencies, key=lambda each: (each.kind, each.uri, each.digest, each.commit))
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "image", "digest": _digest_set(image_digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "internalParameters": {},
                "resolvedDependencies": [_dependency(each) for each in dependencies],
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID, "version": {"contain": tool_version}},
                "metadata": {
                    "contain_reproducible": not open_ends(inputs),
                    "contain_openEnds": list(open_ends(inputs)),
                },
                "byproducts": [
                    {"name": each.text, "digest": _digest_set(each.digest), "annotations": {"stage": each.stage}}
                    for each in inputs.layers
                ],
            },
        },
    }
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def open_ends(inputs: BuildInputs) -> tuple[str, ...]:
    """Why the same inputs might give another image: steps that reach a network, and what was taken without knowing its bytes.

    A build with a lock has none: it gives the locked digest or none.
    """
    if inputs.lock_digest:
        return ()
    return (
        *(
            f"{each.kind} {each.uri}: its bytes are not pinned"
            for each in inputs.dependencies
            if not each.digest and not each.commit
        ),
        *(f"{step}: has a network" for step in inputs.networked),
    )


def _digest_set(digest: str) -> dict[str, str]:
    algorithm, _, text = digest.partition(":")
    return {algorithm: text}


def _hidden(name: str, value: str) -> dict[str, str]:
    """A short secret's digest can be guessed: of what may be one, nothing is said."""
    return {} if looks_secret(name) else {"sha256": hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()}


def _dependency(dependency: Dependency) -> dict[str, Any]:
    value: dict[str, Any] = {"uri": dependency.uri, "annotations": {"kind": dependency.kind, **dependency.annotations}}
    if dependency.name:
        value["name"] = dependency.name
    digests = {}
    if dependency.digest:
        digests.update(_digest_set(dependency.digest))
    if dependency.commit:
        digests["gitCommit"] = dependency.commit
    if digests:
        value["digest"] = digests
    return value
