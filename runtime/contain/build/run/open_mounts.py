"""Makes ready what a RUN mounts: reads sources for the key, then opens secrets, agents and cache directories for the container.

In two steps, because the key must be known before anything is done: `read_mount_sources` (waits for stages), and
`open_mounts`, only when the step is carried out (waits for cache directories that somebody else holds, and blocks nobody meanwhile).
What a mount shows of the context is a copy in a scratch directory, as the context shows it: portable modes, nothing that is ignored.
What it shows of a stage or an image is an overlay of the layers' own directories. Nothing that is written to either is kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

from contain.annotations import TYPE_CHECKING
from contain.build.cache.keys import base_chain
from contain.build.copy.perform import CopyOptions, perform_copy
from contain.build.copy.selection import Batch, CopyPlan, Placement, Selected, digest_selection
from contain.build.copy.writer import UpperWriter
from contain.build.run.mounts import has_source
from contain.build.run.options import SecretSource
from contain.build.run.special_arguments import CACHE_MOUNT_NAMESPACE
from contain.build.steps import RunStep
from contain.build.tasks import Pause, Work
from contain.build.trees.source import open_source
from contain.build.trees.tree import Kind, Node, Tree, parent_of, resolve_path
from contain.build.trees.view import ViewTree
from contain.build.workbench import Stage, Workbench
from contain.dockerfile.mounts import MountKind, RunMount
from contain.dockerfile.suggestion import suggest
from contain.errors import NotFound, NotSupported, UsageError
from contain.paths import HostPath
from contain.spec import Bind, CopyOnWrite, MemoryFile, Mount, Tmpfs
from contain.store import RootView
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.store.cache_mounts import CacheIdentity, HeldCacheMount, Sharing

_ASK_AGAIN_SECONDS = 0.02
_LARGEST_SECRET_BYTES = 500 << 10  # BuildKit's limit
_SSH_VARIABLE = "SSH_AUTH_SOCK"
_CACHE_MODE = 0o755
_SCRATCH = "scratch"
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSource:
    """Files that a mount shows: a node of a tree. ``place`` names the tree in messages."""

    tree: Tree
    node: Node
    place: str

    @property
    def view(self) -> RootView | None:
        """The image's layers, if it comes from one."""
        return self.tree.view if isinstance(self.tree, ViewTree) else None

    def digest(self) -> str:
        """The identity of what is shown. A whole image is known by its layers' names, which is as good as reading all of it."""
        view = self.view
        if view is not None and not self.node.path:
            return base_chain(tuple(tree.parent.name for tree in view.trees))
        return digest_selection(self.tree, [Selected(name="", node=self.node)]).digest


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedMounts:
    """What the container gets. ``secrets``: values that must not be shown."""

    mounts: tuple[Mount, ...]
    environment: Mapping[str, str]
    secrets: tuple[bytes, ...]


def read_mount_sources(
    bench: Workbench, stage: Stage, step: RunStep, stack: contextlib.ExitStack
) -> Work[tuple[MountSource | None, ...]]:
    """For each mount the files that it shows, None for those that show none. Raises `NotFound` (``mount-source-not-found``)."""
    found: list[MountSource | None] = []
    for mount in step.mounts:
        if not has_source(mount):
            found.append(None)
            continue
        if mount.from_stage == _SCRATCH:
            tree, place = ViewTree(stack.enter_context(RootView(()))), _SCRATCH
        else:
            opened = yield from open_source(bench, stage, mount.from_stage, instruction=step.instruction, stack=stack)
            tree, place = opened  # type: ignore[assignment]
        found.append(MountSource(tree=tree, node=_find_node(step, mount, tree, place), place=place))
    return tuple(found)


