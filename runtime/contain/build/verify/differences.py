"""Compares two versions of one layer, file by file, and says why each file differs: the causes of `contain.build.normalise.causes`.

`compare_trees` reads two layer trees. `attribute` is pure: a path and the beginning of both contents to a cause and a hint. What no
rule knows is `unknown`, never guessed.
"""

from __future__ import annotations

import os
import re
import stat
import string
import zlib
from collections.abc import Collection, Iterator
from enum import Enum

from contain.build.normalise.rules import find_rule
from contain.paths import HostPath
from contain.store.marks import is_whiteout, read_xattrs
from contain.store.ownership import Ownership
from contain.store.rooted import Root
from contain.store.tree import Node, iterate_tree
from contain.values import dataclass

_CHUNK_BYTES = 1 << 20
_LOOKED_AT_BYTES = 1 << 22
_HINT_LENGTH = 48

_TIME = re.compile(
    rb"\d{4}-\d\d-\d\d|\d\d:\d\d(?::\d\d)?|(?<!\d)1[5-9]\d{8}(?!\d)|(?<!\d)1[5-9]\d{11}(?!\d)|(?<!\d)20\d{6}(?:T?\d{4,6}Z?)?(?!\d)"
    rb"|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* +\d"
)
_UUID = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_RANDOM = re.compile(rb"[0-9a-fA-F]{16,}|(?=[+_=-]*[A-Za-z]*\d)(?=[+_=-]*[A-Z\d]*[a-z])[A-Za-z0-9+_=-]{22,}")
_PATH_LINE = re.compile(rb"(?:\./|/)?[^\s/]*(?:/[^\s/]+)+/?")
_RANDOM_DIRECTORY = re.compile(rb"/(?:var/)?tmp/[^\0\s:]*")
_RANDOM_NAME = re.compile(r"tmp\.?[A-Za-z0-9_]{6,}|[._-][A-Za-z0-9]{6,12}$|[0-9a-f]{8,}|\d{4}-?\d\d-?\d\d|\d{9,}")
_PEM = re.compile(rb"-----BEGIN [A-Z ]*(?:KEY|CERTIFICATE|PARAMETERS)-----|^ssh-(?:rsa|ed25519) |^ecdsa-", re.MULTILINE)
_PACKAGES = re.compile(
    r"var/lib/dpkg/(status|available|info/.*)|lib/apk/db/installed|.*\.dist-info/METADATA|.*/package-lock\.json"
)
_PRINTABLE = frozenset(string.printable.encode()) - frozenset(b"\t\n\r\x0b\x0c")


class Change(Enum):
    """How the two versions of a path differ; the first that applies."""

    ONLY_FIRST = "only in the first"
    ONLY_SECOND = "only in the second"
    KIND = "kind"
    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    ATTRIBUTES = "attributes"
    TARGET = "link target"
    TIME = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathDifference:
    """``path`` is absolute. ``cause``: an identifier of `CAUSES`. ``hint``: what stands in the first / in the second."""

    path: str
    change: Change
    cause: str
    hint: str = ""


def compare_trees(first: HostPath, second: HostPath, *, earlier: Collection[str] = ()) -> tuple[PathDifference, ...]:
    """Two layer trees, sorted by path. ``earlier``: paths that differ in a lower layer already."""
    with Root(first) as one, Root(second) as two:
        ours, theirs = _describe(one), _describe(two)
        names = _RandomNames(set(ours) - set(theirs), set(theirs) - set(ours))
        found = []
        for path in sorted({*ours, *theirs}):
            mine, other = ours.get(path), theirs.get(path)
            if mine is None or other is None:
                change = Change.ONLY_SECOND if mine is None else Change.ONLY_FIRST
                found.append(_alone(path, change, names))
                continue
            difference = _compare(path, mine, other, one, two)
            if difference is not None:
                found.append(difference)
    return tuple(_following(each, earlier) for each in found)


