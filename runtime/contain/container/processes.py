"""A container's processes: held still, listed, and what they use. Reads /proc and control groups; writes only to hold and let go.

Processes are found by the container's control groups, or where it has none by its PID namespace. Sources: proc(5), proc_pid_stat(5),
docker/cli ``docs/reference/commandline/container_{top,stats,pause}.md``.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from contain.container.lifecycle.records import ContainerRecord
from contain.container.lifecycle.states import Event, State, Step, decide
from contain.errors import Conflict, HostError
from contain.linux.cgroups import PARENT, probe_hierarchies
from contain.linux.freezer import freeze, is_frozen, probe_freezer, thaw
from contain.values import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")


def is_paused(record: ContainerRecord) -> bool:
    """Whether the container runs and is held."""
    if record.state != "running":
        return False
    freezer = probe_freezer()
    return freezer is not None and is_frozen(freezer, record.container_id)


def see(record: ContainerRecord) -> State:
    """The state of a container in the table's words: its record's, or paused, which only the kernel knows."""
    return State.PAUSED if is_paused(record) else State(record.state)


def decide_for(record: ContainerRecord, event: Event) -> Step:
    """What the table says. Raises `Conflict`."""
    return decide(see(record), event, name=record.name, container_id=record.container_id)


def _verify_running(record: ContainerRecord) -> None:
    if record.state != "running":
        raise Conflict(f"Container {record.container_id} is not running", code="not-running")


def pause(record: ContainerRecord) -> None:
    """``contain pause``. Raises `Conflict`, `HostError`."""
    decide_for(record, Event.PAUSE)
    freezer = probe_freezer()
    if freezer is None:
        raise HostError(
            "this process can hold no others: there is no control group of version 2, or of version 1's freezer, in which it may make "
            "groups",
            code="cgroup-missing",
            remedy="mount one of them; as an ordinary user: have one delegated (see `contain doctor`)",
        )
    freeze(freezer, record.container_id, probe_hierarchies())


def unpause(record: ContainerRecord) -> None:
    """``contain unpause``. Raises `Conflict`."""
    decide_for(record, Event.UNPAUSE)
    freezer = probe_freezer()
    if freezer is not None:
        thaw(freezer, record.container_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """One process, by this machine's numbers."""

    process_id: int
    parent_id: int
    user_id: int
    started_seconds: float
    processor_seconds: float
    reaped_seconds: float  # processor time of children that have ended and were waited for
    terminal: int
    command: str


def parse_stat(text: str) -> tuple[str, list[int]]:
    """The name in ``/proc/PID/stat`` and the numbers after the state: proc_pid_stat(5), field 4 first."""
    head, _, tail = text.rpartition(")")
    return head.partition("(")[2], [int(word) for word in tail.split()[1:] if word.lstrip("-").isdigit()]


def _boot_seconds() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _process_ids(record: ContainerRecord) -> list[int]:
    for hierarchy in probe_hierarchies():
        top = f"{hierarchy.mount}/{PARENT}/{record.container_id}"
        if os.path.isdir(top):
            found: set[int] = set()
            for place, _, _ in os.walk(top):
                with contextlib.suppress(OSError):
                    found.update(map(int, Path(place, "cgroup.procs").read_text().split()))
            return sorted(found - {0})
    namespace = os.readlink(f"/proc/{record.process_id}/ns/pid")
    same = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == namespace:
                same.append(int(name))
    return sorted(same)


def read_processes(record: ContainerRecord) -> tuple[ProcessRow, ...]:
    """The processes of a running container. Raises `Conflict`."""
    _verify_running(record)
    boot = _boot_seconds()
    rows = []
    for number in _process_ids(record):
        with contextlib.suppress(OSError):
            name, fields = parse_stat(Path(f"/proc/{number}/stat").read_text(errors="backslashreplace"))
            words = Path(f"/proc/{number}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
            rows.append(
                ProcessRow(
                    process_id=number,
                    parent_id=fields[0],
                    user_id=os.stat(f"/proc/{number}").st_uid,
                    started_seconds=boot + fields[18] / _TICKS,
                    processor_seconds=(fields[10] + fields[11]) / _TICKS,
                    reaped_seconds=(fields[12] + fields[13]) / _TICKS,
                    terminal=fields[3],
                    command=words.decode("utf-8", "backslashreplace") or f"[{name}]",
                )
            )
    return tuple(row for row in rows if not _is_ours(record, row.process_id))


def _is_ours(record: ContainerRecord, process_id: int) -> bool:
    """Whether a process in the container's groups is one of ours, which stands outside of its PID namespace and waits for one that
    ``contain exec`` started."""
    try:
        own, first = os.readlink("/proc/self/ns/pid"), os.readlink(f"/proc/{record.process_id}/ns/pid")
        return own != first and os.readlink(f"/proc/{process_id}/ns/pid") == own
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a container uses at a moment. ``memory_bytes`` None: it has no group that counts."""

    at_seconds: float
    processor_seconds: float
    memory_bytes: int | None
    memory_limit_bytes: int
    processes: int
    received_bytes: int
    sent_bytes: int
    read_bytes: int
    written_bytes: int


def _numbers(path: str) -> dict[str, int]:
    try:
        rows = [line.replace(":", " ").split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _memory(record: ContainerRecord) -> tuple[int | None, int]:
    """Bytes in use without the page cache that could go at once, as Docker counts, and the limit."""
    limit = next(
        (int(line.split()[1]) << 10 for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")),
        0,
    )
    asked = (record.details.get("limits") or {}).get("memory_bytes")
    limit = min(limit, asked) if asked else limit
    for hierarchy in probe_hierarchies():
        if "memory" in hierarchy.controllers:
            place = f"{hierarchy.mount}/{PARENT}/{record.container_id}"
            first = hierarchy.version == 1
            with contextlib.suppress(OSError, ValueError):
                used = int(Path(place, "memory.usage_in_bytes" if first else "memory.current").read_text())
                cache = _numbers(f"{place}/memory.stat").get("total_inactive_file" if first else "inactive_file", 0)
                return max(0, used - cache), limit
    return None, limit


def _network(record: ContainerRecord) -> tuple[int, int]:
    """Bytes received and sent, without loopback; the host's own are not the container's."""
    received = sent = 0
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{record.process_id}/ns/net") != os.readlink("/proc/self/ns/net"):
            for line in Path(f"/proc/{record.process_id}/net/dev").read_text().splitlines()[2:]:
                name, _, rest = line.partition(":")
                if name.strip() != "lo":
                    words = rest.split()
                    received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def read_usage(record: ContainerRecord) -> Usage:
    """Now. Raises `Conflict` if it does not run."""
    rows = read_processes(record)
    memory, limit = _memory(record)
    received, sent = _network(record)
    counts = [_numbers(f"/proc/{row.process_id}/io") for row in rows]
    return Usage(
        at_seconds=time.monotonic(),
        processor_seconds=sum(row.processor_seconds + row.reaped_seconds for row in rows),
        memory_bytes=memory,
        memory_limit_bytes=limit,
        processes=len(rows),
        received_bytes=received,
        sent_bytes=sent,
        read_bytes=sum(count.get("read_bytes", 0) for count in counts),
        written_bytes=sum(count.get("write_bytes", 0) for count in counts),
    )
