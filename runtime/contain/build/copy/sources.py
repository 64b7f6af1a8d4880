"""Opens what the sources of a COPY or ADD name: paths in the context, a stage or an image; URLs; git repositories.

Each source becomes a `Batch`: a tree, and what is selected in it. What comes from elsewhere is asked about here, and fetched only when
its content is wanted: an unchanged URL or a known commit that is in the cache costs one question, or none where a checksum says
what it must be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator

from contain.build.copy.filtering import FilteredTree
from contain.build.copy.selection import Batch, Selected, select_sources
from contain.build.fetch.git import fetch_git, resolve_git
from contain.build.fetch.git_reference import GitReference, GitRevision, parse_git_reference
from contain.build.fetch.url import UNNAMED, FetchedUrl, fetch_url, is_url
from contain.build.record.tracing import git_source, public_address
from contain.build.record.values import RemoteSource
from contain.build.steps import CopyStep
from contain.build.tasks import Work
from contain.build.trees.context import ContextTree
from contain.build.trees.source import open_source
from contain.build.trees.tree import Kind, Node, Tree, match_paths, resolve_path
from contain.build.workbench import Stage, Workbench
from contain.dockerfile.patterns import IgnorePatterns, clean_path, has_wildcard
from contain.errors import Conflict, ContainError, NotFound, SourceSpan, UsageError
from contain.paths import HostPath
from contain.progress import Progress
from contain.store import Store

_REMOTE_FILE_MODE = 0o600


def open_batches(bench: Workbench, stage: Stage, step: CopyStep, stack: contextlib.ExitStack) -> Work[tuple[Batch, ...]]:
    """All sources, in order. Raises `NotFound` and `UsageError` that point at the instruction."""
    exclude = IgnorePatterns.of(step.exclude) if step.exclude else None
    batches: list[Batch] = []
    here: list[str] = []

    def select_here() -> Work[None]:
        """The paths since the last source from elsewhere."""
        if here:
            tree, place = yield from open_source(
                bench, stage, step.source_name or "", instruction=step.instruction, stack=stack
            )
            select = _select_parents if step.parents else _select
            for source in here:
                found = select(tree, source, exclude, place=place, span=step.instruction.span)
                if has_wildcard(source) and not any(_holds_something(inner, item) for inner, item in found):
                    stage.progress.warn(f"{step.instruction.keyword}: nothing in {place} matches {source!r}")
                for inner, selected in found:
                    _append(batches, inner, selected, unpack=step.unpack)
            here.clear()

    for source in step.sources:
        reference = parse_git_reference(source, span=step.instruction.span) if step.add else None
        if reference is not None and not reference.like_a_path:
            yield from select_here()
            with pointing_at(step):
                bench.refuse_network(source)
                batches.append(_open_git(bench, stage, step, reference, exclude, stack))
        elif step.add and is_url(source):
            yield from select_here()
            with pointing_at(step):
                bench.refuse_network(source)
                batches.append(_open_url(bench, stage, step, source))
        else:
            here.append(source)
    yield from select_here()
    return tuple(batches)


@contextlib.contextmanager
def pointing_at(step: CopyStep) -> Iterator[None]:
    """Errors of what is fetched say which instruction wanted it."""
    try:
        yield
    except ContainError as error:
        error.span = error.span or step.instruction.span
        raise


def _append(batches: list[Batch], tree: Tree, selected: Selected, *, unpack: bool) -> None:
    """One more selected thing, in the last batch if that is of the same tree."""
    if batches and batches[-1].tree is tree:
        last = batches.pop()
        batches.append(Batch(tree=tree, selected=(*last.selected, selected), unpack=unpack))
    else:
        batches.append(Batch(tree=tree, selected=(selected,), unpack=unpack))


# -- paths ----------------------------------------------------------------------------------------------------------------------


def _select(
    tree: Tree, source: str, exclude: IgnorePatterns | None, *, place: str, span: SourceSpan | None
) -> list[tuple[Tree, Selected]]:
    found: list[tuple[Tree, Selected]] = []
    selected, _ = select_sources(tree, [source], place=place, span=span)
    for item in selected:
        if item.node.kind is Kind.DIRECTORY and exclude is not None:
            found.append((FilteredTree(tree, item.node.path, exclude=exclude), item))
        elif exclude is None or not has_wildcard(source) or not exclude.ignores(item.name):
            found.append((tree, item))
    return found


def _select_parents(
    tree: Tree, source: str, exclude: IgnorePatterns | None, *, place: str, span: SourceSpan | None
) -> list[tuple[Tree, Selected]]:
    """``--parents``: what stands before ``/./`` is where names begin; the rest is a pattern for everything below."""
    before, pivot, after = source.partition("/./")
    start, pattern = (before, after) if pivot else ("", source)
    pattern = clean_path("/" + pattern).lstrip("/")
    include = IgnorePatterns.of([pattern]) if pattern else None
    if not has_wildcard(source):
        required = f"{start}/{pattern}"
        first = resolve_path(tree.lookup, start)
        path = "/".join(filter(None, (first, pattern)))
        if tree.lookup(path) is None:
            raise NotFound(
                f"{required.lstrip('/')!r} is not in {place}",
                code="copy-source-not-found",
                span=span,
                remedy="with --parents, symbolic links on the way are not followed" if _leads_on(tree, path) else "",
            )
    starts = match_paths(tree, start) if has_wildcard(start) else (start,)
    found: list[tuple[Tree, Selected]] = []
    for each in starts:
        root = resolve_path(tree.lookup, each)
        node = tree.lookup(root)
        if node is None:
            raise NotFound(f"{each!r} is not in {place}", code="copy-source-not-found", span=span)
        if node.kind is not Kind.DIRECTORY:
            found.append((tree, Selected(name=root.rpartition("/")[2], node=node)))
            continue
        found.append((FilteredTree(tree, root, include=include, exclude=exclude), Selected(name="", node=node)))
    return found


def _holds_something(tree: Tree, item: Selected) -> bool:
    return not isinstance(tree, FilteredTree) or bool(tree.listdir(item.node.path))


def _leads_on(tree: Tree, path: str) -> bool:
    return tree.lookup(resolve_path(tree.lookup, path)) is not None


# -- from elsewhere -------------------------------------------------------------------------------------------------------------


class UrlTree:
    """A `Tree` of one file, which is downloaded when it is opened."""

    def __init__(
        self, fetched: FetchedUrl, url: str, *, checksum: str, epoch_seconds: int, store: Store, progress: Progress
    ) -> None:
        self._fetched, self._url, self._checksum, self._store, self._progress = fetched, url, checksum, store, progress
        modified = epoch_seconds if fetched.modified_seconds is None else min(fetched.modified_seconds, epoch_seconds)
        self.node = Node(
            path=fetched.name,
            kind=Kind.FILE,
            mode=_REMOTE_FILE_MODE,
            size=fetched.size_bytes,
            mtime_ns=modified * 1_000_000_000,
        )

    def lookup(self, path: str) -> Node | None:
        """The file, or the directory that it is in."""
        return {"": Node(path="", kind=Kind.DIRECTORY, mode=0o755), self.node.path: self.node}.get(path)

    def listdir(self, path: str) -> tuple[str, ...]:
        """The file's name."""
        return () if path else (self.node.path,)

    def open(self, path: str) -> int:  # noqa: ARG002 - there is one file
        """A descriptor on the content. Raises `Conflict` (code ``context-changed``) if the URL has another content by now."""
        if not self._store.has_blob(self._fetched.digest):
            again = fetch_url(self._url, store=self._store, progress=self._progress, checksum=self._checksum)
            if again.digest != self._fetched.digest:
                raise Conflict(
                    f"{self._fetched.url} changed while it was fetched", code="context-changed", remedy="start the build again"
                )
        with self._store.open_blob(self._fetched.digest) as stream:
            return os.dup(stream.fileno())

    def digest(self, path: str) -> str:  # noqa: ARG002
        """The content's digest."""
        return self._fetched.digest


