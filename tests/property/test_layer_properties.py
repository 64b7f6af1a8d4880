"""Random trees: archives round-trip, stores agree, and what a commit leaves shows the same file system as what overlay left."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from contain.errors import IntegrityError
from contain.progress import Silent
from contain.store import RootView, Store, TarLimits
from contain.store.root_copy import copy_root, extract_changes
from contain.store.rooted import Root
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, padding_bytes, render_entry, render_file
from contain.store.tar_reader import TarReader
from contain.store.tree import canonical_tar

EPOCH = 946_684_800
ROOT = os.geteuid() == 0
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.sampled_from(
    [b"a", b"b", b"a-", b"a.b", b"A", "é".encode(), b"\xff\xfe", b"n" * 120, b".hidden", b"with space", b"new\nline"]
)
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o444])
OWNERS = st.sampled_from([(0, 0), (1000, 1000), (0, 42), (3_000_000, 3_000_000)] if ROOT else [(0, 0)])
TIMES = st.sampled_from([0, 1, EPOCH - 1, EPOCH, EPOCH + 1, 2_000_000_000, -100])
CONTENTS = st.sampled_from([b"", b"x", b"y", b"z" * 511, b"z" * 512, b"z" * 513, bytes(70_000)])
ATTRIBUTES = st.sampled_from([{}, {}, {}, {"user.a": b"1"}, {"user.b": b"\0\n=", "user.a": b""}])


@dataclass(frozen=True)
class Thing:
    """One name in a random tree."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime: int
    content: bytes = b""
    attributes: tuple[tuple[str, bytes], ...] = ()
    opaque: bool = False
    children: tuple[tuple[bytes, Thing], ...] = ()


def things(depth: int, *, upper: bool) -> st.SearchStrategy[Thing]:
    kinds = ["file"] * 4 + ["symlink", "link", "link", "fifo"] + (["whiteout", "whiteout", "socket"] if upper else [])
    attributes = ATTRIBUTES.map(lambda found: tuple(found.items()))
    leaf = st.builds(
        Thing, kind=st.sampled_from(kinds), mode=MODES, owner=OWNERS, mtime=TIMES, content=CONTENTS, attributes=attributes
    )
    if depth == 0:
        return leaf
    children = st.dictionaries(NAMES, things(depth - 1, upper=upper), max_size=4).map(lambda found: tuple(found.items()))
    directory = st.builds(
        Thing,
        kind=st.just("directory"),
        mode=st.sampled_from([0o755, 0o700, 0o1777]),
        owner=OWNERS,
        mtime=TIMES,
        attributes=attributes,
        opaque=st.booleans() if upper else st.just(False),
        children=children,
    )
    return st.one_of(leaf, directory)


def trees(*, upper: bool = False) -> st.SearchStrategy[tuple[tuple[bytes, Thing], ...]]:
    return st.dictionaries(NAMES, things(2, upper=upper), max_size=5).map(lambda found: tuple(found.items()))


def make(top: Path, tree: tuple[tuple[bytes, Thing], ...]) -> Path:
    """The tree on disk. A "link" becomes a hard link to the file made before it."""
    top.mkdir()
    top.chmod(0o755)
    last_file: list[bytes] = []

    def fill(directory: bytes, children: tuple[tuple[bytes, Thing], ...]) -> None:
        for name, thing in children:
            path = directory + b"/" + name
            if thing.kind == "directory":
                os.mkdir(path)
                fill(path, thing.children)
            elif thing.kind == "symlink":
                os.symlink(thing.content[:50].replace(b"\0", b"0") or b"/", path)
            elif thing.kind == "fifo":
                os.mkfifo(path)
            elif thing.kind == "whiteout":
                os.mknod(path, stat.S_IFCHR, 0)
                continue
            elif thing.kind == "socket":
                os.mknod(path, stat.S_IFSOCK | 0o600)
            elif thing.kind == "link" and last_file:
                os.link(last_file[0], path)
                continue
            else:
                with open(path, "wb") as file:
                    file.write(thing.content)
                last_file[:] = [path]
            if ROOT:
                os.chown(path, *thing.owner, follow_symlinks=False)
            if thing.kind != "symlink":
                os.chmod(path, thing.mode)
            if os.path.isdir(path) or (os.path.isfile(path) and not os.path.islink(path)):
                for key, value in thing.attributes:
                    if ROOT or os.access(path, os.W_OK):
                        os.setxattr(path, key, value)
                if thing.opaque:
                    os.setxattr(path, "user.overlay.opaque", b"y")
            os.utime(path, (thing.mtime, thing.mtime), follow_symlinks=False)

    fill(os.fsencode(top), tree)
    return top


def readable(children: tuple[tuple[bytes, Thing], ...]) -> bool:
    """Whether an ordinary user can read all of it back."""
    return ROOT or all(
        readable(thing.children) if thing.kind == "directory" else thing.mode & 0o400 != 0 for _, thing in children
    )


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="layers") as name:
        yield Path(name)


