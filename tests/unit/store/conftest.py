"""Archives and stores for the tests beside this file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contain.store import Store
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, padding_bytes, render_entry

ArchiveMaker = Callable[..., bytes]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def archive() -> ArchiveMaker:
    """Entries, each alone or as (entry, content), as the bytes of an archive."""

    def make(*entries: TarEntry | tuple[TarEntry, bytes], end: bytes = END_OF_ARCHIVE) -> bytes:
        parts = []
        for item in entries:
            entry, content = item if isinstance(item, tuple) else (item, b"")
            parts += [render_entry(entry), content, bytes(padding_bytes(len(content)))]
        return b"".join(parts) + end

    return make


@pytest.fixture
def digest() -> Callable[[bytes], str]:
    return lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
