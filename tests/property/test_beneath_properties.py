"""The walker and the kernel give the same answer, for any tree of links and any path."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contain.beneath import open_beneath, openat2_works

pytestmark = pytest.mark.skipif(not openat2_works(), reason="the kernel or a filter refuses openat2 here")

_NAMES = st.sampled_from(["a", "b", "c"])
_PARTS = st.sampled_from(["a", "b", "c", "..", ".", ""])
_PATHS = st.lists(_PARTS, min_size=1, max_size=6).map("/".join)
_FLAGS = st.sampled_from(
    [os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY, os.O_RDONLY | os.O_NOFOLLOW]
)
_ENTRIES = st.lists(
    st.tuples(st.lists(_NAMES, min_size=1, max_size=3), st.one_of(st.just("/file"), st.just("/directory"), _PATHS)), max_size=10
)


def _make(root: Path, entries: list[tuple[list[str], str]]) -> None:
    for parts, what in entries:
        place = root
        for part in parts[:-1]:
            place /= part
            if place.is_symlink():
                break
            with contextlib.suppress(FileExistsError):
                place.mkdir()
            if not place.is_dir():
                break
        else:
            place /= parts[-1]
            with contextlib.suppress(FileExistsError):
                if what == "/file":
                    place.touch(exist_ok=False)
                elif what == "/directory":
                    place.mkdir()
                elif what:
                    place.symlink_to(what)


def _answer(root: int, path: str, flags: int, *, links: bool, walker: bool) -> tuple[str, int, int]:
    try:
        descriptor = open_beneath(root, path, flags, links=links, walker=walker)
    except OSError as error:
        return errno.errorcode[error.errno or 0], 0, 0
    try:
        found = os.fstat(descriptor)
        return "", found.st_dev, found.st_ino
    finally:
        os.close(descriptor)


@settings(deadline=None, max_examples=200)
@given(entries=_ENTRIES, path=_PATHS, flags=_FLAGS, links=st.booleans())
def test_both_ways_open_the_same(entries: list[tuple[list[str], str]], path: str, flags: int, links: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "root")
        root.mkdir()
        _make(root, entries)
        descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel = _answer(descriptor, path, flags, links=links, walker=False)
            assert _answer(descriptor, path, flags, links=links, walker=True) == kernel
        finally:
            os.close(descriptor)