def snapshot(lower: list[Path]) -> list[tuple[object, ...]]:
    """All that a container could tell, but for times."""
    found: list[tuple[object, ...]] = []
    first_name: dict[tuple[int, int], str] = {}
    with RootView(lower) as view:
        for entry in view.walk():
            if entry.kind.value == "socket":
                continue
            content = b""
            if entry.kind.value == "file":
                with entry.open() as file:
                    content = file.read()
            same = first_name.setdefault(entry.identity, str(entry.path)) if entry.kind.value == "file" else ""
            attributes = tuple(sorted(entry.xattrs.items()))
            mode = 0 if entry.kind.value == "symlink" else entry.mode
            found.append(
                (str(entry.path), entry.kind, mode, entry.uid, entry.gid, content, entry.link_target, attributes, same)
            )
    return found


@QUICK
@given(tree=trees())
def test_a_layer_survives_the_way_through_its_archive_into_another_store(tree: tuple[tuple[bytes, Thing], ...]) -> None:
    assume(readable(tree))
    with place() as here, Store.open(here / "one") as one, Store.open(here / "two") as two:
        committed = one.commit_layer(make(here / "upper", tree), lower=(), epoch_seconds=EPOCH)
        if committed is None:
            assert not tree
            return
        out = io.BytesIO()
        one.write_layer_tar(committed.diff_id, out)
        data = out.getvalue()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == committed.diff_id
        assert len(data) == committed.size_bytes
        two.extract_layer(
            io.BytesIO(data),
            diff_id=committed.diff_id,
            media_type="application/vnd.oci.image.layer.v1.tar",
            progress=Silent(),
            label="",
        )
        with Root(two.layer_tree(committed.diff_id)) as root:
            again = b"".join(canonical_tar(root, root_entry=False))
        assert again == data
        assert snapshot([one.layer_tree(committed.diff_id)]) == snapshot([two.layer_tree(committed.diff_id)])


@QUICK
@given(lower=trees(), upper=trees(upper=True))
def test_a_committed_layer_shows_what_the_upper_directory_showed(
    lower: tuple[tuple[bytes, Thing], ...], upper: tuple[tuple[bytes, Thing], ...]
) -> None:
    assume(readable(lower) and readable(upper))
    with place() as here, Store.open(here / "store") as store:
        below, above = make(here / "lower", lower), make(here / "upper", upper)
        before = snapshot([below, above])
        committed = store.commit_layer(above, lower=[below], epoch_seconds=EPOCH)
        after = snapshot([below] if committed is None else [below, store.layer_tree(committed.diff_id)])
        assert [row[:-1] for row in after] == [row[:-1] for row in before]
        # Names of one file stay names of one file. (A copy-up tears one name from its lower siblings; taking back a copy that
        # changed nothing may join it to them again.)
        first_after = {row[0]: row[-1] for row in after}
        assert all(first_after[row[0]] == first_after[row[-1]] for row in before if row[-1])
        if committed is not None:
            # Nothing is left in it that says nothing: committing it over the same layers again gives the same layer.
            tree = store.layer_tree(committed.diff_id)
            subprocess.run(["cp", "-a", "--", tree, here / "again"], check=True)
            assert store.commit_layer(here / "again", lower=[below], epoch_seconds=EPOCH) == committed


@QUICK
@given(tree=trees())
def test_committing_a_tree_over_itself_changes_nothing(tree: tuple[tuple[bytes, Thing], ...]) -> None:
    assume(readable(tree))
    with place() as here, Store.open(here / "store") as store:
        lower, upper = make(here / "lower", tree), make(here / "upper", tree)
        assert store.commit_layer(upper, lower=[lower], epoch_seconds=EPOCH) is None


@QUICK
@given(lower=trees(), upper=trees(upper=True))
def test_a_copy_shows_what_the_layers_show_and_nothing_in_it_is_a_change(
    lower: tuple[tuple[bytes, Thing], ...], upper: tuple[tuple[bytes, Thing], ...]
) -> None:
    assume(readable(lower) and readable(upper))
    with place() as here:
        layers = [make(here / "lower", lower), make(here / "upper", upper)]
        (here / "copy").mkdir()
        copy_root(layers, here / "copy")
        assert [row[:-1] for row in snapshot([here / "copy"])] == [row[:-1] for row in snapshot(layers)]
        extract_changes(here / "copy", layers, here / "changes", move=False)
        with RootView(layers) as view:
            sockets = any(entry.kind.value == "socket" for entry in view.walk())
        assert sockets or os.listdir(here / "changes") == []  # no layer holds sockets, and no copy


@QUICK
@given(lower=trees(), upper=trees(upper=True), after=trees(), move=st.booleans())
def test_what_differs_in_a_copy_shows_upon_its_layers_what_the_copy_shows(
    lower: tuple[tuple[bytes, Thing], ...],
    upper: tuple[tuple[bytes, Thing], ...],
    after: tuple[tuple[bytes, Thing], ...],
    move: bool,
) -> None:
    assume(readable(lower) and readable(upper) and readable(after))
    with place() as here:
        layers = [make(here / "lower", lower), make(here / "upper", upper)]
        copy = make(here / "copy", after)
        seen = snapshot([copy])
        extract_changes(copy, layers, here / "changes", move=move)
        shown = snapshot([*layers, here / "changes"])
        assert [row[:-1] for row in shown] == [row[:-1] for row in seen]
        first = {row[0]: row[-1] for row in shown}
        assert all(first[row[0]] == first[row[-1]] for row in seen if row[-1])


