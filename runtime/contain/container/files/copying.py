"""``contain cp``: files and directories between this machine and a container's root. Puts `copy_rules` (what is meant), `copy_root`
(where), and `copy_items` (the doing) together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from contain.annotations import BinaryIO
from contain.beneath import open_beneath
from contain.container.files.copy_items import Writer, archive_pieces, read_archive, read_tree
from contain.container.files.copy_root import ContainerRoot, Owners
from contain.container.files.copy_rules import Found, asks_for_directory, base_name, is_contents_only, plan_name
from contain.errors import Conflict, HostError, NotFound, UsageError
from contain.linux.idmap import creating_as
from contain.store.tar_header import TarEntry

_LINKS = 40
_KERNELS = frozenset((b"proc", b"sys", b"dev"))  # mounted in every root that runs, and never what somebody wants of it
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _no_file(path: str, name: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {name}", code="no-such-path")


@contextlib.contextmanager
def _explained(path: str, name: str, *, read_only: bool) -> Iterator[None]:
    """Errors of the kernel at the container's side in Docker's words."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            what = "container rootfs" if read_only else "mounted volume"
            raise Conflict(f"{what} is marked read-only", code="copy-read-only") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise _no_file(path, name) from error
        raise


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _look(root: int, path: str) -> tuple[int, os.stat_result]:
    """An O_PATH descriptor of what a path in a container means, a link at its end not followed; one with a slash behind it is."""
    follows = asks_for_directory(path)
    seen = open_beneath(root, path, os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if follows else os.O_NOFOLLOW))
    return seen, os.fstat(seen)


def copy_out(
    root: ContainerRoot,
    name: str,
    path: str,
    target: str | BinaryIO,
    *,
    follow: bool = False,
    archive: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> int:
    """From a container's path to a path of this machine, or as a tar archive to a stream; bytes of content. ``archive``: owners and
    set-id bits too. Raises `NotFound`, `Conflict`, `UsageError`."""
    path = _absolute(path)
    with contextlib.ExitStack() as cleanup:
        with _explained(path, name, read_only=root.read_only):
            seen, found = _look(root.descriptor, path)
            cleanup.callback(os.close, seen)
            if follow and stat.S_ISLNK(found.st_mode):
                seen = open_beneath(root.descriptor, path, os.O_PATH | os.O_CLOEXEC)
                cleanup.callback(os.close, seen)
                found = os.fstat(seen)
        bare = _KERNELS if os.path.samestat(found, os.fstat(root.descriptor)) else frozenset()
        if not isinstance(target, str):
            size = 0
            for piece in archive_pieces(read_tree(seen, base_name(path) or b".", root.owners, bare=bare)):
                size += len(piece)
                target.write(piece)
            target.flush()
            return size
        is_directory = stat.S_ISDIR(found.st_mode)
        _verify_output(target)
        goal = _local_target(target)
        into, made = plan_name(path, is_directory=is_directory, target=goal)
        place = goal.path if into else os.path.dirname(os.path.normpath(goal.path)) or "/"
        directory = os.open(place, _DIRECTORY)
        cleanup.callback(os.close, directory)
        writer = Writer(
            directory,
            owner_of=(lambda entry: (entry.user_id, entry.group_id)) if archive else lambda _: None,
            host=True,
            keep_set_id=archive,
            warn=warn,
        )
        writer.write(read_tree(seen, made, root.owners, bare=bare))
        return writer.size_bytes


def _verify_output(path: str) -> None:
    parent = os.path.dirname(os.path.normpath(path))
    if parent and not os.path.exists(parent):
        raise UsageError(f'invalid output path: directory "{parent}" does not exist', code="bad-output")
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise UsageError(f'invalid output path: "{path}" must be a directory or a regular file', code="bad-output")


def _local_target(path: str) -> Found:
    """A path of this machine; links at its end are followed, also one that leads to nothing."""
    whole = os.path.abspath(path) + ("/" if asks_for_directory(path) else "")
    for _ in range(_LINKS):
        bare = whole.rstrip("/") or "/"
        if not os.path.islink(bare):
            break
        whole = os.path.join(os.path.dirname(bare), os.readlink(bare)) + ("/" if whole.endswith("/") else "")
    return Found(path=whole, exists=os.path.exists(whole), is_directory=os.path.isdir(whole))


def copy_in(
    root: ContainerRoot,
    name: str,
    source: str | BinaryIO,
    path: str,
    *,
    follow: bool = False,
    archive: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> int:
    """From a path of this machine, or a tar archive from a stream, to a container's path; bytes of content.

    What is made belongs to whom it belongs here, as with Docker; where the container has no such id to its root, but not with
    ``archive``. Raises `NotFound`, `Conflict`, `UsageError`."""
    path = _absolute(path)
    with contextlib.ExitStack() as cleanup:
        goal, parent = _inner_target(root.descriptor, path, cleanup, name, read_only=root.read_only)
        cleanup.enter_context(creating_as(*root.owners.outside(0, 0)))

        def owner_of(entry: TarEntry) -> tuple[int, int]:
            try:
                return root.owners.outside(entry.user_id, entry.group_id)
            except HostError:
                if archive:
                    raise
                return root.owners.outside(0, 0)

        if not isinstance(source, str):
            if not goal.is_directory:
                raise Conflict(f'destination "{name}:{path}" must be a directory', code="copy-no-directory")
            writer = Writer(
                parent,
                owner_of=owner_of,
                host=False,
                root=root.descriptor,
                place=goal.path,
            )
            with _explained(path, name, read_only=root.read_only):
                writer.write(read_archive(_reader(source)))
            return writer.size_bytes
        seen = _local_source(source, follow=follow)
        cleanup.callback(os.close, seen)
        is_directory = stat.S_ISDIR(os.fstat(seen).st_mode)
        _, made = plan_name(os.path.abspath(source) + _ending(source), is_directory=is_directory, target=goal)
        writer = Writer(parent, owner_of=owner_of, host=False, warn=warn)
        with _explained(path, name, read_only=root.read_only):
            writer.write(read_tree(seen, made, Owners()))
        return writer.size_bytes


def _ending(path: str) -> str:
    return "/." if is_contents_only(path) and not path.endswith("/") else "/" if path.endswith("/") else ""


def _reader(stream: BinaryIO) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := stream.read(size - len(data))):
            data = data + piece if data else piece
        return data

    return read


def _local_source(path: str, *, follow: bool) -> int:
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow or asks_for_directory(path) else os.O_NOFOLLOW)
    try:
        return os.open(path, flags | (os.O_DIRECTORY if asks_for_directory(path) else 0))
    except OSError as error:
        why = "no such file or directory" if error.errno == errno.ENOENT else (error.strerror or "").lower()
        raise UsageError(f"lstat {os.path.abspath(path)}: {why}", code="no-such-source") from error


