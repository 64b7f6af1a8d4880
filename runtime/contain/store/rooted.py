"""Opening things below a root directory without ever leaving it, whatever symbolic links the tree holds.

Every path is resolved against a directory descriptor, by `contain.beneath.open_beneath`.

A path here is bytes, relative to the root, without empty, ``.`` and ``..`` components (see `split_path`); ``b""`` is the root
itself.
"""

from __future__ import annotations

import os
from types import TracebackType

from contain.beneath import open_beneath

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def split_path(path: bytes) -> list[bytes]:
    """Components of an archive's or a user's path. A leading slash means the root; ``..`` is kept for the caller to judge."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


class Root:
    """A directory that is the whole world. A context manager; owns its descriptor.

    ``walker``: never use `openat2` (tests force the fallback with it).
    """

    def __init__(self, directory: str | os.PathLike[str] | int, *, walker: bool = False) -> None:
        if isinstance(directory, int):
            self.descriptor = os.open(".", DIRECTORY_FLAGS, dir_fd=directory)
        else:
            self.descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._walker = walker

    def __enter__(self) -> Root:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def open_directory(self, path: bytes, *, follow: bool) -> int:
        """A descriptor of the directory at ``path``. With ``follow``, links on the way are resolved inside the root;
        without, any link is ELOOP or ENOTDIR.

        Raises `OSError`: ENOENT, ENOTDIR, ELOOP, EXDEV (a mount point in the way).
        """
        flags = os.O_RDONLY | os.O_DIRECTORY
        return open_beneath(self.descriptor, path, flags, links=follow, mounts=False, walker=self._walker)


class DirectoryCache:
    """Descriptors of recently used directories of one root, so that neighbours in an archive cost one resolution.

    Call `forget` whenever a directory or a link was removed or replaced: a path may mean something else now.
    """

    def __init__(self, root: Root, *, follow: bool, size: int = 32) -> None:
        self._root, self._follow, self._size = root, follow, size
        self._open: dict[bytes, int] = {}

    def get(self, path: bytes) -> int:
        """A descriptor that stays owned by the cache and valid until the next call of `get` or `forget`."""
        found = self._open.pop(path, None)
        if found is None:
            found = self._root.open_directory(path, follow=self._follow)
            if len(self._open) >= self._size:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = found
        return found

    def forget(self) -> None:
        """Close all."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def join(directory: bytes, name: bytes) -> bytes:
    """A path below a directory, where ``b""`` is the root."""
    return directory + b"/" + name if directory else name


def list_names(descriptor: int) -> list[bytes]:
    """The names in a directory, sorted bytewise."""
    with os.scandir(descriptor) as entries:
        return sorted(os.fsencode(entry.name) for entry in entries)
