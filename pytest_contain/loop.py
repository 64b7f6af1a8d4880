"""The controller's loop: which test runs next in which container, what is told to pytest and when.

Theory of operation. Tests are put into groups (`plan_groups`): one each for isolation ``test``, all of a module, all. A group runs in
one child of its environment's worker; children wait ahead of need. What a test's child says becomes events of that test; events
reach pytest in the order in which tests started when one runs at a time, and test by test when several do, so that a test's
report never interleaves with another's. The last events of a container's last test are held back until the container is gone and
has said whether memory ran out or processes were left, because only then is the outcome known. The next test runs meanwhile.

A child that ends early ends one test, with the reason; the rest of its group goes on in a fresh child.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from contain.errors import IntegrityError, WorkerLost
from pytest_contain.backend import SandboxVerdict
from pytest_contain.channel import MOST_BYTES, Message
from pytest_contain.collection import ProxyItem
from pytest_contain.lane import Child, Lane
from pytest_contain.reports import (
    Death,
    Phase,
    crash_report,
    explain_death,
    explain_leftovers,
    explain_verdict,
    failed_report,
    next_phase,
    passed_report,
    rebuild_report,
    rebuild_warning,
)

LEFTOVER_GRACE_SECONDS = 0.2  # helpers of the standard library end by themselves once their parent is gone
CLOSED_CHANNEL_SECONDS = 1.0
FLOOD_BYTES = 256 << 20
TIMEOUT_SLACK_SECONDS = 0.3  # for the dump of stacks that the child itself makes when its time is over
_WATCH_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How to run."""

    isolation: str  # test, module or session
    concurrency: int
    timeout_seconds: float  # 0: none
    leftover: str  # fail, warn or ignore


@dataclass(slots=True, eq=False)
class Group:
    """Tests that share one container."""

    lane: Lane
    items: deque[ProxyItem]


def plan_groups(items: Sequence[ProxyItem], lanes: Mapping[str, Lane], isolation: str) -> list[Group]:
    """Neighbouring tests that share a container."""
    groups: list[Group] = []
    last: tuple[Any, ...] | None = None
    for item in items:
        environment = item.collection.environment
        key: tuple[Any, ...] = (environment,)
        if isolation == "module":
            key = (environment, item.path)
        if isolation == "test" or key != last:
            groups.append(Group(lanes[environment], deque()))
        groups[-1].items.append(item)
        last = key
    return groups


@dataclass(slots=True, eq=False)
class Test:
    """One test that was started and is not told to its end yet."""

    __test__ = False

    item: ProxyItem
    child: Child
    group: Group
    started: float  # monotonic
    started_at: float  # the clock
    deadline: float | None
    final: bool  # the last of its container
    reports: list[Any] = field(default_factory=list)
    events: deque[tuple[str, Any]] = field(default_factory=deque)
    held: list[tuple[str, Any]] = field(default_factory=list)
    holding: bool = False
    done: bool = False
    complete: bool = False
    finish_at: float | None = None  # when its container, whose processes are ending, is looked at
    processes: list[str] = field(default_factory=list)


class Stop(Exception):
    """The run ends as the test asked: carries the message."""

    def __init__(self, message: Message) -> None:
        super().__init__(message["type"])
        self.message = message


class InternalErrorInside(Exception):
    """pytest or one of its plugins failed inside the container; the text is the traceback from there."""