def _following(difference: PathDifference, earlier: Collection[str]) -> PathDifference:
    if difference.path not in earlier:
        return difference
    return PathDifference(path=difference.path, change=difference.change, cause="follows", hint=difference.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Description:
    kind: int
    mode: int
    owner: tuple[int, int]
    size_bytes: int
    device: int
    mtime_seconds: int
    target: bytes
    attributes: tuple[tuple[bytes, bytes], ...]


def _describe(root: Root) -> dict[str, _Description]:
    ownership = Ownership.of_this_process()
    return {"/" + os.fsdecode(node.path): _describe_node(node, ownership) for node in iterate_tree(root)}


def _describe_node(node: Node, ownership: Ownership) -> _Description:
    found = node.found
    kind = 0 if is_whiteout(found) else stat.S_IFMT(found.st_mode)
    link = kind == stat.S_IFLNK
    return _Description(
        kind=kind,
        mode=0 if link else stat.S_IMODE(found.st_mode),
        owner=ownership.to_layer(found.st_uid, found.st_gid),
        size_bytes=found.st_size if kind == stat.S_IFREG else 0,
        device=found.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        mtime_seconds=found.st_mtime_ns // 1_000_000_000,
        target=os.readlink(node.name, dir_fd=node.parent) if link else b"",
        attributes=tuple(read_xattrs(node.parent, node.name).items()) if kind else (),
    )


def _alone(path: str, change: Change, names: _RandomNames) -> PathDifference:
    rule = find_rule(path[1:])
    cause = rule.cause if rule is not None else "unknown"
    if cause == "unknown" and names.is_random(path):
        cause = "timestamp" if _TIME.search(os.fsencode(path)) else "random-name"
    elif cause == "unknown" and _PACKAGES.fullmatch(path[1:]):
        cause = "package-versions"
    return PathDifference(path=path, change=change, cause=cause)


class _RandomNames:
    """Names on either side that are equal once what looks random in them is masked."""

    def __init__(self, first: Collection[str], second: Collection[str]) -> None:
        self._both = {_masked(path) for path in first} & {_masked(path) for path in second}

    def is_random(self, path: str) -> bool:
        return _RANDOM_NAME.search(path) is not None and _masked(path) in self._both


def _masked(path: str) -> str:
    return "/".join(_RANDOM_NAME.sub("?", part) for part in path.split("/"))


def _compare(path: str, mine: _Description, other: _Description, one: Root, two: Root) -> PathDifference | None:
    if mine.kind != other.kind or mine.device != other.device:
        return PathDifference(path=path, change=Change.KIND, cause="unknown")
    if mine.kind == stat.S_IFREG:
        differs = mine.size_bytes != other.size_bytes or not _same_content(path, one, two)
        if differs:
            first, second = (_beginning(path, root) for root in (one, two))
            cause, hint = attribute(path[1:], first, second)
            return PathDifference(path=path, change=Change.CONTENT, cause=cause, hint=hint)
    if mine.target != other.target:
        cause, hint = attribute(path[1:], mine.target, other.target)
        return PathDifference(path=path, change=Change.TARGET, cause=cause, hint=hint)
    for change, left, right in (
        (Change.MODE, f"{mine.mode:04o}", f"{other.mode:04o}"),
        (Change.OWNER, "{}:{}".format(*mine.owner), "{}:{}".format(*other.owner)),
        (Change.ATTRIBUTES, _names(mine), _names(other)),
    ):
        if left != right or (change is Change.ATTRIBUTES and mine.attributes != other.attributes):
            return PathDifference(path=path, change=change, cause="ownership-or-mode", hint=f"{left} / {right}")
    if mine.mtime_seconds != other.mtime_seconds:
        hint = f"{mine.mtime_seconds} / {other.mtime_seconds}"
        return PathDifference(path=path, change=Change.TIME, cause="mtime", hint=hint)
    return None


def _names(description: _Description) -> str:
    return ",".join(os.fsdecode(name) for name, _ in description.attributes) or "none"


def _open(path: str, root: Root) -> int:
    directory, _, name = os.fsencode(path[1:]).rpartition(b"/")
    parent = root.open_directory(directory, follow=False)
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)


def _beginning(path: str, root: Root) -> bytes:
    with os.fdopen(_open(path, root), "rb") as file:
        return file.read(_LOOKED_AT_BYTES)


def _same_content(path: str, one: Root, two: Root) -> bool:
    with os.fdopen(_open(path, one), "rb", buffering=0) as first, os.fdopen(_open(path, two), "rb", buffering=0) as second:
        while data := first.read(_CHUNK_BYTES):
            if data != second.read(_CHUNK_BYTES):
                return False
        return not second.read(1)


# -- causes -----------------------------------------------------------------------------------------------------------------------


def attribute(path: str, first: bytes, second: bytes) -> tuple[str, str]:
    """Why two contents of one path (without its leading slash) differ, and a hint: what stands where they first do."""
    text = b"\0" not in first and b"\0" not in second
    hint = _text_hint(first, second) if text else _binary_hint(first, second)
    rule = find_rule(path)
    if path in ("etc/shadow", "etc/shadow-") and text:
        return ("password-salt" if _column(first, 1) != _column(second, 1) else "shadow-day"), ""  # never show a hash
    if path.endswith((".pyc", ".pyo")):
        return ("pyc-mtime" if first[16:] == second[16:] else "pyc-content"), hint
    if rule is not None and rule.cause == "git-reflog" and first.split(b" ")[1:2] != second.split(b" ")[1:2]:
        return "git-commit-time", hint
    if rule is not None:
        return rule.cause, "" if rule.cause in ("ssh-host-keys", "private-key") else hint
    if _PEM.search(first) and _PEM.search(second):
        return "private-key", ""
    return (_text_cause if text else _binary_cause)(path, first, second), hint


