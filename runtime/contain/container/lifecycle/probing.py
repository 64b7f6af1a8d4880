"""Looks at a container's health, from within its supervisor's loop: starts the check, reads what it prints, kills it at its time-out.

The check is a ``contain exec`` by a child of the supervisor: it has the container's own restrictions, and the loop waits for nothing.
It runs in a control group of its own below the container's, so that at the time-out its children go too, whatever they did to get away
from it. `contain.container.lifecycle.health` decides what follows from a result.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from contain.container.lifecycle.health import KEPT_BYTES, Health, HealthResult, advance, next_look_seconds, write_health
from contain.container.lifecycle.loop import Loop
from contain.container.lifecycle.records import ContainerRecord, Records
from contain.errors import ContainError
from contain.linux.cgroups import PARENT, probe_hierarchies, remove_directory
from contain.linux.freezer import is_frozen, probe_freezer
from contain.spec import ContainerSpec, HealthCheck

_GROUP = "health"
_ROUNDS = 50
_CHUNK = 65536


def _groups(container_id: str) -> list[str]:
    return [f"{hierarchy.mount}/{PARENT}/{container_id}/{_GROUP}" for hierarchy in probe_hierarchies()]


def _make_groups(container_id: str) -> bool:
    """Whether there is one: an ordinary user may have none."""
    made = False
    for directory in _groups(container_id):
        with contextlib.suppress(OSError):
            if os.path.isdir(os.path.dirname(directory)):
                os.makedirs(directory, exist_ok=True)
                made = True
    return made


def _members(container_id: str) -> set[int]:
    found: set[int] = set()
    for directory in _groups(container_id):
        with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs") as file:
            found.update(int(line) for line in file)
    return found


def kill_group(container_id: str) -> None:
    """SIGKILL for every process of the check, also for those that it starts meanwhile."""
    for _ in range(_ROUNDS):
        members = _members(container_id)
        if not members:
            return
        for process_id in members:
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(process_id)
                try:
                    if process_id in _members(container_id):  # the number is still that process's
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)
        time.sleep(0.002)


class HealthMonitor:
    """Looks again and again while the container runs. A context manager around its life."""

    def __init__(self, loop: Loop, spec: ContainerSpec, records: Records, container_id: str, check: HealthCheck) -> None:
        self._loop, self._spec, self._records, self._id, self._check = loop, spec, records, container_id, check
        self._place = records.place(container_id)
        self._health = Health()
        self._started = time.time()
        self._began = 0.0
        self._output = b""
        self._timed_out = False
        self._child = self._process = self._pipe = -1
        self._timers: list[int] = []

    def __enter__(self) -> HealthMonitor:
        write_health(self._place, self._health)
        self._schedule()
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            self._loop.cancel(timer)
        if self._child > 0:
            self._kill()
            os.waitpid(self._child, 0)
            self._let_go()
        for directory in _groups(self._id):
            if os.path.isdir(directory):
                remove_directory(directory, patience_seconds=0.2)

    def _schedule(self) -> None:
        seconds = next_look_seconds(self._health, self._check, since_start_seconds=time.time() - self._started)
        self._timers = [self._loop.call_after(seconds, self._look)]

    def _look(self) -> None:
        freezer = probe_freezer()
        if freezer is not None and is_frozen(freezer, self._id):
            self._schedule()
            return
        group = _GROUP if _make_groups(self._id) else ""
        self._began, self._output, self._timed_out = time.time(), b"", False
        self._pipe, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        supervisor = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                status = _run_check(self._spec, self._records.read(self._id), self._check, write, group, supervisor)
            except BaseException:
                status = 125
            os._exit(status)
        os.close(write)
        self._child = child
        self._process = os.pidfd_open(child)
        self._loop.watch(self._pipe, self._read)
        self._loop.watch(self._process, self._end)
        self._timers = [self._loop.call_after(self._check.timeout_seconds, self._time_out)]

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._pipe, _CHUNK)
            self._output = (self._output + data)[:KEPT_BYTES]
            if not data:
                self._loop.forget(self._pipe)

    def _kill(self) -> None:
        # The group first: with its parent gone, a program that gave up its death signal would only be found there.
        kill_group(self._id)
        os.kill(self._child, signal.SIGKILL)
        kill_group(self._id)

    def _time_out(self) -> None:
        self._timed_out = True
        self._kill()

    def _let_go(self) -> None:
        for descriptor in (self._pipe, self._process):
            self._loop.forget(descriptor)
            os.close(descriptor)
        self._child = self._process = self._pipe = -1

    def _end(self) -> None:
        _, wait_status = os.waitpid(self._child, 0)
        self._read()
        self._let_go()
        for timer in self._timers:
            self._loop.cancel(timer)
        code = os.waitstatus_to_exitcode(wait_status)
        output = self._output.decode("utf-8", "replace")
        if self._timed_out:
            code, output = -1, f"Health check exceeded timeout ({self._check.timeout_seconds:g}s)" + (output and f": {output}")
        result = HealthResult(began_seconds=self._began, ended_seconds=time.time(), status=code, output=output[:KEPT_BYTES])
        before = self._health.status
        self._health = advance(self._health, result, self._check, started_seconds=self._started)
        write_health(self._place, self._health)
        if self._health.status != before:
            with contextlib.suppress(ContainError):
                self._records.tell(self._records.find(self._id), f"health_status: {self._health.status}")
        self._schedule()


def _run_check(
    spec: ContainerSpec, record: ContainerRecord, check: HealthCheck, write: int, group: str, supervisor: int
) -> int:
    """In the child: the check's exit status, or 125 to 127 where it could not be started."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.set_blocking(write, True)
    from contain.container.execute import ExecRequest, execute
    from contain.container.launch import die_with_parent

    os.setpgid(0, 0)
    die_with_parent(supervisor)
    request = ExecRequest(
        arguments=check.command,
        environment=spec.environment,
        working_directory=str(spec.working_directory),
        identity=spec.identity,
    )
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return execute(record, request, stdin=null, stdout=write, stderr=write, group=group).status
    except ContainError as error:
        os.write(write, f"{error}\n".encode()[:KEPT_BYTES])
        return int(getattr(error, "exit_status", 125))