class Loop:
    """Runs ``session.items``."""

    def __init__(self, session: pytest.Session, lanes: Mapping[str, Lane], settings: LoopSettings) -> None:
        self.session = session
        self.config = session.config
        self.lanes = lanes
        self.settings = settings
        self.queue = deque(plan_groups(cast("Sequence[ProxyItem]", session.items), lanes, settings.isolation))
        self.running: dict[Child, Test] = {}  # by child; done tests wait here for their verdict
        self.in_order: deque[Test] = deque()
        self.modules: dict[str, list[str]] = {}  # what failing tests had imported
        self.selector = selectors.DefaultSelector()

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until every test was told, or the session must stop (`Session.Failed`, `Session.Interrupted`, `Stop`)."""
        for lane in self.lanes.values():
            self.selector.register(lane.control, selectors.EVENT_READ, lane)
            lane.prepared.session.prepare(self.settings.concurrency + 1)
        try:
            while self.queue or self.running:
                try:
                    self.turn()
                except WorkerLost as error:
                    self.recover(error)
        finally:
            self.selector.close()

    def turn(self) -> None:
        """Start what can be started, and hear what there is to hear."""
        self.dispatch()
        for key, _ in self.selector.select(self.patience()):
            if isinstance(key.data, Lane):
                self.hear_worker(key.data)
            elif key.data[1].channel.fileno() >= 0:  # an event of the same round may have ended it
                self.hear_child(key.data)
        self.watch()

    def recover(self, error: WorkerLost) -> None:
        """A worker is gone: its running tests failed with that reason, the others go on in a new one. Once per environment."""
        lost = [lane for lane in self.lanes.values() if lane.gone()]
        if len(lost) != 1 or lost[0].restarts:
            raise error
        lane = lost[0]
        for channel in (lane.control, *(child.channel for child in lane.children.values())):
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(channel)
        for child in lane.children.values():
            child.abandon()
        for test in [test for test in self.running.values() if test.group.lane is lane]:
            if test.done:
                del self.running[test.child]
                self.release(test)
                self.complete(test)
            else:
                self.died(test, Death(wait_status=None, reason=error.message))
        lane.restart()
        self.selector.register(lane.control, selectors.EVENT_READ, lane)
        lane.prepared.session.prepare(self.settings.concurrency + 1)

    def check_stop(self) -> None:
        """Between tests: whether pytest wants no more of them."""
        if self.session.shouldfail:
            raise self.session.Failed(self.session.shouldfail)
        if self.session.shouldstop:
            raise self.session.Interrupted(self.session.shouldstop)

    def dispatch(self) -> None:
        """Start tests while there is room, and have children ready for the next ones."""
        stopping = self.session.shouldfail or self.session.shouldstop
        busy = sum(not test.done for test in self.running.values())
        limit = 2 * self.settings.concurrency  # done ones, whose containers are being taken down, count too
        while not stopping and self.queue and busy < self.settings.concurrency and len(self.running) < limit:
            group = self.queue.popleft()
            lane = group.lane
            self.fork_ahead(lane, 1)
            if not lane.waiting:
                raise lane.lost("before all tests ran")
            child = lane.waiting.popleft()
            self.start(group, child)
            busy += 1
        if not stopping:
            soon = [group.lane for group in itertools.islice(self.queue, self.settings.concurrency + 1)]
            for lane in self.lanes.values():
                self.fork_ahead(lane, soon.count(lane))

    def fork_ahead(self, lane: Lane, count: int) -> None:
        """Children that wait, known to the selector."""
        for child in lane.fork_ahead(count):
            self.selector.register(child.channel, selectors.EVENT_READ, (lane, child))

    def start(self, group: Group, child: Child) -> None:
        """Send the group's next test to the child."""
        item = group.items.popleft()
        following = group.items[0] if group.items else None
        timeout = self.timeout_of(item)
        now = time.monotonic()
        test = Test(
            item=item,
            child=child,
            group=group,
            started=now,
            started_at=time.time(),
            deadline=now + timeout + TIMEOUT_SLACK_SECONDS if timeout else None,
            final=following is None,
        )
        self.running[child] = test
        self.in_order.append(test)
        message = {
            "type": "run",
            "run": item.index,
            "next": following.index if following is not None else None,
            "last": following is None,
            "failed": self.session.testsfailed,
            "timeout": timeout,
        }
        child.channel.allow(MOST_BYTES)
        child.channel.send(message)
        self.add(test, "start", None)

    def timeout_of(self, item: ProxyItem) -> float:
        """Seconds for one test: its own ``contain(timeout=…)`` mark, else the run's. 0: none."""
        for mark in item.iter_markers("contain"):
            value = mark.kwargs.get("timeout")
            if isinstance(value, (int, float)):
                return float(value)
        return self.settings.timeout_seconds

    def patience(self) -> float | None:
        """How long nothing may happen before something must be looked at."""
        now = time.monotonic()
        times = [now + _WATCH_SECONDS] if self.running else []
        for test in self.running.values():
            times.extend(moment for moment in (test.deadline if not test.done else None, test.finish_at) if moment is not None)
        return max(0.0, min(times) - now) if times else None

    def watch(self) -> None:
        """Time limits, floods, closed channels, containers whose grace is over."""
        now = time.monotonic()
        for test in list(self.running.values()):
            if test.finish_at is not None:
                if now >= test.finish_at:
                    test.finish_at = None
                    self.conclude(test)
                continue
            if test.done:
                continue
            if test.deadline is not None and now >= test.deadline:
                timeout = test.deadline - test.started - TIMEOUT_SLACK_SECONDS
                self.end_early(test, f"timeout: the test took longer than {timeout:g} seconds")
            elif test.child.output_size_bytes() > FLOOD_BYTES:
                self.end_early(test, f"the test printed more than {FLOOD_BYTES >> 20} MiB")
            elif test.child.closed_at is not None and now >= test.child.closed_at + CLOSED_CHANNEL_SECONDS:
                self.end_early(test, "the test closed the file descriptor on which it reports")

    # -- what is heard --------------------------------------------------------------------------------------------------

    def hear_worker(self, lane: Lane) -> None:
        """Messages of a serving worker."""
        for message in lane.messages():
            match message["type"]:
                case "exited":
                    child = lane.children.get(message["id"])
                    if child is not None:
                        child.wait_status = message["status"]
                        self.ended(lane, child)
                case "fork-failed":
                    raise WorkerLost(f"environment {lane.name!r} could not start a test process: {message['error']}")
                case "warning":
                    self.config.hook.pytest_warning_recorded.call_historic(kwargs=rebuild_warning(message))
                case _:
                    pass
        if lane.control.at_end:
            raise lane.lost("while tests ran")

    def hear_child(self, source: tuple[Lane, Child]) -> None:
        """Messages of a child."""
        _, child = source
        self.drain(child)
        if child.channel.at_end and child.channel.fileno() >= 0:
            with contextlib.suppress(KeyError):
                self.selector.unregister(child.channel)
            child.closed_at = time.monotonic()

    def drain(self, child: Child) -> None:
        """Take in what the child said until now. What makes no sense ends its test."""
        for message in child.channel.receive_ready():
            test = self.running.get(child)
            try:
                kind, value = self.understand(child, test, message)
            except (IntegrityError, ValueError, KeyError, TypeError, AttributeError) as error:
                self.distrust(child, error)
                return
            if test is None or test.done:
                continue
            if kind == "report":
                test.reports.append(value)
                self.add(test, kind, value)
            elif kind == "warning":
                self.add(test, kind, value)
            elif kind == "done":
                if value["report"] is not None:
                    test.reports.append(value["report"])
                    self.add(test, "report", value["report"])
                self.done(test, value)
            elif kind == "stop":
                self.release(test)
                self.tell_events(test)
                raise Stop(value)
        if child.channel.error is not None:
            self.distrust(child, child.channel.error)

    def distrust(self, child: Child, error: Exception) -> None:
        """A child that does not speak our language will not report its test."""
        test = self.running.get(child)
        if test is not None and not test.done:
            self.end_early(test, f"the test's process sent something that is not a report: {error}")

    def understand(self, child: Child, test: Test | None, message: Message) -> tuple[str, Any]:
        """One message of a child as a kind of event and its value."""
        kind = message["type"]
        if kind == "files":
            numbers = child.channel.take_fds(int(message.get("fds", 0)))
            child.take_files(tuple(map(str, message["names"])), numbers)
            return "", None
        if kind == "report":
            return kind, self.report_for(test, message["report"])
        if kind == "warning":
            return kind, rebuild_warning(message)
        if kind == "done":
            message["processes"] = [str(name) for name in message.get("processes", ())]
            message["report"] = self.report_for(test, message["report"]) if message.get("report") is not None else None
            message["modules"] = [str(name) for name in message.get("modules", ())]
            return kind, message
        if kind in ("exit", "interrupt", "internal-error"):
            return "stop", message
        raise ValueError(f"a message of type {kind!r}")

    def report_for(self, test: Test | None, data: dict[str, Any]) -> Any:
        """A report, under its test's name on the host."""
        report = rebuild_report(self.config, data)
        suffix = test.item.collection.suffix if test is not None else ""
        if suffix:
            report.nodeid = f"{report.nodeid}{suffix}"
            file, line, domain = report.location
            report.location = (file, line, domain + suffix)
        return report

    def done(self, test: Test, message: Message) -> None:
        """The test's own process says that its protocol is over."""
        test.done = True
        test.processes = message["processes"]
        if message["modules"]:
            self.modules[test.item.nodeid] = message["modules"]
        if message.get("shouldstop") and not self.session.shouldstop:
            self.session.shouldstop = str(message["shouldstop"])
        if message.get("shouldfail") and not self.session.shouldfail:
            self.session.shouldfail = str(message["shouldfail"])
        if test.final:
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(test.child.channel)  # nothing more will come
            return  # the rest when its process has ended
        stopping = self.session.shouldfail or self.session.shouldstop
        child, group = test.child, test.group
        del self.running[child]
        self.release(test)
        self.complete(test)
        if not stopping:
            self.start(group, child)

    def ended(self, lane: Lane, child: Child) -> None:
        """The child's process is gone."""
        child.exited = True
        self.drain(child)
        test = self.running.get(child)
        if test is None:
            self.drop(lane, child)
            if child in lane.waiting or child.wait_status not in (0, None):
                log = lane.log().strip()
                raise WorkerLost(
                    f"a container of environment {lane.name!r} ended before it got a test"
                    f" ({explain_death(Death(wait_status=child.wait_status))}).\n{log}"
                )
            return
        if not test.done:
            self.died(test, Death(wait_status=child.wait_status, verdict=child.finish()))
        elif test.processes and self.settings.leftover != "ignore":
            test.finish_at = time.monotonic() + LEFTOVER_GRACE_SECONDS
        else:
            self.conclude(test)

    def drop(self, lane: Lane, child: Child) -> None:
        """Forget a child whose container is gone."""
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(child.channel)
        child.finish()
        lane.forget(child)

    # -- endings --------------------------------------------------------------------------------------------------------

    def conclude(self, test: Test) -> None:
        """A finished test's container is taken down, and has the last word; it is not asked where it has nothing to add."""
        failed = any(kind == "report" and report.failed for kind, report in test.held)
        if failed or test.processes or not test.group.lane.prepared.sees_own_processes:
            self.judge(test, test.child.finish())
        else:
            test.child.let_go()
        del self.running[test.child]
        self.drop(test.group.lane, test.child)
        self.release(test)
        self.complete(test)

    def judge(self, test: Test, verdict: SandboxVerdict) -> None:
        """What the container saw goes into the reports that were held back."""
        text = explain_verdict(verdict)
        if text:
            for kind, report in test.held:
                if kind == "report" and report.failed:
                    report.sections.append(("container", text))
        if not verdict.leftover_processes or self.settings.leftover == "ignore":
            return
        text = explain_leftovers(verdict.leftover_processes, test.processes)
        if self.settings.leftover == "warn":
            warning = {
                "text": f"{test.item.nodeid} {text}",
                "module": "pytest",
                "category": "PytestWarning",
                "file": str(test.item.path),
                "line_number": (test.item.location[1] or 0) + 1,
                "when": "runtest",
                "nodeid": test.item.nodeid,
            }
            test.held.append(("warning", rebuild_warning(warning)))
            return
        told = [report for kind, report in test.held if kind == "report"]
        failed = [report for report in told if report.failed]
        if failed:
            failed[0].sections.append(("container", f"the test {text}"))
            return
        for position, (kind, report) in enumerate(test.held):
            if kind == "report" and report.when == "teardown":
                replacement = failed_report(test.item, "teardown", f"the test {text}", start=report.start, stop=report.stop)
                replacement.user_properties, replacement.sections = report.user_properties, report.sections
                test.held[position] = ("report", replacement)
                return

    def end_early(self, test: Test, reason: str) -> None:
        """End a test's container from outside."""
        self.died(test, Death(wait_status=None, reason=reason, verdict=test.child.finish()))

    def died(self, test: Test, death: Death) -> None:
        """A test whose process ended too early: report it, and go on with the rest of its group in a fresh container."""
        phase: Phase = next_phase(test.reports)
        now = time.time()
        text = explain_death(death)
        sections = []
        for name, title in (("out", "stdout"), ("err", "stderr"), ("crash", "stack when it ended")):
            tail = test.child.tail(name)
            if tail:
                sections.append((f"Captured {title} {phase}" if name != "crash" else title, tail))
        report = crash_report(test.item, phase, text, sections=sections, start=test.started_at, stop=now)
        test.reports.append(report)
        self.add(test, "report", report)
        if phase != "teardown":
            closing = passed_report(test.item, "teardown", now)
            self.add(test, "report", closing)
        test.done = True
        del self.running[test.child]
        self.drop(test.group.lane, test.child)
        self.release(test)
        self.complete(test)
        if test.group.items:
            self.queue.appendleft(test.group)

    # -- telling pytest -------------------------------------------------------------------------------------------------

    def add(self, test: Test, kind: str, value: Any) -> None:
        """An event of a test: told now, later, or held until its container has spoken."""
        if kind == "report" and test.final and (value.when == "teardown" or value.failed):
            test.holding = True
        if test.holding:
            test.held.append((kind, value))
            return
        test.events.append((kind, value))
        self.tell()

    def release(self, test: Test) -> None:
        """Nothing of the test is held back any more."""
        test.events.extend(test.held)
        test.held = []
        test.holding = False

    def complete(self, test: Test) -> None:
        """All events of the test are there."""
        test.complete = True
        self.tell()

    def tell(self) -> None:
        """Call pytest's hooks for what may be told by now."""
        if self.settings.concurrency == 1:
            while self.in_order:
                head = self.in_order[0]
                self.tell_events(head)
                if not head.complete:
                    return
                self.in_order.popleft()
                self.tell_end(head)
        for test in [test for test in self.in_order if test.complete]:
            self.in_order.remove(test)
            self.tell_events(test)
            self.tell_end(test)

    def tell_events(self, test: Test) -> None:
        """All of a test's events so far."""
        while test.events:
            self.tell_event(test, *test.events.popleft())

    def tell_event(self, test: Test, kind: str, value: Any) -> None:
        """One hook call."""
        hook = test.item.ihook
        if kind == "start":
            hook.pytest_runtest_logstart(nodeid=test.item.nodeid, location=test.item.location)
        elif kind == "warning":
            self.config.hook.pytest_warning_recorded.call_historic(kwargs=value)
        else:
            hook.pytest_runtest_logreport(report=value)

    def tell_end(self, test: Test) -> None:
        """The test's last hook; then the session may want to stop."""
        test.group.lane.used.add(test.child.identity)
        test.item.ihook.pytest_runtest_logfinish(nodeid=test.item.nodeid, location=test.item.location)
        self.check_stop()
