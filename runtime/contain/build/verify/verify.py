"""``contain build --verify``: builds twice, without the cache, under different conditions, and compares layer by layer, file by file.

Theory of operation. The first build is an ordinary one. The second (`contain.build.verify.second_build`) runs in a child
process whose umask, host name, temporary directory, CPUs, time zone and language are others, from a copy of the context that
was written in another order, into a store of its own: in memory, where directories are listed in another order and inode
numbers are others. Only the bases are the same. The cache's own layers, where it has some, are a third witness, of another
time. What contain holds still for every RUN (host name, umask, process numbers, address) needs no varying; the wall clock
cannot be set for one process tree, so files that hold today's date are searched for instead, and reported.

Nothing of the second build remains.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from contain.build.execute import build
from contain.build.normalise.rules import find_rule
from contain.build.record.tracing import step_text
from contain.build.record.values import BuiltStage, BuiltStep
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.sources import read_build_host, read_sources, resolve_request
from contain.build.verify.differences import PathDifference, compare_trees
from contain.build.verify.report import StepDifferences, Suspicion, Verification
from contain.build.verify.second_build import SecondBuild, layers_of, open_place, prepare, run_second
from contain.errors import NotFound
from contain.paths import HostPath
from contain.progress import Progress
from contain.store import Store
from contain.store.rooted import Root
from contain.store.tree import iterate_tree
from contain.values import replace

_SCANNED_BYTES = 1 << 20


def verify(
    request: BuildRequest, *, store: Store, progress: Progress, host: BuildHost | None = None
) -> tuple[BuildResult, Verification]:
    """The first build's result, and what the comparison found.

    Raises what a build raises; `BuildStepFailed` if only the second one fails.
    """
    host = read_build_host(build_args=request.build_args) if host is None else host
    request = replace(request, no_cache=True)
    progress.note("first build")
    first = build(request, store=store, progress=progress, host=host)
    progress.note("second build, under other conditions")
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.lease(first.digest, *layers_of(first.record)))
        ended_seconds = int(time.time())
        conditions = prepare(request, open_place(first, store, stack), store.home)
        while int(time.time()) <= ended_seconds:  # most clocks in files show whole seconds
            time.sleep(0.05)
        second = run_second(conditions, request, first.record, store, host, progress)
        with Store.open(conditions.home) as other:
            comparison = _Comparison(first, store, other, places=_places(request, host))
            comparison.compare(second)
    return first, Verification(
        digests=(first.digest, second.digest),
        steps=tuple(comparison.found),
        varied=conditions.varied,
        same=conditions.same,
        cached_steps=len(first.replaced),
        suspicions=tuple(comparison.suspicions),
    )


class _Comparison:
    """Fills ``found`` and ``suspicions``. ``places``: for each stage its instructions as a record shows them, with their lines."""

    def __init__(
        self, first: BuildResult, store: Store, other: Store, *, places: dict[str, tuple[tuple[str, int], ...]]
    ) -> None:
        self._first, self._store, self._other, self._places = first, store, other, places
        self._replaced = {record.diff_id: old for old, record in first.replaced}
        self._today = today_expression()
        self._searched: set[str] = set()
        self.found: list[StepDifferences] = []
        self.suspicions: list[Suspicion] = []

    def compare(self, second: SecondBuild) -> None:
        for stage, layers in zip(self._first.record.stages, second.stages, strict=True):
            earlier: set[str] = set()
            after = 0
            for step, layer in zip(stage.steps, layers, strict=True):
                line = self._line(stage, step, after)
                after = line or after
                self._step(stage, step, line, layer, earlier)

    def _line(self, stage: BuiltStage, step: BuiltStep, after: int) -> int:
        """The line of a step below another one; 0 for what stands in no line: triggers."""
        return next((line for text, line in self._places.get(stage.name, ()) if text == step.text and line > after), 0)

    def _step(self, stage: BuiltStage, step: BuiltStep, line: int, layer: str | None, earlier: set[str]) -> None:
        mine = _tree(self._store, step.layer)
        differences = _differ(mine, _tree(self._other, layer), earlier) if layer != step.layer else ()
        earlier.update(each.path for each in differences)
        self._keep(stage, step, line, "", differences)
        old = self._replaced.get(step.layer)
        if old is not None and old.diff_id != step.layer:
            with contextlib.suppress(NotFound):
                made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(old.created_seconds))
                differences = _differ(mine, _tree(self._store, old.diff_id), ())
                self._keep(stage, step, line, f"the cache's layer of {made}", differences)
        if mine is not None and step.text.upper().startswith("RUN") and step.layer not in self._searched:
            self._searched.add(step.layer or "")
            for path, text in find_dates(mine, self._today):
                if path not in earlier:
                    where = self._first.record.dockerfile
                    self.suspicions.append(Suspicion(file=where, line=line, path=path, found=text))

    def _keep(
        self, stage: BuiltStage, step: BuiltStep, line: int, against: str, differences: tuple[PathDifference, ...]
    ) -> None:
        if differences:
            self.found.append(
                StepDifferences(
                    stage=stage.name,
                    file=self._first.record.dockerfile,
                    line=line,
                    text=step.text,
                    against=against,
                    differences=differences,
                )
            )


def _places(request: BuildRequest, host: BuildHost) -> dict[str, tuple[tuple[str, int], ...]]:
    graph = resolve_request(read_sources(request).dockerfile, request, host)
    return {
        plan.title: tuple((step_text(each), each.span.line) for each in (plan.stage.start, *plan.stage.instructions))
        for plan in graph.stages
    }


def _tree(store: Store, layer: str | None) -> HostPath | None:
    return None if layer is None else store.layer_tree(layer)


def _differ(first: HostPath | None, second: HostPath | None, earlier: Collection[str]) -> tuple[PathDifference, ...]:
    """A step that made no layer is as one that made an empty one."""
    with tempfile.TemporaryDirectory() as nothing:
        return compare_trees(first or Path(nothing), second or Path(nothing), earlier=frozenset(earlier))


def today_expression(now_seconds: float | None = None) -> re.Pattern[bytes]:
    """Today in the forms in which programs write it, in UTC."""
    now = time.gmtime(now_seconds)
    forms = ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%d %b %Y", "%b %d %Y", "%a %b %d", "%d %B %Y", "%B %d, %Y")
    texts = {time.strftime(form, now) for form in forms} | {f"{time.strftime('%a %b', now)} {now.tm_mday:>2}"}
    compact = time.strftime("%Y%m%d", now)
    return re.compile(
        rb"|".join([*(re.escape(each.encode()) for each in sorted(texts)), rb"(?<!\d)%s(?!\d)" % compact.encode()])
    )


def find_dates(tree: HostPath, today: re.Pattern[bytes]) -> Iterator[tuple[str, str]]:
    """Files of a layer that hold today's date, with what stands there. Those of a known cause are left out."""
    with Root(tree) as root:
        for node in iterate_tree(root):
            path = os.fsdecode(node.path)
            if not stat.S_ISREG(node.found.st_mode) or node.found.st_size > _SCANNED_BYTES or find_rule(path) is not None:
                continue
            descriptor = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=node.parent)
            with os.fdopen(descriptor, "rb") as file:
                match = today.search(file.read())
            if match is not None:
                yield "/" + path, match[0].decode()