def _column(data: bytes, index: int) -> list[bytes]:
    rows = [line.split(b":") for line in data.split(b"\n")]
    return [row[index] for row in rows if len(row) > index]


def _text_cause(path: str, first: bytes, second: bytes) -> str:
    ours, theirs = first.splitlines(), second.splitlines()
    if sorted(ours) == sorted(theirs) or sorted(first.split()) == sorted(second.split()):
        return "file-order"
    if _PACKAGES.fullmatch(path):
        return "package-versions"
    pairs = [(mine, other) for mine, other in zip(ours, theirs, strict=False) if mine != other]
    for mask, cause in ((_TIME, "timestamp"), (_UUID, "random-value"), (_RANDOM_DIRECTORY, "build-path")):
        if pairs and any(mask.search(mine) and mask.sub(b"?", mine) == mask.sub(b"?", other) for mine, other in pairs):
            return cause
    masked = [(_without_time(mine), _without_time(other)) for mine, other in pairs]
    if pairs and any(mine == other for mine, other in masked):
        return "timestamp"
    if pairs and all(_cpus(mine, other) for mine, other in pairs):
        return "build-machine"
    if pairs and any(_RANDOM.sub(b"?", mine) == _RANDOM.sub(b"?", other) for mine, other in pairs):
        return "random-value"
    if pairs and all(_PATH_LINE.fullmatch(line) for pair in pairs for line in pair):
        return "file-order"  # the beginning of a longer list
    return "unknown"


def _without_time(line: bytes) -> bytes:
    return re.sub(rb"\d+", b"0", line) if _TIME.search(line) else b"" if not line else line + b"\0"


def _cpus(mine: bytes, other: bytes) -> bool:
    """Whether only small numbers differ, one of them the number of CPUs that the first build had."""
    ours, theirs = re.split(rb"(\d{1,4})", mine), re.split(rb"(\d{1,4})", other)
    if len(ours) != len(theirs):
        return False
    differing = [(left, right) for left, right in zip(ours, theirs, strict=True) if left != right]
    counts = {str(os.cpu_count() or 1).encode(), str(len(os.sched_getaffinity(0))).encode()}
    return bool(differing) and all(left in counts and right == b"1" for left, right in differing)


def _binary_cause(path: str, first: bytes, second: bytes) -> str:
    if first[:4] == second[:4] == b"\x7fELF":
        only = set(_strings(first)) ^ set(_strings(second))
        if any(_RANDOM_DIRECTORY.search(each) for each in only):
            return "build-path"
        return "build-time" if any(re.fullmatch(rb".*\d\d:\d\d:\d\d.*", each) for each in only) else "unknown"
    if first[:2] == second[:2] == b"\x1f\x8b":
        if first[4:8] != second[4:8]:
            return "build-time"
        ours, theirs = _unpacked(first), _unpacked(second)
        return "unknown" if ours == theirs else attribute(path.removesuffix(".gz"), ours, theirs)[0]
    if first[:4] == second[:4] == b"PK\x03\x04" or first[257:262] == second[257:262] == b"ustar":
        return "build-time"
    if first[:8] == second[:8] == b"!<arch>\n":
        return "build-time"
    return "package-versions" if path.startswith("var/lib/rpm") else "unknown"


def _unpacked(data: bytes) -> bytes:
    """The beginning of what a gzip file holds; nothing where it is broken, or packed twice."""
    try:
        unpacked = zlib.decompressobj(31).decompress(data, _LOOKED_AT_BYTES)
    except zlib.error:
        return b""
    return b"" if unpacked[:2] == b"\x1f\x8b" else unpacked


def _strings(data: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"[\x20-\x7e]{6,}", data):
        yield match[0]


def _text_hint(first: bytes, second: bytes) -> str:
    ours, theirs = first.splitlines(), second.splitlines()
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if mine != other:
            start = max(0, _common(mine, other) - 12)
            return f"line {number}: {_quoted(mine[start:])} / {_quoted(other[start:])}"
    return f"{len(ours)} lines / {len(theirs)} lines"


def _binary_hint(first: bytes, second: bytes) -> str:
    offset = _common(first, second)
    if offset == min(len(first), len(second)):
        return f"{len(first)} bytes / {len(second)} bytes"
    shown = [data[offset : offset + 8] for data in (first, second)]
    around = [bytes(byte if byte in _PRINTABLE else 0x2E for byte in data) for data in shown]
    return f"byte {offset:#x}: " + " / ".join(
        f"{data.hex()} {text.decode()!r}" for data, text in zip(shown, around, strict=True)
    )


def _common(first: bytes, second: bytes) -> int:
    """How many bytes at the beginning are equal: found by halves, in slices."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _quoted(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return repr(text if len(text) <= _HINT_LENGTH else text[: _HINT_LENGTH - 3] + "...")