def _inner_target(root: int, path: str, cleanup: contextlib.ExitStack, name: str, *, read_only: bool) -> tuple[Found, int]:
    """What a path in a container leads to, and a descriptor of the directory where things are made: the target itself, or the one
    in which it is. Links at the end are followed inside the root, also one that leads to nothing."""
    asked, slash = path, path.endswith("/")
    for _ in range(_LINKS):
        if asks_for_directory(path):
            with contextlib.suppress(OSError):
                directory = open_beneath(root, path, _DIRECTORY)
                cleanup.callback(os.close, directory)
                return Found(path=path, exists=True, is_directory=True), directory
            path = path.rstrip("/").removesuffix("/.").rstrip("/") or "/"
        above, _, last = path.rpartition("/")
        with _explained(above or "/", name, read_only=read_only):
            parent = open_beneath(root, above or "/", _DIRECTORY)
        cleanup.callback(os.close, parent)
        try:
            found = os.stat(last, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return Found(path=path + ("/" if asks_for_directory(asked) else ""), exists=False), parent
        if stat.S_ISLNK(found.st_mode):
            points_to = os.readlink(last, dir_fd=parent)
            path = points_to if points_to.startswith("/") else f"{above}/{points_to}"
            path += "/" if slash and not path.endswith("/") else ""
            continue
        if stat.S_ISDIR(found.st_mode):
            with _explained(path, name, read_only=read_only):
                directory = open_beneath(root, path, _DIRECTORY)
            cleanup.callback(os.close, directory)
            return Found(path=path, exists=True, is_directory=True), directory
        if not stat.S_ISREG(found.st_mode):
            raise Conflict(f'destination "{name}:{asked}" must be a directory or a regular file', code="copy-no-directory")
        if asks_for_directory(asked):
            raise Conflict("no such directory", code="copy-no-directory", remedy="leave out the slash: it is a file")
        return Found(path=path, exists=True), parent
    raise _no_file(asked, name)