def _find_node(step: RunStep, mount: RunMount, tree: Tree, place: str) -> Node:
    path = resolve_path(tree.lookup, mount.source)
    node = tree.lookup(path)
    span = step.instruction.span_of(mount.source)
    if node is None:
        parent = tree.lookup(parent_of(path))
        names = tree.listdir(parent_of(path)) if parent is not None and parent.kind is Kind.DIRECTORY else ()
        near = suggest(path.rpartition("/")[2], names)
        excluded = getattr(tree, "excluded", None)
        hidden = excluded is not None and excluded(path)
        raise NotFound(
            f"{mount.source!r} is not in {place}",
            code="mount-source-not-found",
            span=span,
            remedy="it exists, but .dockerignore excludes it" if hidden else f"did you mean {near!r}?" if near else "",
        )
    if node.kind not in (Kind.DIRECTORY, Kind.FILE) or (mount.kind is MountKind.CACHE and node.kind is not Kind.DIRECTORY):
        wanted = "a directory" if mount.kind is MountKind.CACHE else "a file or a directory"
        raise UsageError(
            f"{mount.source!r} in {place} is a {node.kind.value}, not {wanted}", code="mount-source-kind", span=span
        )
    if not path and isinstance(tree, ViewTree) and HostPath("/") in tree.view.trees:
        raise NotSupported(  # nor could all of it be read for the key
            "the whole root of this machine cannot be mounted into a build step",
            code="mount-of-host-root",
            span=step.instruction.span_of(mount.from_stage),
            remedy="name a directory with source=",
        )
    return node


def open_mounts(
    bench: Workbench,
    stage: Stage,
    step: RunStep,
    mounts: Sequence[RunMount],
    sources: Sequence[MountSource | None],
    *,
    scratch: HostPath,
    stack: contextlib.ExitStack,
) -> Work[OpenedMounts]:
    """``mounts`` with settled targets. What is opened stays open until ``stack`` is closed."""
    opener = _Opener(bench, stage, step, scratch, stack)
    for number, (mount, source) in enumerate(zip(mounts, sources, strict=True)):
        opener.open(number, mount, source)
    yield from opener.hold_caches()
    return OpenedMounts(mounts=tuple(opener.mounts), environment=opener.environment, secrets=tuple(opener.secrets))