def _open_url(bench: Workbench, stage: Stage, step: CopyStep, url: str) -> Batch:
    if not step.checksum:
        bench.depends_on_more = True
    fetched = fetch_url(url, store=bench.store, progress=stage.progress, checksum=step.checksum, content=False)
    bench.trace.remotes.append(RemoteSource(uri=public_address(url), digest=fetched.digest))
    if fetched.name == UNNAMED and step.destination.endswith("/"):
        stage.progress.warn(f"ADD: {fetched.url} has no name at its end; the file is called {UNNAMED}")
    tree = UrlTree(
        fetched,
        url,
        checksum=step.checksum,
        epoch_seconds=bench.epoch_seconds,
        store=bench.store,
        progress=stage.progress,
    )
    return Batch(tree=tree, selected=(Selected(name=fetched.name, node=tree.node),), unpack=step.unpack_remote)


class GitTree:
    """A `Tree` of a commit's files, which are fetched when one of them is looked at."""

    def __init__(
        self,
        reference: GitReference,
        revision: GitRevision,
        *,
        keep_git_dir: bool,
        epoch_seconds: int,
        store: Store,
        stack: contextlib.ExitStack,
    ) -> None:
        self._reference, self._revision, self._keep = reference, revision, keep_git_dir
        self._epoch_seconds, self._store, self._stack = epoch_seconds, store, stack
        self._files: ContextTree | None = None

    @property
    def identity(self) -> bytes:
        """Everything that the files depend on, without having them."""
        parts: list[object] = [self._revision.commit, self._reference.subdir, self._reference.submodules is not False]
        if self._keep:
            parts += [self._reference.shown, self._revision.ref]
        return hashlib.sha256(json.dumps(["git", *parts]).encode()).digest()

    def _tree(self) -> ContextTree:
        if self._files is None:
            scratch: HostPath = self._stack.enter_context(self._store.scratch("git"))
            directory = fetch_git(self._reference, self._revision, scratch, keep_git_dir=self._keep)
            self._files = self._stack.enter_context(ContextTree(directory, epoch_seconds=self._epoch_seconds))
        return self._files

    def lookup(self, path: str) -> Node | None:
        """The entry at a path, or None."""
        return self._tree().lookup(path) if path else Node(path="", kind=Kind.DIRECTORY, mode=0o755)

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted bytewise."""
        return self._tree().listdir(path)

    def open(self, path: str) -> int:
        """A descriptor on a file."""
        return self._tree().open(path)

    def digest(self, path: str) -> str:
        """A file's digest."""
        return self._tree().digest(path)

    def digest_directory(self, path: str, links: dict[tuple[int, int], str]) -> tuple[bytes, int]:  # noqa: ARG002
        """What all of it is, told by the commit."""
        return self.identity, 1


