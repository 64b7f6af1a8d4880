"""Answers a build that is the same in every respect as one before, without doing it again.

After a build whose steps were all cached, `keep` writes down what it looked at: the Dockerfile and its ignore file, the state
(lstat(2)) of every file and directory of its contexts, the digests of its bases, its names and its layers. `replay` looks at all
of it once more. If nothing differs, the answer is the same, and was found at the cost of one lstat per file and without most of
the program: this module imports little, so that it can be asked first. Whatever differs, or cannot be read, means: build.

A record counts for an hour: a real build then tells the store that its cache is in use.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from contain.annotations import TYPE_CHECKING
from contain.home import caller_id, find_store_home

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_FORMAT = 2
_LIFE_SECONDS = 3600
_SETTLED_NS = 2_000_000_000
"""What changed so shortly before could change again without its times changing: file systems with coarse clocks."""
_KEPT_RECORDS = 200
_PACKAGES = ("build", "dockerfile", "oci", "store")

State = tuple[int, int, int, int, int, int]


def _state(status: os.stat_result) -> State:
    return (status.st_mode, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _code_state() -> list[tuple[str, int, int]]:
    """What this program consists of: another version may build otherwise."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = []
    waiting = [os.path.join(root, package) for package in _PACKAGES]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append((entry.path, status.st_mtime_ns, status.st_size))
                elif entry.name != "__pycache__" and entry.is_dir():
                    waiting.append(entry.path)
    return sorted(found)


def _question(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Everything that is asked, as text: the whole text is compared, its hash only names the record."""
    where = os.getcwd()
    epoch = environ.get("SOURCE_DATE_EPOCH")
    return repr((_FORMAT, sys.version, list(arguments), where, epoch, caller_id(), _code_state()))


def _place(home: str, question: str) -> str:
    import xxhash

    return os.path.join(home, "replays", xxhash.xxh3_128_hexdigest(question.encode("utf-8", "surrogateescape")))


def replay(arguments: Sequence[str]) -> bool:
    """Print what the same build printed before, and return True; or return False, and nothing happened.

    ``arguments``: the command line after ``contain build``.
    """
    home = find_store_home(os.environ, user_id=os.getuid())
    try:
        question = _question(arguments, os.environ)
        with open(_place(home, question), "rb") as file:
            record = marshal.loads(file.read())  # noqa: S302 - the store's own, private to its owner
        if record["question"] != question or not 0 <= time.time() - record["seconds"] < _LIFE_SECONDS:
            return False
        shown, result = record["shown"], record["digest"]
        if not (_same_texts(record["texts"]) and _same_trees(record["trees"])):
            return False
        if not _same_store(home, names=record["names"], image=result, files=record["files"]):
            return False
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return False
    sys.stderr.write(shown)
    sys.stderr.flush()
    sys.stdout.write(result + "\n")
    return True


def _same_texts(texts: Iterable[tuple[str, bytes | None]]) -> bool:
    return all(_read(path) == text for path, text in texts)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _same_trees(trees: Iterable[tuple[str, list[tuple[str, State]]]]) -> bool:
    lstat = os.lstat
    for root, entries in trees:
        for path, state in entries:
            now = lstat(root + path)
            if (now.st_mode, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) != state:
                return False
    return True


def _same_store(home: str, *, names: list[tuple[str, str]], image: str, files: list[str]) -> bool:
    """The bases' and the result's names point where they did, and the image is whole."""
    import sqlite3

    if not all(os.path.exists(os.path.join(home, path)) for path in files):
        return False
    try:
        database = sqlite3.connect(f"file:{os.path.join(home, 'state.sqlite3')}?mode=ro", uri=True, timeout=1)
        try:
            for name, digest in names:
                if database.execute("SELECT digest FROM names WHERE name = ?", (name,)).fetchone() != (digest,):
                    return False
            return database.execute("SELECT 1 FROM images WHERE digest = ?", (image,)).fetchone() is not None
        finally:
            database.close()
    except sqlite3.Error:
        return False


def keep(
    arguments: Sequence[str],
    *,
    home: str,
    texts: Mapping[str, bytes | None],
    trees: Iterable[tuple[str, Iterable[tuple[str, os.stat_result]]]],
    names: Mapping[str, str],
    files: Iterable[str],
    digest: str,
    shown: str,
) -> bool:
    """Write a build down. ``texts``: files that count by content, None for one that is not there. ``trees``: directories with the paths
    below them and their states. ``names``: image names and the digests they must point to. ``files``: what must exist in the
    store, relative to ``home``. False where it cannot be done, or something changed a moment ago."""
    newest_ns = time.time_ns() - _SETTLED_NS
    kept = []
    for root, entries in trees:
        states = []
        for path, status in entries:
            if max(status.st_mtime_ns, status.st_ctime_ns) > newest_ns:
                return False
            states.append((f"/{path}" if path else "", _state(status)))
        kept.append((root, states))
    try:
        question = _question(arguments, os.environ)
        record = {
            "question": question,
            "seconds": time.time(),
            "texts": list(texts.items()),
            "trees": kept,
            "names": list(names.items()),
            "files": list(files),
            "digest": digest,
            "shown": shown,
        }
        place = _place(home, question)
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        _forget_old(os.path.dirname(place))
        aside = f"{place}.{os.getpid()}"
        with open(aside, "xb") as file:
            file.write(marshal.dumps(record))
        os.replace(aside, place)
    except (OSError, ValueError):
        return False
    return True


def _forget_old(directory: str) -> None:
    """What does not count any more, and the oldest of too many."""
    with os.scandir(directory) as entries:
        found = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
    limit = time.time() - _LIFE_SECONDS
    for number, (seconds, path) in enumerate(reversed(found)):
        if seconds < limit or number >= _KEPT_RECORDS:
            os.unlink(path)
