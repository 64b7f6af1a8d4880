"""What the mounts of a RUN come to: which there are, where each goes, what of them is in the cache key, what they may leave. Pure.

Source of the rules: BuildKit's ``dockerfile2llb/convert_runmount.go``, ``convert_secrets.go`` and ``convert_ssh.go``. In the key: a
bind mount by its content, a secret and an agent by their ids, a memory file system by its size; a cache mount is in no key.

Mount points are made below the image's layers, where the layer of the step does not see them. Where that cannot be (the
image removed the name, a link leads there), they are made in the layer: `missing_paths` says which names are to be taken away again.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence

from contain.annotations import Any
from contain.build.state import StageState, absolute_path
from contain.build.trees.tree import Kind, Lookup, resolve_path
from contain.dockerfile.instructions import Instruction, Run
from contain.dockerfile.mounts import MountFlag, MountKind, RunMount, resolve_mount
from contain.errors import SourceSpan, UsageError
from contain.values import replace

SSH_PLACE = "/run/buildkit/ssh_agent"
_REFUSED = {
    MountKind.BIND: ("id",),
    MountKind.TMPFS: ("from", "source", "id"),
    MountKind.SECRET: (),
    MountKind.SSH: ("from", "source"),
    MountKind.CACHE: (),
}


def resolve_mounts(state: StageState, instruction: Run) -> tuple[RunMount, ...]:
    """Every ``--mount`` with its variables put in and its target absolute, free of dots. Raises `UsageError` (``bad-mount``)."""
    found: list[RunMount] = []
    sockets = 0
    for flag in instruction.mounts:
        span = instruction.span_of(flag.text)
        mount = resolve_mount(flag, state.lookup, escape=state.escape, span=span)
        _refuse_meaningless(flag, mount, span)
        target = mount.target
        if mount.kind is MountKind.SSH:
            target = target or f"{SSH_PLACE}.{sockets}"
            sockets += 1
        if target:
            target = absolute_path(state.working_directory, target).rstrip("/") or "/"
        if target == "/":
            raise UsageError("a mount cannot be at /", code="bad-mount", span=span)
        if f"{target}/".startswith("/proc/"):
            raise UsageError("a mount cannot be at or inside /proc", code="bad-mount", span=span)
        name = posixpath.normpath(mount.id) if mount.kind is MountKind.CACHE else mount.id
        found.append(replace(mount, target=target, id=name))
    return tuple(found)


def _refuse_meaningless(flag: MountFlag, mount: RunMount, span: SourceSpan | None) -> None:
    """Fields that say nothing about a mount of its kind: BuildKit passes over them; here they are an error."""
    written = {key for key, _ in flag.fields}
    for key in _REFUSED[mount.kind]:
        if key in written:
            raise UsageError(f"{key!r} is not a field of a {mount.kind.value} mount", code="bad-mount", span=span)
    if mount.kind is MountKind.SECRET and "readwrite" in written and not mount.read_only:
        raise UsageError("a secret cannot be written", code="bad-mount", span=span, remedy="leave out readwrite")


def mount_ingredients(mounts: Sequence[RunMount], contents: Sequence[str]) -> list[Mapping[str, Any]]:
    """What a RUN's cache key holds of its mounts. ``contents``: for each, the digest of what a bind mount shows, else anything."""
    return [
        ingredients
        for mount, content in zip(mounts, contents, strict=True)
        if (ingredients := _ingredients(mount, content)) is not None
    ]


def _ingredients(mount: RunMount, content: str) -> Mapping[str, Any] | None:
    place: dict[str, Any] = {"type": mount.kind.value, "target": mount.target}
    match mount.kind:
        case MountKind.BIND:
            return {**place, "content": content, "read_only": mount.read_only}
        case MountKind.TMPFS:
            return {**place, "size_bytes": mount.size_bytes, "read_only": mount.read_only}
        case MountKind.SECRET:
            return {**place, "id": mount.id, "env": mount.env, **_owner(mount)}
        case MountKind.SSH:
            return {**place, "id": mount.id, **_owner(mount)}
        case MountKind.CACHE:
            return None


def _owner(mount: RunMount) -> Mapping[str, Any]:
    return {"mode": mount.mode, "user_id": mount.user_id, "group_id": mount.group_id}


def has_source(mount: RunMount) -> bool:
    """Whether a mount shows files of the context, a stage or an image."""
    return mount.kind is MountKind.BIND or (mount.kind is MountKind.CACHE and bool(mount.from_stage))


def settle_targets(mounts: Sequence[RunMount], lookup: Lookup, directories: Sequence[bool]) -> tuple[RunMount, ...]:
    """The mounts with targets that have no link of the image on their way. ``directories``: whether each one is a directory.

    Raises `UsageError` (``mount-target-kind``) where the image has a file for a directory or the other way round.
    """
    targets = [mount.target for mount in mounts]
    settled = []
    for mount, is_directory in zip(mounts, directories, strict=True):
        if not mount.target:
            settled.append(mount)
            continue
        path = resolve_path(lookup, mount.target)
        node = lookup(path)
        hidden = any(mount.target.startswith(other + "/") for other in targets if other)
        if node is not None and not hidden and (node.kind is Kind.DIRECTORY) != is_directory:
            raise UsageError(
                f"the mount at {mount.target} is a {'directory' if is_directory else 'file'}, and the image has a "
                f"{node.kind.value} there",
                code="mount-target-kind",
                remedy="choose another target",
            )
        settled.append(replace(mount, target="/" + path))
    return tuple(settled)


def refuse_unreachable(mounts: Sequence[RunMount], shows: Callable[[int, str], bool]) -> None:
    """Raise `UsageError` (``mount-inside-mount``) for a target inside a read-only mount that has no such name.

    ``shows``: whether the files of the mount of that number have a path, relative to what is mounted.
    """
    for mount in mounts:
        outer = [number for number, other in enumerate(mounts) if other.target and mount.target.startswith(other.target + "/")]
        if not outer:
            continue
        nearest = max(outer, key=lambda number: len(mounts[number].target))
        around = mounts[nearest]
        if around.kind is MountKind.BIND and around.read_only and not shows(nearest, mount.target[len(around.target) + 1 :]):
            raise UsageError(
                f"nothing can be mounted at {mount.target}: the mount at {around.target} is read-only and has no such name",
                code="mount-inside-mount",
                remedy=f"add rw to the mount at {around.target}; what is written there is thrown away",
            )


def missing_paths(mounts: Sequence[RunMount], lookup: Lookup) -> tuple[str, ...]:
    """The targets, and directories on the way to them, that the image has not: without a leading slash, the deepest first."""
    missing = set()
    for mount in mounts:
        parts = mount.target.strip("/").split("/") if mount.target else []
        for count in range(len(parts), 0, -1):
            path = "/".join(parts[:count])
            if lookup(path) is not None:
                break
            missing.add(path)
    return tuple(sorted(missing, key=lambda path: (-path.count("/"), path)))


def source_names(instruction: Instruction) -> Iterator[str]:
    """What ``from=`` names in the mounts of a RUN: stages, contexts or images."""
    for flag in instruction.mounts if isinstance(instruction, Run) else ():
        for key, value in flag.fields:
            if key == "from" and value:
                yield value