def _open_git(
    bench: Workbench,
    stage: Stage,
    step: CopyStep,
    reference: GitReference,
    exclude: IgnorePatterns | None,
    stack: contextlib.ExitStack,
) -> Batch:
    if step.checksum and reference.checksum and step.checksum != reference.checksum:
        raise UsageError(f"checksum mismatch {step.checksum!r} != {reference.checksum!r}", code="bad-git-reference")
    said = reference.keep_git_dir
    if step.keep_git_dir is not None and said is not None and said != step.keep_git_dir:
        raise UsageError("--keep-git-dir and the address say different things", code="bad-git-reference")
    keep = step.keep_git_dir if said is None else said
    revision = resolve_git(reference, checksum=step.checksum)
    if reference.ref.lower() != revision.commit:
        bench.depends_on_more = True
    stage.progress.note(f"{reference.shown} is at {revision.commit}")
    bench.trace.remotes.append(git_source(reference, revision))
    tree = GitTree(
        reference,
        revision,
        keep_git_dir=bool(keep) and not reference.subdir,
        epoch_seconds=bench.epoch_seconds,
        store=bench.store,
        stack=stack,
    )
    root = Node(path="", kind=Kind.DIRECTORY, mode=0o755)
    shown: Tree = _ExcludedGit(tree, exclude) if exclude is not None else tree
    return Batch(tree=shown, selected=(Selected(name="", node=root),))


class _ExcludedGit(FilteredTree):
    """What ``--exclude`` leaves of a repository. The patterns are in the step's key already."""

    def __init__(self, tree: GitTree, exclude: IgnorePatterns) -> None:
        super().__init__(tree, "", exclude=exclude)
        self._git = tree

    def digest_directory(self, path: str, links: dict[tuple[int, int], str]) -> tuple[bytes, int]:
        """As of the whole commit."""
        return self._git.digest_directory(path, links)
