"""A layer's files in at most so many lines: path -> digest, with whole directories as one line where there are too many.

The digest is over content, kind, mode, owner, link target and extended attributes; times are left out, as they say when, not
what. Which directories are opened depends on their sizes alone, level by level, so that one changed file changes one line.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping

from contain.environment.capture import DigestCache, file_digest
from contain.paths import HostPath
from contain.store import RootView
from contain.store.rootview import Kind

_DIGITS = 16
"""Enough to say that something differs. What is identical is decided by the image's digest, never here."""


def layer_files(tree: HostPath, *, digests: DigestCache | None) -> dict[str, str]:
    """Every path of a layer's tree with its digest; directories, too, with a slash at the end. What the layer removes is not shown."""
    found: dict[str, str] = {}
    with RootView((tree,)) as view:
        for entry in view.walk():
            path = str(entry.path)
            facts: list[object] = [entry.kind.value, entry.mode, entry.uid, entry.gid]
            facts += [entry.link_target, list(entry.device)]
            facts += [[name, value.hex()] for name, value in sorted(entry.xattrs.items())]
            if entry.kind is Kind.FILE:
                facts.append(file_digest(entry, digests))
            key = path.rstrip("/") + "/" if entry.kind is Kind.DIRECTORY else path
            found[key] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_DIGITS]
    return found


def outline(files: Mapping[str, str], *, limit: int) -> dict[str, str]:
    """The same in at most ``limit`` lines (or what the root's own entries need). Pure."""
    children: dict[str, list[str]] = {}
    for path in sorted(files):
        if path != "/":
            children.setdefault(posixpath.dirname(path.rstrip("/")).rstrip("/") + "/", []).append(path)
    sums: dict[str, str] = {}
    for path in sorted(files, key=lambda each: -each.rstrip("/").count("/")):
        below = children.get(path, [])
        sums[path] = files[path] if not below else _digest([files[path], *(f"{each} {sums[each]}" for each in below)])
    shown = {"/"}
    level = ["/"]
    while level:
        following: list[str] = []
        for directory in level:
            below = children.get(directory, [])
            if below and (directory == "/" or len(shown) - 1 + len(below) <= limit):
                shown.discard(directory)
                shown.update(below)
                following += [path for path in below if path.endswith("/")]
        level = following
    return {path: sums[path] for path in sorted(shown) if path in sums}


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
