"""A merged root as one tar archive: the same bytes for the same root. Reads only.

For a whole root file system, as ``contain export`` and ``--output type=tar`` write it; layers are `contain.store.tree`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from contain.store.rootview import Kind, RootView
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, padding_bytes, render_entry
from contain.values import replace

_CHUNK_BYTES = 1 << 20
_KINDS = {
    Kind.FILE: TarKind.FILE,
    Kind.DIRECTORY: TarKind.DIRECTORY,
    Kind.SYMLINK: TarKind.SYMLINK,
    Kind.CHARACTER: TarKind.CHARACTER,
    Kind.BLOCK: TarKind.BLOCK,
    Kind.FIFO: TarKind.FIFO,
}


def root_archive(view: RootView) -> Iterator[bytes]:
    """The archive, piece by piece. Sockets are left out: no archive can hold one."""
    first: dict[tuple[int, int], bytes] = {}
    for entry in view.walk("/"):
        path = os.fsencode(entry.path)[1:]
        if not path or entry.kind is Kind.SOCKET:  # no archive can hold one
            continue
        described = TarEntry(
            path=path,
            kind=_KINDS[entry.kind],
            mode=0o777 if entry.kind is Kind.SYMLINK else entry.mode,
            user_id=entry.uid,
            group_id=entry.gid,
            size_bytes=entry.size,
            mtime_ns=entry.mtime_ns,
            link=os.fsencode(entry.link_target),
            device=entry.device,
            xattrs={os.fsencode(key): value for key, value in entry.xattrs.items()},
        )
        if entry.host_stat.st_nlink > 1 and entry.kind is not Kind.DIRECTORY:
            earlier = first.setdefault(entry.identity, path)
            if earlier != path:
                yield render_entry(replace(described, kind=TarKind.HARD_LINK, size_bytes=0, link=earlier, xattrs={}))
                continue
        if entry.kind is not Kind.FILE:
            yield render_entry(described)
            continue
        with entry.open() as file:
            size = os.fstat(file.fileno()).st_size  # a running container may have written meanwhile
            yield render_entry(replace(described, size_bytes=size))
            left = size
            while left:
                data = file.read(min(left, _CHUNK_BYTES)) or bytes(min(left, _CHUNK_BYTES))
                left -= len(data)
                yield data
            if padding := padding_bytes(size):
                yield bytes(padding)
    yield END_OF_ARCHIVE
