"""What a running container really got, as the kernel tells it: for ``contain inspect``, under ``Effective``.

Read from outside, of the container's first process: its ``/proc`` directory and its control groups. Nothing is taken from what was
asked for. Sources: proc_pid_status(5), proc_pid_mountinfo(5), proc_pid_limits(5), user_namespaces(7), cgroups(7).
"""

from __future__ import annotations

import contextlib
import os

from contain.annotations import Any
from contain.container.lifecycle.records import ContainerRecord
from contain.linux.capabilities import CAPABILITY_NUMBERS
from contain.linux.cgroups import EVERY, PARENT, probe_hierarchies, unescape_mount

_SECCOMP = {"0": "disabled", "1": "strict", "2": "filter"}
_SETS = {"CapInh": "Inheritable", "CapPrm": "Permitted", "CapEff": "Effective", "CapBnd": "Bounding", "CapAmb": "Ambient"}
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_LIMIT_FILES = (
    *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness"),
    *("memory.max", "memory.swap.max", "memory.low", "pids.max", "cpu.shares", "cpu.weight", "cpu.cfs_period_us"),
    *("cpu.cfs_quota_us", "cpu.max", "cpuset.cpus", "cpuset.mems", "blkio.weight", "blkio.bfq.weight", "io.weight", "io.max"),
    *(f"blkio.throttle.{way}_{unit}_device" for way in ("read", "write") for unit in ("bps", "iops")),
    "devices.list",
)


def parse_status(text: str) -> dict[str, Any]:
    """Privileges from the text of ``/proc/PID/status``."""
    rows = {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    return {
        "Capabilities": {shown: names_of(int(rows.get(name, "0"), 16)) for name, shown in _SETS.items()},
        "NoNewPrivileges": rows.get("NoNewPrivs") == "1",
        "SeccompMode": _SECCOMP.get(rows.get("Seccomp", ""), "unknown"),
        "SeccompFilters": int(rows.get("Seccomp_filters", "0")),
        "Umask": rows.get("Umask", ""),
        "HostUserId": int(rows.get("Uid", "0").split()[0]),
        "HostGroupId": int(rows.get("Gid", "0").split()[0]),
        "HostGroups": [int(word) for word in rows.get("Groups", "").split()],
    }


def names_of(mask: int) -> list[str]:
    """The capabilities of a mask, as Docker writes them; one that has no name here by its number."""
    by_number = {number: f"CAP_{name}" for name, number in CAPABILITY_NUMBERS.items()}
    return [by_number.get(number, f"CAP_{number}") for number in range(mask.bit_length()) if mask >> number & 1]


def parse_mounts(text: str) -> list[dict[str, Any]]:
    """Mounts from the text of ``/proc/PID/mountinfo``, in its order."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, tail = left.split(), right.split(" ")
        if len(words) < 6 or len(tail) < 3:
            continue
        propagation = [word.split(":")[0] for word in words[6:]]
        found.append(
            {
                "Destination": unescape_mount(words[4]),
                "Type": tail[0],
                "Source": unescape_mount(tail[1]),
                "Root": unescape_mount(words[3]),
                "Options": words[5].split(","),
                "FilesystemOptions": tail[2].split(","),
                "Propagation": propagation or ["private"],
            }
        )
    return found


def parse_id_map(text: str) -> list[dict[str, int]]:
    """Rows of ``/proc/PID/uid_map``: ids inside, ids as this process sees them, how many."""
    rows = [line.split() for line in text.splitlines()]
    return [{"Inside": int(row[0]), "Outside": int(row[1]), "Count": int(row[2])} for row in rows if len(row) == 3]


def parse_resource_limits(text: str) -> dict[str, dict[str, int]]:
    """Rows of ``/proc/PID/limits``; -1: no limit."""
    found = {}
    for line in text.splitlines()[1:]:
        name, rest = line[:26].strip(), line[26:].split()
        if len(rest) >= 2:
            soft, hard = (-1 if word == "unlimited" else int(word) for word in rest[:2])
            found[name] = {"Soft": soft, "Hard": hard}
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()
    except OSError:
        return ""


def _namespaces(process_id: int) -> dict[str, dict[str, Any]]:
    found = {}
    for name in _NAMESPACES:
        with contextlib.suppress(OSError):
            inside, own = (os.readlink(f"/proc/{who}/ns/{name}") for who in (process_id, "self"))
            found[name] = {"Id": inside, "Shared": inside == own}
    return found


def _groups(container_id: str) -> dict[str, dict[str, str]]:
    found = {}
    for hierarchy in probe_hierarchies(EVERY):
        place = f"{hierarchy.mount}/{PARENT}/{container_id}"
        if os.path.isdir(place):
            files = {name: _text(f"{place}/{name}").strip() for name in _LIMIT_FILES if os.path.exists(f"{place}/{name}")}
            found[place] = files
    return found


def read_effective(record: ContainerRecord) -> dict[str, Any] | None:
    """What the container's first process has now; None if it does not run."""
    process_id = record.process_id
    if record.state != "running" or process_id is None:
        return None
    status = _text(f"/proc/{process_id}/status")
    if not status:
        return None
    score = _text(f"/proc/{process_id}/oom_score_adj").strip()
    return {
        **parse_status(status),
        "AppArmorProfile": _text(f"/proc/{process_id}/attr/apparmor/current").strip(),
        "OomScoreAdj": int(score) if score.lstrip("-").isdigit() else None,
        "UserMap": parse_id_map(_text(f"/proc/{process_id}/uid_map")),
        "GroupMap": parse_id_map(_text(f"/proc/{process_id}/gid_map")),
        "Namespaces": _namespaces(process_id),
        "Limits": _groups(record.container_id),
        "ResourceLimits": parse_resource_limits(_text(f"/proc/{process_id}/limits")),
        "Mounts": parse_mounts(_text(f"/proc/{process_id}/mountinfo")),
    }