class _Opener:
    def __init__(self, bench: Workbench, stage: Stage, step: RunStep, scratch: HostPath, stack: contextlib.ExitStack) -> None:
        self._bench, self._stage, self._step, self._scratch, self._stack = bench, stage, step, scratch, stack
        self._caches: list[tuple[RunMount, MountSource | None]] = []
        self.mounts: list[Mount] = []
        self.environment: dict[str, str] = {}
        self.secrets: list[bytes] = []

    def open(self, number: int, mount: RunMount, source: MountSource | None) -> None:
        target = PurePosixPath(mount.target)
        match mount.kind:
            case MountKind.BIND:
                assert source is not None
                self.mounts.append(self._bind(number, target, source, read_only=mount.read_only))
            case MountKind.TMPFS:
                size_bytes = mount.size_bytes or 0
                self.mounts.append(Tmpfs(target=target, size_bytes=size_bytes, executable=True, read_only=mount.read_only))
            case MountKind.SECRET:
                self._secret(mount, target)
            case MountKind.SSH:
                self._agent(number, mount, target)
            case MountKind.CACHE:
                self._caches.append((mount, source))

    # -- bind -------------------------------------------------------------------------------------------------------------------

    def _bind(self, number: int, target: PurePosixPath, source: MountSource, *, read_only: bool) -> Mount:
        view, node = source.view, source.node
        if node.kind is Kind.FILE:
            if view is not None and read_only:
                entry = view.lookup("/" + node.path)
                assert entry is not None
                return Bind(source=entry.host_path, target=target, read_only=True)
            place = self._copy(number, source)
            return Bind(source=place / "file", target=target, read_only=read_only)
        if view is None:
            place = self._copy(number, source)
            return Bind(source=place, target=target, read_only=read_only)
        parts = view.parts("/" + node.path)
        if not parts:  # an image without layers
            place = self._scratch / f"mount{number}"
            place.mkdir(mode=0o755)
            return Bind(source=place, target=target, read_only=read_only)
        if self._bench.copies(self._stage, view.trees):
            from contain.store.root_copy import copy_root

            place = self._scratch / f"mount{number}"
            place.mkdir(mode=0o755)
            copy_root(view.trees, place, path="/" + node.path, devices=False)
            return Bind(source=place, target=target, read_only=read_only)
        return CopyOnWrite(sources=parts, target=target, read_only=read_only)

    def _copy(self, number: int, source: MountSource) -> HostPath:
        """What the source shows, in a directory of its own; a file is called ``file``."""
        place = self._scratch / f"mount{number}"
        place.mkdir()
        _copy_into(place, source, epoch_seconds=self._bench.epoch_seconds)
        return place

    # -- secrets and agents -------------------------------------------------------------------------------------------------------

    def _secret(self, mount: RunMount, target: PurePosixPath) -> None:
        source = self._bench.request.run.secrets.get(mount.id)
        span = self._step.instruction.span_of(mount.id)
        if source is None:
            if mount.required:
                raise UsageError(
                    f"the secret {mount.id!r} is required, and the build was given none of this name",
                    code="secret-not-given",
                    span=span,
                    remedy=f"pass it: --secret id={mount.id},src=FILE or --secret id={mount.id},env=VARIABLE",
                )
            self._stage.progress.note(f"no secret {mount.id!r} was given; it is not required")
            return
        try:
            content = read_secret(source, os.environ)
        except UsageError as error:
            error.span = error.span or span
            raise
        self.secrets.append(content)
        if mount.env is not None:
            if b"\0" in content or not mount.env or "=" in mount.env:
                raise UsageError(
                    f"the secret {mount.id!r} cannot be the variable {mount.env!r}", code="secret-not-a-variable", span=span
                )
            self.environment[mount.env] = os.fsdecode(content)
        if mount.target:
            self.mounts.append(
                MemoryFile(
                    target=target,
                    content=content,
                    mode=0o400 if mount.mode is None else mount.mode,
                    user_id=mount.user_id or 0,
                    group_id=mount.group_id or 0,
                )
            )

    def _agent(self, number: int, mount: RunMount, target: PurePosixPath) -> None:
        from contain.build.run.ssh_forward import forward_agent, open_agent

        source = self._bench.request.run.ssh.get(mount.id)
        span = self._step.instruction.span_of("ssh")
        if source is None:
            if mount.required:
                raise UsageError(
                    f"an ssh agent {mount.id!r} is required, and the build was given none of this name",
                    code="ssh-not-given",
                    span=span,
                    remedy=f"pass it: --ssh {mount.id}, or --ssh {mount.id}=KEY",
                )
            self._stage.progress.note(f"no ssh agent {mount.id!r} was given; it is not required")
            return
        try:
            agent = self._stack.enter_context(open_agent(source, self._scratch / f"agent{number}", os.environ))
        except UsageError as error:
            error.span = error.span or span
            raise
        place = self._scratch / f"socket{number}"
        mode = 0o600 if mount.mode is None else mount.mode
        self._stack.enter_context(
            forward_agent(agent, place, mode=mode, user_id=mount.user_id or 0, group_id=mount.group_id or 0)
        )
        self.mounts.append(Bind(source=place, target=target, read_only=False))
        self.environment.setdefault(_SSH_VARIABLE, mount.target)

    # -- caches -------------------------------------------------------------------------------------------------------------------

    def hold_caches(self) -> Work[None]:
        """All of them or none, so that two steps that want the same ones cannot each wait for the other."""
        from contain.store.cache_mounts import CacheIdentity, try_hold_cache_mount

        if not self._caches:
            return
        wanted: dict[CacheIdentity, tuple[Sharing, MountSource | None]] = {}
        identities: list[CacheIdentity] = []
        for mount, source in self._caches:
            identity = CacheIdentity(
                id=mount.id,
                namespace=self._bench.graph.given.get(CACHE_MOUNT_NAMESPACE, ""),
                origin="" if source is None else source.digest(),
                user_id=mount.user_id or 0,
                group_id=mount.group_id or 0,
                mode=_CACHE_MODE if mount.mode is None else mount.mode,
            )
            sharing: Sharing = "shared" if mount.sharing is None else mount.sharing.value
            before = wanted.get(identity)
            if before is None or _STRICTNESS[sharing] > _STRICTNESS[before[0]]:
                wanted[identity] = (sharing, source)
            identities.append(identity)
        waited = False
        while True:
            held: dict[CacheIdentity, HeldCacheMount] = {}
            with contextlib.ExitStack() as attempt:
                for identity, (sharing, source) in wanted.items():
                    fill = None if source is None else partial(_copy_into, source=source, epoch_seconds=None)
                    found = try_hold_cache_mount(self._bench.store, identity, sharing, fill=fill)
                    if found is None:
                        break
                    attempt.callback(found.release)
                    held[identity] = found
                else:
                    self._stack.push(attempt.pop_all())
                    break
            if not waited:
                self._stage.progress.note(f"the cache {identity.id!r} is in use; waiting for it")
                waited = True
            yield Pause(_ASK_AGAIN_SECONDS)
        for (mount, source), identity in zip(self._caches, identities, strict=True):
            place = held[identity].tree
            within = None
            if source is None and mount.source.strip("/"):
                within, place = place, _directory_in(place, mount, self._step)
            target, read_only = PurePosixPath(mount.target), mount.read_only
            self.mounts.append(Bind(source=place, target=target, read_only=read_only, beneath=within))


