"""What is done to a container that exists: its state, signals, pause, limits, its end (runtime.md "Operations")."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping

from contain.errors import Conflict, ContainError, HostError, UsageError
from contain.oci_runtime.groups import Groups, freeze, kill_all, limit_groups, processes_in, remove_groups
from contain.oci_runtime.hooks import run_hooks
from contain.oci_runtime.records import CREATED, CREATING, RUNNING, STOPPED, Place, Record, is_alive, is_paused, read_start_time
from contain.oci_runtime.state import can_be_signalled, render_state
from contain.runtime_spec.configuration import parse_document
from contain.runtime_spec.document import render_json
from contain.runtime_spec.resources import Resources, parse_resources

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.002


def groups_of(record: Record) -> Groups:
    """The container's groups, from its record."""
    return Groups(version=record.group_version, places=record.groups)


def parse_signal(text: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``SIGRTMIN+3``, ``""`` for SIGTERM. Raises `UsageError`."""
    if not text:
        return signal.SIGTERM
    if text.isdigit():
        if len(text) < 4 and 0 <= int(text) <= signal.SIGRTMAX:
            return int(text)
    else:
        name, plus, offset = text.upper().removeprefix("SIG").partition("+")
        found = signal.__dict__.get(f"SIG{name}")
        if isinstance(found, int) and not name.startswith("_") and (not plus or (name == "RTMIN" and offset.isdigit())):
            number = int(found) + int(offset or 0)
            if number <= signal.SIGRTMAX:
                return number
    raise UsageError(f"unknown signal {text!r}", code="bundle-signal", remedy="`kill -l` lists them")


def _send(record: Record, number: int) -> bool:
    """To the first process and no other: by descriptor, whose start time is looked at after it is open. False if it is gone."""
    try:
        descriptor = os.pidfd_open(record.process_id)
    except OSError:
        return False
    try:
        if read_start_time(record.process_id) != record.start_time:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def kill(place: Place, number: int, *, every: bool = False) -> None:
    """Send a signal to the first process, or to every one. Raises `Conflict` where the container does not run."""
    record = place.read_record()
    status = place.read_status(record)
    groups = groups_of(record)
    if every and (status == STOPPED or not record.own_process_namespace):
        kill_all(groups, number)
        return
    if not can_be_signalled(status) or not _send(record, number):
        raise Conflict("container not running", code="bundle-state-conflict")
    if every and number != signal.SIGKILL:  # the kernel ends the others with the first
        first = record.process_id
        for process in processes_in(groups):
            if process != first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
    if number == signal.SIGKILL and is_paused(record):
        with contextlib.suppress(HostError):
            freeze(groups, held=False)  # a frozen process of version 1 takes no signal


def _wait_for_end(record: Record) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while is_alive(record):
        if time.monotonic() > deadline:
            raise HostError(f"container {record.container_id} does not end", code="bundle-state-conflict")
        time.sleep(_POLL_SECONDS)


def delete(place: Place, *, force: bool = False) -> None:
    """Take a stopped container away, with its groups and what is left in them; ``force``: kill it first. Raises `Conflict`."""
    try:
        lock = place.lock()
    except ContainError:
        if force:
            return
        raise
    try:
        try:
            record = place.read_record()
        except ContainError:
            if force or os.path.isdir(place.directory):  # made by somebody who died before the first record
                place.remove()
                return
            raise
        status = place.read_status(record)
        if status == CREATING:  # we hold the lock: whoever made it is gone
            status = STOPPED
        groups = groups_of(record)
        if status != STOPPED:
            if not force:
                raise Conflict(
                    f"cannot delete container {place.name} that is not stopped: {status}", code="bundle-state-conflict"
                )
            _send(record, signal.SIGKILL)
            with contextlib.suppress(HostError):
                if is_paused(record):
                    freeze(groups, held=False)
            _wait_for_end(record)
        kill_all(groups, signal.SIGKILL)
        if not remove_groups(groups):
            raise HostError(
                "the container's control groups still hold processes", path=groups.places[0][1], code="cgroup-refused"
            )
        hooks = place.read_hooks("poststop")
        place.remove()
        if hooks:
            run_hooks("poststop", hooks, render_state(record, STOPPED), tolerant=True)
    finally:
        os.close(lock)


def pause(place: Place, *, held: bool) -> None:
    """Hold every process of a container, or let them go on. Raises `Conflict`."""
    record = place.read_record()
    status = place.read_status(record)
    allowed = status in (RUNNING, CREATED) if held else is_paused(record)
    if not allowed:
        raise Conflict(
            f"container not running: it is {status}" if held else f"container not paused: it is {status}",
            code="bundle-state-conflict",
        )
    freeze(groups_of(record), held=held)


def processes_of(place: Place) -> list[int]:
    """Ids of a container's processes, as this namespace numbers them."""
    return processes_in(groups_of(place.read_record()))


_FLAGS = {  # of `update`: member of linux.resources
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
UPDATE_FLAGS = tuple(_FLAGS)


def parse_update(text: bytes | None, flags: Mapping[str, str]) -> Resources:
    """Limits from ``--resources`` and from flags, which win. Raises `UsageError`."""
    from contain.runtime_spec.reading import Table

    members = dict(parse_document(text, "--resources").members) if text is not None else {}
    for flag, value in flags.items():
        group, name = _FLAGS[flag]
        if group == "cpu" and name in ("cpus", "mems"):
            members[group] = {**(members.get(group) or {}), name: value}
            continue
        try:
            number = int(value)
        except ValueError:
            raise UsageError(f"--{flag} takes a whole number, not {value!r}", code="bundle-configuration") from None
        members[group] = {**(members.get(group) or {}), name: number}
    members.pop("devices", None)  # engines send the whole of them again; they cannot change while the container lives
    return parse_resources(Table(members, "resources"))


def update(place: Place, resources: Resources) -> None:
    """Change the limits of a container that lives. Raises `Conflict`, `HostError`."""
    record = place.read_record()
    if place.read_status(record) == STOPPED:
        raise Conflict("container not running", code="bundle-state-conflict")
    try:
        limit_groups(groups_of(record), resources)
    except OSError as error:
        raise HostError(
            "the limit cannot be changed",
            call="write",
            path=str(error.filename or ""),
            errno=error.errno or 0,
            code="cgroup-refused",
        ) from error


def _number(path: str) -> int:
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        text = file.read().strip()
        return 2**64 - 1 if text == "max" else int(text)
    return 0


def _keyed(path: str) -> dict[str, int]:
    with contextlib.suppress(OSError), open(path) as file:
        rows = [line.split() for line in file]
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    return {}


def read_statistics(place: Place) -> bytes:
    """``events --stats``: what the groups count, in the form of runc's."""
    record = place.read_record()
    found: dict[str, object] = {}
    for name, directory in record.groups:
        words = name.split(",")
        first = record.group_version == 1
        if "pids" in words or not first:
            found["pids"] = {"current": _number(f"{directory}/pids.current"), "limit": _number(f"{directory}/pids.max")}
        if "cpuacct" in words:
            found["cpu"] = {"usage": {"total": _number(f"{directory}/cpuacct.usage")}, "throttling": {}}
        if "memory" in words and first:
            usage = {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt", "limit": "limit_in_bytes"}
            found["memory"] = {
                "usage": {member: _number(f"{directory}/memory.{file}") for member, file in usage.items()},
                "raw": _keyed(f"{directory}/memory.stat"),
            }
        if not first:
            cpu = _keyed(f"{directory}/cpu.stat")
            found["cpu"] = {"usage": {"total": cpu.get("usage_usec", 0) * 1000}, "throttling": {}}
            found["memory"] = {
                "usage": {"usage": _number(f"{directory}/memory.current"), "limit": _number(f"{directory}/memory.max")},
                "raw": _keyed(f"{directory}/memory.stat"),
            }
    return render_json({"type": "stats", "id": record.container_id, "data": found}).encode()