ENTRIES = st.builds(
    TarEntry,
    path=st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw and not raw.endswith(b"/")),
    kind=st.sampled_from([TarKind.FILE, TarKind.SYMLINK, TarKind.FIFO, TarKind.DIRECTORY]),
    mode=st.integers(0, 0o7777),
    user_id=st.integers(0, 2**32 - 2),
    group_id=st.integers(0, 2**32 - 2),
    mtime_ns=st.integers(-(2**40), 2**40).map(lambda seconds: seconds * 10**9),
    link=st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw),
    xattrs=st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=200), max_size=2),
)


@given(entry=ENTRIES)
def test_every_entry_is_read_as_it_was_written(entry: TarEntry) -> None:
    data = render_entry(entry) + END_OF_ARCHIVE
    (found,) = list(TarReader(io.BytesIO(data).read, TarLimits()))
    path = found.path.removesuffix(b"/") if entry.kind is TarKind.DIRECTORY else found.path
    assert (path, found.kind, found.mode, found.user_id, found.group_id, found.mtime_ns, found.link, dict(found.xattrs)) == (
        entry.path,
        entry.kind,
        entry.mode,
        entry.user_id,
        entry.group_id,
        entry.mtime_ns,
        entry.link,
        dict(entry.xattrs),
    )


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=3000), cut=st.integers(0, 3000), position=st.integers(0, 1500), flip=st.integers(1, 255))
def test_no_archive_does_more_than_be_refused(data: bytes, cut: int, position: int, flip: int) -> None:
    """Random bytes, and honest archives with a hole or a flipped byte: an `IntegrityError` or a reading, never another error."""
    honest = bytearray(render_entry(TarEntry(path=b"f", kind=TarKind.FILE, size_bytes=100, xattrs={b"user.a": data[:50]})))
    honest += data[:100].ljust(100, b"x") + bytes(padding_bytes(100)) + END_OF_ARCHIVE
    honest[position % len(honest)] ^= flip
    for candidate in (data, bytes(honest), bytes(honest[:cut])):
        try:
            reader = TarReader(io.BytesIO(candidate).read, TarLimits())
            for _ in reader:
                b"".join(reader.payload())
        except IntegrityError:
            pass


@pytest.mark.parametrize(
    "tool", [["tar", "--xattrs", "--xattrs-include=*", "-xpf", "-"], ["bsdtar", "-xpf", "-"]], ids=["gnu", "bsd"]
)
def test_other_tars_read_what_is_written(tool: list[str], tmp_path: Path) -> None:
    tree = (
        (b"d", Thing("directory", 0o755, (0, 0), 5, children=((b"f" * 120, Thing("file", 0o640, (0, 0), 5, b"text")),))),
        ("é".encode(), Thing("file", 0o755, (0, 0), -5, b"x")),
        (b"l", Thing("link", 0o644, (0, 0), 5)),
    )
    with Store.open(tmp_path / "store") as store:
        committed = store.commit_layer(make(tmp_path / "upper", tree), lower=(), epoch_seconds=EPOCH)
        assert committed is not None
        out = io.BytesIO()
        store.write_layer_tar(committed.diff_id, out)
        (tmp_path / "out").mkdir()
        try:
            subprocess.run(tool, input=out.getvalue(), cwd=tmp_path / "out", check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip(f"{tool[0]} is not installed")
        assert snapshot([tmp_path / "out"])[1:] == snapshot([store.layer_tree(committed.diff_id)])[1:]


@given(
    path=st.one_of(st.binary(min_size=1, max_size=110), st.integers(90, 110).map(lambda length: b"\x7f" * length)),
    mode=st.integers(0, 0o7777),
    owners=st.tuples(*[st.sampled_from([0, 1000, 0o7777777, 0o10000000, (1 << 32) - 2])] * 2),
    size=st.sampled_from([0, 1, 0o77777777777, 0o100000000000]),
    mtime_ns=st.integers(-(10**10), 1 << 66),
)
def test_the_quick_header_of_a_file_is_the_header_and_its_checksum_is_right(
    path: bytes, mode: int, owners: tuple[int, int], size: int, mtime_ns: int
) -> None:
    quick = render_file(path, mode, *owners, size, mtime_ns)
    entry = TarEntry(
        path=path, kind=TarKind.FILE, mode=mode, user_id=owners[0], group_id=owners[1], size_bytes=size, mtime_ns=mtime_ns
    )
    assert quick == render_entry(entry)
    header = quick[-512:]
    assert int(header[148:154], 8) == sum(header[:148] + b" " * 8 + header[156:])
