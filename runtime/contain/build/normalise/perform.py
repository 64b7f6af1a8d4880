"""Applies the rules to a step's upper directory, before it becomes a layer. Never touches a lower layer.

Theory of operation. The upper directory holds exactly what the step made or changed. A file that is removed from it shows the lower
layer's again, if there is one; so does a log that gets its previous content, since `contain.store.commit` drops what equals what is
below. Files are rewritten in place: mode, owner, attributes and times stay. A file with several names is left alone. What this process
may not read or write (another user's file in a store without root) stays as it is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Sequence

from contain.build.normalise.facts import FileFacts, Source, StepFacts
from contain.build.normalise.rewriters import REWRITERS
from contain.build.normalise.rules import Action, Rule, find_rule
from contain.paths import HostPath
from contain.store import RootView
from contain.store.marks import is_whiteout
from contain.store.rooted import DirectoryCache, Root
from contain.store.tree import iterate_tree
from contain.values import dataclass

_LARGEST_BYTES = 64 << 20
_FOR_ALL_NAMES = ("pyc-source-time",)  # right under any name; other files with several names may be somebody's data
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_KEPT = (errno.ENOTEMPTY, errno.EEXIST, *_REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalised:
    """How many files of each cause were changed or removed, sorted by cause."""

    counts: tuple[tuple[str, int], ...] = ()

    def render(self) -> str:
        """``normalised 12 files: apt-log 2, dpkg-log 1, ...``; empty if there was nothing to do."""
        total = sum(count for _, count in self.counts)
        if not total:
            return ""
        return f"normalised {total} file{'' if total == 1 else 's'}: " + ", ".join(f"{cause} {n}" for cause, n in self.counts)


def normalise(upper: HostPath, lower: Sequence[HostPath], step: StepFacts) -> Normalised:
    """Take the noise out of what one RUN wrote. ``lower``: the layer trees below, the lowest first."""
    with Root(upper) as root:
        found = _find(root)
        if not found:
            return Normalised()
        with RootView(lower) as below:
            return _Normaliser(root, below, step).run(found)


def _find(root: Root) -> list[tuple[bytes, Rule]]:
    """What there is a rule for, in layer order. Directories only where a rule means everything below a place."""
    found = []
    for node in iterate_tree(root):
        kind = stat.S_IFMT(node.found.st_mode)
        if is_whiteout(node.found) or kind not in (stat.S_IFREG, stat.S_IFDIR):
            continue
        rule = find_rule(os.fsdecode(node.path), changing=True)
        if rule is not None and (kind == stat.S_IFREG or rule.action is Action.REMOVE):
            found.append((node.path, rule))
    return found


class _Normaliser:
    def __init__(self, root: Root, below: RootView, step: StepFacts) -> None:
        self._below, self._step = below, step
        self._directories = DirectoryCache(root, follow=False)

    def run(self, found: list[tuple[bytes, Rule]]) -> Normalised:
        counts: Counter[str] = Counter()
        try:
            for path, rule in found:
                if rule.action is Action.REWRITE:
                    counts[rule.cause] += self._rewrite(path, rule)
            for path, rule in reversed(found):  # a directory after what it holds
                if rule.action is Action.REMOVE:
                    counts[rule.cause] += self._remove(path)
        finally:
            self._directories.forget()
        return Normalised(counts=tuple(sorted((cause, count) for cause, count in counts.items() if count)))

    def _locate(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self._directories.get(directory), name

    def _remove(self, path: bytes) -> int:
        directory, name = self._locate(path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        try:
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=directory)
                return 1
            # A directory that was there before stays whatever it is; commit drops it if it did not change.
            if self._below.lookup("/" + os.fsdecode(path), follow=False) is None:
                self._directories.forget()
                directory, name = self._locate(path)
                os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in _KEPT:
                raise
        return 0

    def _rewrite(self, path: bytes, rule: Rule) -> int:
        directory, name = self._locate(path)
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            if error.errno in _REFUSED:
                return 0
            raise
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            found = os.fstat(descriptor)
            if found.st_size > _LARGEST_BYTES or (found.st_nlink > 1 and rule.rewriter not in _FOR_ALL_NAMES):
                return 0
            data = file.readall()
            wanted = REWRITERS[rule.rewriter](data, self._facts(path))
            if wanted is None or wanted == data:
                return 0
            file.seek(0)
            _write_all(descriptor, wanted)
            file.truncate(len(wanted))
            os.utime(descriptor, ns=(found.st_atime_ns, found.st_mtime_ns))
        return 1

    def _facts(self, path: bytes) -> FileFacts:
        text = os.fsdecode(path)

        def previous() -> bytes | None:
            entry = self._below.lookup("/" + text, follow=False)
            if entry is None or not stat.S_ISREG(entry.host_stat.st_mode) or entry.size > _LARGEST_BYTES:
                return None
            with entry.open() as file:
                return file.read()

        return FileFacts(path=text, step=self._step, previous=previous, find_source=self._source)

    def _source(self, text: str) -> Source | None:
        """A file as the step left it: its own, else the lower layers'. Links are followed by neither: Python compares the file's own
        time, and a source that is a link is rare enough to stay as it is."""
        path = os.fsencode(text)
        try:
            directory, name = self._locate(path)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            entry = self._below.lookup("/" + text, follow=False)
            if entry is None:
                return None
            found = entry.host_stat
            final = int(found.st_mtime_ns // 1_000_000_000)
        else:
            final = min(int(found.st_mtime_ns // 1_000_000_000), self._step.epoch_seconds)
        if not stat.S_ISREG(found.st_mode):
            return None
        return Source(
            mtime_seconds=int(found.st_mtime_ns // 1_000_000_000), final_mtime_seconds=final, size_bytes=found.st_size
        )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
