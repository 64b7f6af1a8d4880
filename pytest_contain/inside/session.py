"""The worker's pytest session: collect once, tell the controller everything about it, then fork one child per sandbox.

Theory of operation. `run` starts an ordinary pytest with `Inside` as one more plugin. While pytest collects, `Inside` sends each
collector with its children (``collector``), warnings, and in the end the order of the items (``items``). Its
``pytest_runtestloop`` then never runs a test: it serves ``fork`` requests. A child is this very process, memory and all, that
entered a sandbox; it reads ``run`` messages from its own channel and runs each item's whole protocol, so that every hook of the
suite's conftest files sees what it would see in an ordinary run. Reports travel through pytest's own serialisation hooks.

Standard library and pytest (>= 7) only, Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import hashlib
import linecache
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

failed_subtests_key: Any
try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest < 9
    failed_subtests_key = None

LONGEST_REPR = 200
CHANNEL_DESCRIPTOR_FROM = 700  # out of the way of tests that close "all" descriptors
NODES_PER_MESSAGE = 400

_DIRECTORY = getattr(pytest, "Directory", ())  # pytest >= 8


def run(channel: Any, start: dict[str, Any], entry: Any, output: Any) -> int:
    """Run pytest with the controller's arguments until the controller says ``finish``."""
    plugin = Inside(channel, start, entry, output)
    arguments = [token for tokens, _name in start["arguments"] for token in tokens]
    status = int(pytest.main(arguments, plugins=[plugin, sys.modules[__name__]]))
    sys.stdout.flush()
    sys.stderr.flush()
    plugin.send({"type": "ended", "status": status})
    return status


def plain_value(value: Any, depth: int = 0) -> Any:
    """A mark's argument as JSON keeps it, or its shortened repr: enough for ``-m`` and for reading."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value if len(value) <= 2000 else value[:2000]
    if depth < 3 and isinstance(value, (list, tuple)) and len(value) <= 50:
        return [plain_value(item, depth + 1) for item in value]
    if depth < 3 and isinstance(value, dict) and len(value) <= 50 and all(isinstance(key, str) for key in value):
        return {key: plain_value(item, depth + 1) for key, item in value.items()}
    try:
        return repr(value)[:LONGEST_REPR]
    except Exception:
        return f"<{type(value).__name__}>"


def mark_record(mark: Any) -> list[Any]:
    """Name, positional and keyword arguments. Of ``parametrize`` only the name: its values may be large and are of no use."""
    if mark.name == "parametrize":
        return [mark.name, [], {}]
    return [mark.name, [plain_value(item) for item in mark.args], {key: plain_value(item) for key, item in mark.kwargs.items()}]


@pytest.fixture
def container() -> None:
    """For tests on the host only."""
    pytest.fail("the fixture 'container' is for tests on the host: run this test without --in-container", pytrace=False)


@pytest.fixture(scope="session")
def contain() -> None:
    """For tests on the host only."""
    pytest.fail("the fixture 'contain' is for tests on the host: run this test without --in-container", pytrace=False)


class ControllerHooks:
    """The controller's own hooks (``pytest_contain.hookspecs``): a conftest file that has one is read here too."""

    @pytest.hookspec(firstresult=True)
    def pytest_contain_make_backend(self, config: Any) -> Any:
        """Never called here."""

    @pytest.hookspec
    def pytest_contain_environment_ready(self, config: Any, name: str, digest: str) -> None:
        """Never called here."""


