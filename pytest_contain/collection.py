"""The worker's collection, held on the host as proxies: nodes with names, ids, marks and locations, and no test in them.

`Collection` takes the worker's messages; `replay` makes pytest's own ``perform_collect`` walk the proxies, so that everything that
chooses, orders or reports on the host (``-k``, ``--lf``, ``--collect-only``, plugins) works on them as on any items. A proxy
is never run: the controller runs its number inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from pytest_contain.reports import rebuild_report


class _Proxy:
    """What the proxies share. ``kind_name``: the class that the node has inside."""

    kind_name: str
    number: int
    collection: Collection

    def __repr__(self) -> str:
        return f"<{self.kind_name} {getattr(self, 'name', None)}>"


class ProxyDirectory(_Proxy, pytest.Directory):
    """A directory or a package."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Its children, as the worker found them."""
        return self.collection.children_of(self.number)


class ProxyFile(_Proxy, pytest.File):
    """A module or another file with tests."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Its children, as the worker found them."""
        return self.collection.children_of(self.number)


class ProxyCollector(_Proxy, pytest.Collector):
    """A class, or a plugin's own collector."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Its children, as the worker found them."""
        return self.collection.children_of(self.number)


class ProxyItem(_Proxy, pytest.Item):
    """A test. ``index`` is its place in the worker's own list: its only address."""

    index: int = -1

    def runtest(self) -> NoReturn:
        """Never called: the controller's loop has tests run inside."""
        raise RuntimeError("a test of another environment cannot be run in this process")

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """File, line and name as inside."""
        return self.path, self.location[1], self.location[2]


_CLASSES: dict[str, type[_Proxy]] = {
    "directory": ProxyDirectory,
    "file": ProxyFile,
    "collector": ProxyCollector,
    "item": ProxyItem,
}


class _Documented:
    def __init__(self, text: str) -> None:
        self.__doc__ = text


