"""Cache keys: the sha256 of the canonical JSON of everything that a step's result depends on. Pure.

The ingredients are stored beside the key, so that a miss can be explained by comparing them. In the key of a RUN: what it stands
on (by content), its command line and script, ENV and *declared* ARGs, user, working directory, network, platform, the time
that is clamped to, what bind mounts show (by content), the ids of secrets. Not in it: proxies, certificates,
host names, secrets, cache mounts, anything else of the machine. In the key of a COPY: what it reads, by content, and where it writes.

What a step stands on is named by the layers' content (``base_chain``), not by the key of the step before: a step that was executed
again and gave the same bytes does not invalidate what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contain.annotations import Any
from contain.build.copy.selection import InputDigest
from contain.build.run.mounts import mount_ingredients
from contain.build.steps import CopyStep, RunStep, WorkdirStep
from contain.oci import Platform, canonical_json, digest_of

VERSION = 2
"""Part of every key: raise it when the same ingredients give other bytes than before."""

Ingredients = Mapping[str, Any]


def key_of(ingredients: Ingredients) -> str:
    """``sha256:<hex>``."""
    return digest_of(canonical_json(ingredients))


def base_chain(diff_ids: tuple[str, ...], host_fingerprint: str = "") -> str:
    """One name for a stack of layers, or for the machine's root with layers on it."""
    return digest_of(canonical_json([host_fingerprint, *diff_ids]))


def run_ingredients(
    step: RunStep,
    *,
    base: str,
    platform: Platform,
    epoch_seconds: int,
    contents: Sequence[str] = (),
    host_names: Sequence[str] = (),
    hostname: str = "",
    normalised: int | None = None,
) -> Ingredients:
    """What a RUN depends on. ``contents``: for each mount, the digest of what a bind mount shows. ``host_names``: those that
    ``--add-host`` adds; their addresses are the machine's. ``hostname``: the container's, if the build chose one. ``normalised``: the
    version of the rules that its layer is normalised by, None for not at all."""
    chosen: dict[str, tuple[Any, Any]] = {  # with what is usual, which is left out
        "mounts": (mount_ingredients(step.mounts, contents or [""] * len(step.mounts)), []),
        "security": (step.security, "sandbox"),
        "host_names": (sorted(host_names), []),
        "hostname": (hostname, ""),
    }
    return {
        "v": VERSION,
        "kind": "run",
        "base": base,
        "command": list(step.arguments),
        "script": step.script.body if step.script is not None else None,
        "environment": dict(step.environment),
        "user": step.user,
        "working_directory": step.working_directory,
        "network": step.network,
        "platform": str(platform),
        "epoch_seconds": epoch_seconds,
        "normalised": normalised,
        **{name: value for name, (value, usual) in chosen.items() if value != usual},
    }


def copy_ingredients(
    step: CopyStep, *, base: str, inputs: InputDigest, epoch_seconds: int, owner: tuple[int, int] | None = None
) -> Ingredients:
    """What a COPY or ADD depends on. ``base``: links in the destination and names of --chown are looked up there; with ``--link``
    it is nothing, and ``owner`` is what the names of --chown stood for."""
    chosen: dict[str, Any] = {  # left out where it is not said
        "link": step.link,
        "exclude": list(step.exclude),
        "parents": step.parents,
        "unpack_remote": step.unpack_remote,
    }
    shown = step.chown
    if step.link:
        shown = None if owner is None else f"{owner[0]}:{owner[1]}"
    return {
        "v": VERSION,
        "kind": "add" if step.unpack else "copy",
        "base": base,
        "destination": step.destination,
        "owner": shown,
        "mode": step.chmod,
        "documents": [list(document) for document in step.documents],
        "input": inputs.digest,
        "entries": inputs.entries,
        "epoch_seconds": epoch_seconds,
        **{name: value for name, value in chosen.items() if value},
    }


def workdir_ingredients(step: WorkdirStep, *, base: str, epoch_seconds: int) -> Ingredients:
    """What a WORKDIR that must make its directory depends on."""
    return {
        "v": VERSION,
        "kind": "workdir",
        "base": base,
        "path": step.path,
        "user": step.user,
        "epoch_seconds": epoch_seconds,
    }