_STRICTNESS: Mapping[str, int] = {"shared": 0, "private": 1, "locked": 2}


def _directory_in(tree: HostPath, mount: RunMount, step: RunStep) -> HostPath:
    """A directory of a cache, made if it is missing. What is in a cache was written by steps, so links are not followed; and since
    other steps write it now, it is opened without following links once more when it is mounted (`Bind.beneath`)."""
    place = tree
    descriptor = os.open(tree, _DIRECTORY_FLAGS)
    try:
        for name in mount.source.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                raise NotADirectoryError
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, _CACHE_MODE, dir_fd=descriptor)
            inner = os.open(name, _DIRECTORY_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor, place = inner, place / name
    except OSError as error:
        raise UsageError(
            f"{mount.source!r} is not a directory of the cache {mount.id!r}: a link, a file, or outside of it",
            code="mount-source-kind",
            span=step.instruction.span_of(mount.source),
        ) from error
    finally:
        os.close(descriptor)
    return place


def _copy_into(place: HostPath, source: MountSource, *, epoch_seconds: int | None) -> None:
    """The files of a source in an empty directory, with the directory's own attributes; a file is called ``file``.

    ``epoch_seconds``: the time of directories that have none of their own.
    """
    node = source.node
    target = "" if node.kind is Kind.DIRECTORY else "file"
    plan = CopyPlan(directories=(), placements=(Placement(source=node, target=target),))
    batch = Batch(tree=source.tree, selected=(Selected(name="", node=node),))
    lower = ViewTree(RootView(()))
    with UpperWriter(place, lower=lower.lookup, epoch_seconds=epoch_seconds or 0) as writer:
        perform_copy(plan, [batch], writer, CopyOptions(), warn=lambda _text: None)
    place.chmod(node.mode if node.kind is Kind.DIRECTORY else 0o755)
    if node.kind is Kind.DIRECTORY and os.geteuid() == 0:
        os.chown(place, node.user_id, node.group_id)
    os.utime(place, ns=(node.mtime_ns, node.mtime_ns))


def read_secret(source: SecretSource, environ: Mapping[str, str]) -> bytes:
    """The bytes of a secret. Raises `UsageError` (``secret-unreadable``); its message never holds any of them."""
    variable = source.variable
    if not source.path and not variable and source.id in environ:
        variable = source.id
    if variable:
        if variable not in environ:
            raise UsageError(
                f"the secret {source.id!r} is to come from the variable {variable}, which is not set", code="secret-unreadable"
            )
        content = os.fsencode(environ[variable])
    else:
        path = source.path or source.id
        try:
            with open(path, "rb") as file:
                content = file.read(_LARGEST_SECRET_BYTES + 1)
        except OSError as error:
            raise UsageError(
                f"the secret {source.id!r} cannot be read from {path!r}: {error.strerror}",
                code="secret-unreadable",
                remedy=f"pass it: --secret id={source.id},src=FILE",
            ) from error
    if len(content) > _LARGEST_SECRET_BYTES:
        raise UsageError(f"the secret {source.id!r} is larger than {_LARGEST_SECRET_BYTES >> 10} KiB", code="secret-unreadable")
    return content


def remove_stubs(upper: HostPath, paths: Sequence[str]) -> None:
    """Take away the mount points that were made in a layer: what is empty of ``paths``, the deepest first. Follows no link."""
    for path in paths:
        with contextlib.suppress(OSError):
            parent = _open_directory(upper, parent_of(path))
            try:
                _remove_if_empty(parent, path.rpartition("/")[2])
            finally:
                os.close(parent)


def _open_directory(top: HostPath, path: str) -> int:
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in path.split("/") if path else ():
        try:
            inner = os.open(name, _DIRECTORY_FLAGS, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _remove_if_empty(parent: int, name: str) -> None:
    import stat

    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        os.rmdir(name, dir_fd=parent)
    elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
        os.unlink(name, dir_fd=parent)