class Collection:
    """One worker's collection. ``suffix``: appended to the ids of its items when several environments run at once."""

    def __init__(self, *, environment: str, suffix: str = "") -> None:
        self.environment = environment
        self.suffix = suffix
        self.session: pytest.Session | None = None
        self.records: dict[int, dict[str, Any]] = {}
        self.children: dict[int, list[int]] = {}
        self.reports: dict[int, dict[str, Any]] = {}
        self.nodes: dict[int, Any] = {}
        self.early_reports: list[dict[str, Any]] = []
        self.order: list[int] = []
        self.deselected: list[int] = []
        self.root_number: int | None = None

    # -- the worker's messages ------------------------------------------------------------------------------------------

    def take(self, message: dict[str, Any]) -> None:
        """One message of the collecting worker."""
        for record in message.get("nodes", ()):
            self.records[record["number"]] = record
            if record["kind"] == "session":
                self.root_number = record["number"]
        kind = message["type"]
        if kind == "collector":
            number = message["collector"]
            if message["more"]:
                self.children[number].extend(message["children"])
            else:
                self.children[number] = list(message["children"])
                self.reports.pop(number, None)
            if "report" in message:
                self.reports[number] = message["report"]
        elif kind == "early-report":
            self.early_reports.append(message["report"])
        elif kind == "items":
            self.order.extend(message["items"])
        elif kind == "deselected":
            self.deselected.extend(message["items"])
        elif kind == "marks":
            for number, marks, extra in message["changed"]:
                record = self.records[number]
                record["marks"] = marks
                record["extra"] = sorted({*record.get("extra", ()), *extra})

    # -- proxies --------------------------------------------------------------------------------------------------------

    def node(self, number: int) -> Any:
        """The proxy of a node, made with its parents when first asked for."""
        if number == self.root_number or number < 0:
            return self.session
        known = self.nodes.get(number)
        if known is not None:
            return known
        record = self.records[number]
        parent = self.node(record["parent"])
        cls = cast("Any", _CLASSES[record["kind"]])
        is_item = record["kind"] == "item"
        suffix = self.suffix if is_item else ""
        node = cls.from_parent(
            parent, name=record["name"] + suffix, nodeid=record["nodeid"] + suffix, path=Path(record["path"])
        )
        node.kind_name, node.number, node.collection = record["class"], number, self
        for name, positional, named in record["marks"]:
            mark = pytest.Mark(name, tuple(positional), named, _ispytest=True)
            node.own_markers.append(mark)
            node.keywords[name] = mark
        node.extra_keyword_matches.update(record.get("extra", ()))
        if record.get("doc"):
            node.obj = _Documented(record["doc"])
        if is_item:
            file, line, domain = record["location"]
            node.__dict__["location"] = (file, line, domain + suffix)
            if suffix:
                node.extra_keyword_matches.add(self.environment)
        self.nodes[number] = node
        return node

    def children_of(self, number: int) -> list[Any]:
        """The proxies of a collector's children."""
        return [self.node(child) for child in self.children.get(number, ())]

    def roots(self) -> list[Any]:
        """What the arguments named: the session's own children."""
        return self.children_of(self.root_number) if self.root_number is not None else []

    def initial_paths(self) -> Iterator[Path]:
        """The files and directories that were named, for plugins that ask whether one was."""
        for number in self.children.get(self.root_number if self.root_number is not None else -1, ()):
            yield Path(self.records[number]["path"])

    def report_of(self, node: Any) -> Any | None:
        """The worker's report of a collector that did not pass, or said something; None for an uneventful one."""
        data = self.reports.get(node.number)
        if data is None:
            return None
        report = rebuild_report(node.config, dict(data))
        report.result = self.children_of(node.number)
        return report

    def reorder(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Give ``items`` (only ours) the worker's order and indices, and return those that the worker's hooks left out."""
        places = {number: index for index, number in enumerate(self.order)}
        present = {cast("ProxyItem", item).number for item in items}
        collected = {number for numbers in self.children.values() for number in numbers}
        # what a hook inside made, not a collector:
        items.extend(self.node(number) for number in self.order if number not in present and number not in collected)
        kept = [item for item in items if cast("ProxyItem", item).number in places]
        left_out = [item for item in items if cast("ProxyItem", item).number not in places]
        kept.sort(key=lambda item: places[cast("ProxyItem", item).number])
        for item in kept:
            cast("ProxyItem", item).index = places[cast("ProxyItem", item).number]
        items[:] = kept
        deselected = set(self.deselected)
        return [item for item in left_out if cast("ProxyItem", item).number in deselected]


class Replayer:
    """A plugin object that lives for one ``perform_collect``: pytest walks the proxies and finds what the workers found."""

    def __init__(self, session: pytest.Session, collections: Sequence[Collection]) -> None:
        self.session = session
        self.collections = collections
        for collection in collections:
            collection.session = session

    def collect(self) -> list[Any]:
        """In place of ``Session.collect``."""
        session = self.session
        paths = {path for collection in self.collections for path in collection.initial_paths()}
        session._initialpaths = frozenset(paths)
        for collection in self.collections:
            for data in collection.early_reports:
                session.ihook.pytest_collectreport(report=rebuild_report(session.config, dict(data)))
        return [root for collection in self.collections for root in collection.roots()]

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Any | None:
        """A failed or skipped collector's report is the worker's own."""
        if isinstance(collector, _Proxy):
            return collector.collection.report_of(collector)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """First of all, what the suite's own hooks did inside: order, and what they left out."""
        result: list[pytest.Item] = []
        for collection in self.collections:
            mine = [item for item in items if cast("ProxyItem", item).collection is collection]
            deselected = collection.reorder(mine)
            if deselected:
                config.hook.pytest_deselected(items=deselected)
            result.extend(mine)
        items[:] = result


def replay(session: pytest.Session, collections: Sequence[Collection]) -> None:
    """Fill ``session`` from what the workers collected, through pytest's own ``perform_collect``."""
    replayer = Replayer(session, collections)
    manager = session.config.pluginmanager
    manager.register(replayer, "contain-replayer")
    session.__dict__["collect"] = replayer.collect
    try:
        session.perform_collect(args=[])
    finally:
        del session.__dict__["collect"]
        manager.unregister(replayer)