class Inside:
    """The plugin object. In a child, `channel` is the child's own."""

    def __init__(self, channel: Any, start: dict[str, Any], entry: Any, output: Any) -> None:
        self.channel = channel
        self.start = start
        self.entry = entry
        self.output = output
        self.config: Any = None
        self.session: Any = None
        self.node_numbers: dict[int, int] = {}
        self.nodes: list[Any] = []  # keeps nodes alive, so that id() stays theirs
        self.marked: list[tuple[int, int]] = []  # how many marks and keywords each had when it was told of
        self.session_collecting = False
        self.in_child = False
        self.children: dict[int, int] = {}
        self.own_statuses: list[Any] = []  # the words of conftest files for outcomes
        self.forks = 0
        os.register_at_fork(after_in_child=self.count_fork)

    def count_fork(self) -> None:
        """Called in every process that is forked off this one."""
        self.forks += 1

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Send; a controller that is gone means that nobody wants the answer."""
        try:
            self.channel.send(message, fds)
        except OSError:
            os._exit(82)

    # -- starting -------------------------------------------------------------------------------------------------------

    def pytest_addhooks(self, pluginmanager: Any) -> None:
        """Hooks that conftest files may have."""
        pluginmanager.add_hookspecs(ControllerHooks)

    def pytest_addoption(self, parser: Any) -> None:
        """The controller's own settings in the project's ini file are not unknown here."""
        for name in self.start["ini_names"]:
            with contextlib.suppress(ValueError, AssertionError):
                parser.addini(name, "of pytest-contain, read by the controller", default=None)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: Any, parser: Any, args: list[str]) -> Iterator[None]:
        """Once the conftest files have added their options: take out those that only the controller's plugins know."""
        yield
        known = (getattr(parser, "optparser", None) or parser._getparser())._option_string_actions
        for tokens, name in self.start["arguments"]:
            if name is not None and name not in known:
                for position in range(len(args) - len(tokens) + 1):
                    if args[position : position + len(tokens)] == tokens:
                        del args[position : position + len(tokens)]
                        break

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: Any) -> None:
        """The controller reports and keeps the cache; here both stay silent, but can still be asked for."""
        self.config = config
        for line in self.start["markers"]:
            config.addinivalue_line("markers", line)
        manager = config.pluginmanager
        for name in ("lfplugin", "nfplugin", "stepwiseplugin"):
            plugin = manager.get_plugin(name)
            if plugin is not None:
                manager.unregister(plugin)
        reporter = manager.get_plugin("terminalreporter")
        if reporter is not None:
            manager.unregister(reporter)
            reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
            # Assertion explanations are coloured, and conftest files write, through the plugin of this name.
            manager._name2plugin["terminalreporter"] = reporter
        self.neutralise_deselection(config)

    def neutralise_deselection(self, config: Any) -> None:
        """``-k`` and ``-m`` stay readable for conftest files, but the controller decides them."""
        caller = config.hook.pytest_collection_modifyitems
        for implementation in list(caller.get_hookimpls()):
            if implementation.plugin_name == "mark":
                caller._remove_plugin(implementation.plugin)

    def pytest_sessionstart(self, session: Any) -> None:
        """Remember it for the children, and say what the environment's pytest is."""
        self.session = session
        plugins = sorted(
            {f"{dist.project_name} {dist.version}" for _, dist in self.config.pluginmanager.list_plugin_distinfo()}
        )
        message = {
            "type": "configured",
            "pytest": pytest.__version__,
            "rootdir": str(self.config.rootpath),
            "plugins": plugins,
            "header": self.header_lines(),
        }
        self.send(message)

    def of_the_suite(self, hook: str) -> list[Any]:
        """The implementations of a hook in the suite's conftest files, last registered first."""
        conftests = self.config.pluginmanager._conftest_plugins
        found = getattr(self.config.hook, hook).get_hookimpls()[::-1]
        return [
            item for item in found if item.plugin in conftests and not item.hookwrapper and not getattr(item, "wrapper", False)
        ]

    def header_lines(self) -> list[str]:
        """What the suite's conftest files add to the header."""
        given = {"config": self.config, "start_path": self.config.invocation_params.dir}
        lines: list[str] = []
        for implementation in self.of_the_suite("pytest_report_header"):
            with contextlib.suppress(Exception):
                answer = implementation.function(*[given[name] for name in implementation.argnames])
                lines.extend([answer] if isinstance(answer, str) else answer or ())
        return [str(line) for line in lines]

    # -- collecting -----------------------------------------------------------------------------------------------------

    def node_number(self, node: Any, records: list[Any]) -> int:
        """The number of a node; a new one's record, after those of its new parents, is appended to ``records``."""
        known = self.node_numbers.get(id(node))
        if known is not None:
            return known
        parent = -1
        if node.parent is not None and not isinstance(node, pytest.Session):
            parent = self.node_number(node.parent, records)
        number = len(self.nodes)
        self.nodes.append(node)
        self.marked.append((len(node.own_markers), len(node.extra_keyword_matches)))
        self.node_numbers[id(node)] = number
        extra = set(node.extra_keyword_matches)
        record: dict[str, Any] = {
            "number": number,
            "parent": parent,
            "kind": self.kind(node),
            "class": type(node).__name__,
            "name": node.name,
            "nodeid": node.nodeid,
            "path": str(node.path) if hasattr(node, "path") else str(node.fspath),
            "marks": [mark_record(mark) for mark in node.own_markers],
        }
        if isinstance(node, pytest.Item):
            function = getattr(node, "function", None)
            if function is not None:
                extra.update(name for name in vars(function) if isinstance(name, str))
            record["location"] = self.location(node)
        if extra:
            record["extra"] = sorted(extra)
        if self.start["docs"]:
            record["doc"] = getattr(getattr(node, "obj", None), "__doc__", None)
        records.append(record)
        return number

    def location(self, item: Any) -> list[Any]:
        """File below the root directory, 0-based line, name; as the item tells, or the little that is certain."""
        try:
            return list(item.location)
        except Exception:
            return [item.nodeid.split("::")[0], None, item.name]

    def kind(self, node: Any) -> str:
        """Which of pytest's own node types it is, as far as choosing tests looks at it."""
        if isinstance(node, pytest.Item):
            return "item"
        if isinstance(node, pytest.Session):
            return "session"
        if isinstance(node, pytest.Package) or (_DIRECTORY and isinstance(node, _DIRECTORY)):
            return "directory"
        return "file" if isinstance(node, pytest.File) else "collector"

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_make_collect_report(self, collector: Any) -> Iterator[None]:
        """Send every collector's report with its children."""
        is_session = isinstance(collector, pytest.Session)
        if is_session:
            self.session_collecting = True
        outcome = yield
        if is_session:
            self.session_collecting = False
        report = outcome.get_result()  # type: ignore[attr-defined]
        children = list(report.result or ())
        first = True
        while first or children:
            batch, children = children[:NODES_PER_MESSAGE], children[NODES_PER_MESSAGE:]
            records: list[Any] = []
            message: dict[str, Any] = {
                "type": "collector",
                "collector": self.node_number(collector, records),
                "children": [self.node_number(child, records) for child in batch],
                "nodes": records,
                "more": not first,
            }
            if first and (report.outcome != "passed" or report.sections):
                message["report"] = self.serialise(report)
            self.send(message)
            first = False

    def pytest_collectreport(self, report: Any) -> None:
        """A failure on the way to what the arguments name is reported while the session itself still collects."""
        if self.session_collecting:
            self.send({"type": "early-report", "report": self.serialise(report)})

    def pytest_deselected(self, items: Any) -> None:
        """What a conftest file or a plugin of the environment left out."""
        records: list[Any] = []
        numbers = [self.node_number(item, records) for item in items]
        self.send({"type": "deselected", "nodes": records, "items": numbers})

    def pytest_collection_finish(self, session: Any) -> None:
        """The order of the items, after every hook had its say."""
        self.send_later_marks()
        items = list(session.items)
        first = True
        while first or items:
            batch, items = items[:NODES_PER_MESSAGE], items[NODES_PER_MESSAGE:]
            records: list[Any] = []
            numbers = [self.node_number(item, records) for item in batch]
            self.send({"type": "items", "nodes": records, "items": numbers})
            first = False

    def send_later_marks(self) -> None:
        """What nodes were marked with since they were told of: modules and classes show their marks only once they are collected
        themselves, and the suite's hooks mark items."""
        changed = []
        for number, node in enumerate(self.nodes):
            if self.marked[number] != (len(node.own_markers), len(node.extra_keyword_matches)):
                changed.append([number, [mark_record(mark) for mark in node.own_markers], sorted(node.extra_keyword_matches)])
        for start in range(0, len(changed), NODES_PER_MESSAGE):
            self.send({"type": "marks", "changed": changed[start : start + NODES_PER_MESSAGE]})

    def serialise(self, report: Any) -> dict[str, Any]:
        """A report as its own plugin writes it down. Enormous sections are cut."""
        if report.sections:
            report.sections = [(str(name), self.output.shorten(str(content))) for name, content in report.sections]
        data: dict[str, Any] = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        data.pop("call", None)  # of a collector: lives only here
        longrepr = data.get("longrepr")
        if isinstance(longrepr, str):
            data["longrepr"] = self.output.shorten(longrepr)
            if not isinstance(report.longrepr, str):
                data["$contain_repr"] = type(report.longrepr).__name__
        counts = self.config.stash.get(failed_subtests_key, None) if failed_subtests_key is not None else None
        if counts and report.when == "call" and not hasattr(report, "context"):
            data["$contain_failed_subtests"] = counts.get(getattr(report, "id", report.nodeid), 0)
        return data

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        """A warning as text: its class may exist only here."""
        category = warning_message.category
        line = warning_message.line
        if line is None:
            line = linecache.getline(warning_message.filename, warning_message.lineno).strip() or None
        message = {
            "type": "warning",
            "text": self.output.shorten(str(warning_message.message)),
            "module": category.__module__,
            "category": category.__name__,
            "file": warning_message.filename,
            "line_number": warning_message.lineno,
            "line": line,
            "when": when,
            "nodeid": nodeid,
            "location": list(location) if location else None,
        }
        self.send(message)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """A report of a test, or of a part of one, after the suite's own hooks saw it."""
        if self.in_child:
            data = self.serialise(report)
            for implementation in self.own_statuses:
                given = {"report": report, "config": self.config}
                status = implementation.function(*[given[name] for name in implementation.argnames])
                if status is not None:
                    data["$contain_status"] = list(status)
                    break
            if self.last_report is not None:  # the test runs again, as plugins for flaky tests have it
                self.send({"type": "report", "report": self.last_report})
                self.last_report = None
            if report.when == "teardown":
                self.last_report = data  # goes with ``done``, which follows at once
            else:
                self.send({"type": "report", "report": data})

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        """``pytest.exit`` or an interrupt while the worker itself collected."""
        if not self.in_child:
            self.send(self.interrupted(excinfo.value))

    def interrupted(self, error: BaseException) -> dict[str, Any]:
        """What stopped the session, for the controller to stop in the same way."""
        if isinstance(error, pytest.exit.Exception):
            return {"type": "exit", "reason": str(getattr(error, "msg", error)), "status": getattr(error, "returncode", None)}
        return {"type": "interrupt", "reason": str(error), "class": type(error).__name__}

    # -- serving --------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        """In place of running the tests: wait for requests to fork."""
        digest = hashlib.sha256()
        for item in session.items:
            digest.update(item.nodeid.encode("utf-8", "surrogatepass") + b"\0")
        self.own_statuses = self.of_the_suite("pytest_report_teststatus")
        gc.collect()
        if hasattr(gc, "freeze"):
            gc.freeze()  # a child's collector must not touch, and so copy, the pages of everything imported
        self.send({"type": "serving", "count": len(session.items), "digest": digest.hexdigest()})
        self.serve()
        return True

    def serve(self) -> None:
        """Answer the controller until it says ``finish`` or is gone."""
        reader, writer = os.pipe()
        for number in (reader, writer):
            os.set_blocking(number, False)
        previous = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        control = self.channel.connection
        try:
            while True:
                if not self.channel.has_more():
                    ready, _, _ = select.select([control, reader], [], [])
                    if reader in ready:
                        with contextlib.suppress(BlockingIOError):
                            os.read(reader, 4096)
                        self.reap()
                    if control not in ready:
                        continue
                received = self.channel.receive()
                if received is None:
                    os._exit(81)  # the controller is gone: so are its sandboxes
                message, fds = received
                if message["type"] == "finish":
                    self.session.testsfailed = message["failed"]
                    return
                if message["type"] == "kill":
                    self.kill(message["id"])
                elif message["type"] == "fork":
                    self.fork(message, fds, (reader, writer))
        finally:
            if not self.in_child:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, previous)
                os.close(reader)
                os.close(writer)

    def kill(self, identity: int) -> None:
        """End a child of this worker, if it still is one."""
        for pid, number in self.children.items():
            if number == identity:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Tell of each child that ended. Only of ours: a conftest file may have started processes of its own."""
        for pid, identity in list(self.children.items()):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, -1
            if ended:
                del self.children[pid]
                self.send({"type": "exited", "id": identity, "status": status})

    def fork(self, message: dict[str, Any], fds: list[int], own: tuple[int, int]) -> None:
        """One child in one sandbox. ``fds``: its channel, then the sandbox's own."""
        forks = self.forks
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python 3.12 warns of threads at fork; those of conftest files are not ours
                pid = self.entry.fork_into(message["details"], fds[1:])
        except BaseException as error:
            if self.forks != forks:
                os._exit(80)  # in the child; process ids would not tell, in a namespace of its own
            self.send({"type": "fork-failed", "id": message["id"], "error": f"{type(error).__name__}: {error}"})
            pid = -1
        if pid == 0:
            status = 79
            try:
                status = self.child(fds[0], own)
            finally:
                self.output.flush_streams()
                os._exit(status)
        for number in fds:
            with contextlib.suppress(OSError):
                os.close(number)
        if pid > 0:
            self.children[pid] = message["id"]

    # -- a child --------------------------------------------------------------------------------------------------------

    def child(self, descriptor: int, own: tuple[int, int]) -> int:
        """Be one container's test process: run what the channel says until it closes. Returns the exit status."""
        self.in_child = True
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (*own, self.channel.connection.detach()):
            os.close(number)
        with contextlib.suppress(OSError):  # fails where descriptors are limited to fewer
            high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, CHANNEL_DESCRIPTOR_FROM)
            os.close(descriptor)
            descriptor = high
        self.channel = type(self.channel)(socket.socket(fileno=descriptor))
        self.channel.owner_pid = os.getpid()
        self.children = {}
        self.send_files()
        while True:
            received = self.channel.receive()
            if received is None:
                if self.session._setupstate.stack:
                    self.session._setupstate.teardown_exact(None)
                return 0
            message, _fds = received
            if not self.run_one(message):
                return 0

    def run_one(self, message: dict[str, Any]) -> bool:
        """One item's whole protocol. Returns whether another may follow."""
        session = self.session
        item = session.items[message["run"]]
        nextitem = session.items[message["next"]] if message["next"] is not None else None
        session.testsfailed = message["failed"]
        self.last_report = None
        timeout = message.get("timeout")
        if timeout and self.crash_file is not None:
            faulthandler.dump_traceback_later(timeout, file=self.crash_file)
        try:
            self.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        except BaseException as error:
            if os.getpid() != self.channel.owner_pid:
                os._exit(1)  # forked by the test, and came all the way up
            if self.last_report is not None:
                self.send({"type": "report", "report": self.last_report})
            self.send(self.stopped(error))
            return False
        finally:
            if timeout:
                faulthandler.cancel_dump_traceback_later()
        if os.getpid() != self.channel.owner_pid:
            os._exit(0)
        self.output.flush_streams()
        done: dict[str, Any] = {"type": "done", "index": message["run"], "shouldstop": session.shouldstop}
        if session.shouldfail and not self.config.getoption("maxfail"):
            done["shouldfail"] = str(session.shouldfail)
        if message["last"] and self.start["own_processes"]:
            done["processes"] = self.output.other_processes()
        if self.start["compares"] and session.testsfailed > message["failed"]:
            done["modules"] = sorted({name.partition(".")[0] for name in list(sys.modules)})[:2000]
        done["report"] = self.last_report
        self.send(done)
        return not message["last"]

    def stopped(self, error: BaseException) -> dict[str, Any]:
        """Why the whole session must end: ``pytest.exit``, an interrupt, or an error of pytest or a plugin itself."""
        if isinstance(error, (KeyboardInterrupt, pytest.exit.Exception)):
            return self.interrupted(error)
        import traceback

        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return {"type": "internal-error", "text": self.output.shorten(text)}

    crash_file: Any = None
    last_report: Any = None

    def send_files(self) -> None:
        """Give this child capture files of its own (the worker's are shared by all its forks) and send copies to the controller.

        The controller reads from them what a test had printed when it died, and where it was when time ran out.
        """
        numbers: list[int] = []
        names: list[str] = []
        manager = self.config.pluginmanager.get_plugin("capturemanager")
        capturing = getattr(manager, "_global_capturing", None)
        for name in ("out", "err"):
            capture = getattr(capturing, name, None)
            temporary = getattr(capture, "tmpfile", None)
            try:
                old = temporary.fileno() if temporary is not None else -1
            except (OSError, AttributeError, ValueError):
                old = -1  # captured in memory
            if old < 0:
                continue
            new = self.output.fresh_file()
            os.dup2(new, old, inheritable=False)
            os.close(new)
            self.output.bound_snap(capture)
            numbers.append(old)
            names.append(name)
        with contextlib.suppress(OSError):
            crash = self.output.fresh_file()
            self.crash_file = os.fdopen(crash, "wb", buffering=0)
            faulthandler.enable(file=self.crash_file)
            numbers.append(crash)
            names.append("crash")
        self.send({"type": "files", "names": names}, tuple(numbers))
