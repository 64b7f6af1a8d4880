"""Lock files and inventories take whatever comes: a value or a `UsageError`, never anything else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from contain.attestation import take_inventory
from contain.attestation.sbom import Subject, render_sbom
from contain.build.lock.compare import Lock, LockedBase, LockedStage, LockedStep, compare_locks, render_moved
from contain.build.lock.file import parse_lock, render_lock
from contain.build.lock.outline import outline
from contain.environment import DirectoryFiles
from contain.errors import UsageError

ANY = st.text(st.characters(), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["lock", "image", "platform", "source_date_epoch", "stages", "bases", "sources", "build_args", "options", "dockerfile"]
)
DIGESTS = st.integers(0, 3).map(lambda number: f"sha256:{number:064x}")
TEXTS = st.text(st.characters(), min_size=1, max_size=8)  # halves of characters, too: names of files are bytes
VERSIONS = st.dictionaries(
    st.sampled_from(["dpkg", "python"]), st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=2), max_size=2
)
FILES = st.dictionaries(TEXTS, TEXTS, max_size=3)
STEPS = st.builds(
    LockedStep,
    text=TEXTS,
    layer=DIGESTS | st.just(""),
    from_context=st.booleans(),
    packages=VERSIONS,
    removed=VERSIONS,
    files=FILES,
)
LOCKS = st.builds(
    Lock,
    image=DIGESTS,
    dockerfile=TEXTS,
    target=TEXTS,
    platform=TEXTS,
    epoch_seconds=st.integers(0, 10),
    build_args=st.dictionaries(TEXTS, TEXTS | st.none(), max_size=2),
    options=st.dictionaries(TEXTS, st.booleans(), max_size=2),
    bases=st.dictionaries(
        TEXTS, st.builds(LockedBase, digest=DIGESTS, platform=TEXTS, source=TEXTS, state=TEXTS, packages=VERSIONS), max_size=2
    ),
    sources=st.dictionaries(TEXTS, TEXTS, max_size=2),
    stages=st.lists(
        st.builds(LockedStage, name=TEXTS, base=TEXTS, steps=st.lists(STEPS, max_size=3).map(tuple)), max_size=2
    ).map(tuple),
)


def parses(data: bytes) -> None:
    try:
        parse_lock(data, path="x")
    except UsageError as error:
        assert error.code == "bad-lock"  # noqa: PT017 - whether it raises is not the question


@given(st.binary(max_size=200))
def test_any_bytes_are_a_lock_or_a_clear_error(data: bytes) -> None:
    parses(data)


@given(st.dictionaries(FIELDS, JSON))
def test_any_json_is_a_lock_or_a_clear_error(value: dict[str, object]) -> None:
    parses(json.dumps(value | {"lock": 1}).encode())


@given(LOCKS)
def test_a_lock_is_the_same_after_its_file(lock: Lock) -> None:
    assert parse_lock(render_lock(lock).encode(), path="x") == lock


@given(LOCKS, LOCKS)
def test_two_locks_differ_in_something_that_can_be_shown_unless_the_image_is_the_same(one: Lock, other: Lock) -> None:
    rows = compare_locks(one, other)
    assert bool(rows) == (one.image != other.image)
    assert len(render_moved(rows).splitlines()) <= 42


@given(
    st.dictionaries(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple), TEXTS, max_size=12), st.integers(1, 20)
)
def test_an_outline_shows_every_file_once_and_changes_with_each(leaves: dict[tuple[str, ...], str], limit: int) -> None:
    files = {"/": "root"}
    for parts, digest in leaves.items():
        for depth in range(1, len(parts)):
            files["/" + "/".join(parts[:depth]) + "/"] = "directory"
        files["/" + "/".join(parts)] = digest
    files = {path: digest for path, digest in files.items() if path == "/" or f"{path}/" not in files}
    shown = outline(files, limit=limit)
    for path in files:
        covering = [line for line in shown if line == path or (line.endswith("/") and path.startswith(line))]
        below = [line for line in shown if path.endswith("/") and line.startswith(path) and line != path]
        assert len(covering) == 1 or (below and not covering) or (path == "/" and shown)
        if path.endswith("/"):
            continue
        changed = outline({**files, path: files[path] + "!"}, limit=limit)
        assert [line for line in shown if shown[line] != changed[line]] == covering


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "etc/os-release",
                "var/lib/dpkg/status",
                "lib/apk/db/installed",
                "a/site-packages/x-1.dist-info/METADATA",
                "a/site-packages/x-1.dist-info/direct_url.json",
                "a/node_modules/x/package.json",
                "a/node_modules/.package-lock.json",
                "usr/share/doc/x/copyright",
                "a/node_modules/\udcff/package.json",
                "\udcff/site-packages/x-1.dist-info/METADATA",
            ]
        ),
        st.binary(max_size=60)
        | JSON.map(lambda value: json.dumps(value).encode())
        | ANY.map(lambda text: json.dumps({"version": text, "name": text, "license": text}).encode())
        | st.just(b"Package: x\nVersion: 1\nName: x\nP:x\nV:1\n"),
        max_size=8,
    )
)
def test_whatever_is_in_an_image_can_be_listed(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, data in files.items():
            place = Path(directory) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        inventory = take_inventory(DirectoryFiles(directory))
        json.loads(render_sbom(Subject(digest="sha256:" + "0" * 64), inventory, tool_version="1"))
