"""What this machine can do for containers: facts as values, each with the cause and the remedy of what is missing.

Reads /proc and /sys only and starts nothing; what only a trial can tell is tried by the first command that needs it.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from contain.errors import HostError
from contain.values import dataclass

_OLDEST_KERNEL = (5, 12)  # mount_setattr(2); overlay in user namespaces is 5.11
_TRANSLATION_KERNEL = (5, 19)  # overlay on layers with translated owners
_SCRATCH_KERNEL = (6, 6)  # user attributes on tmpfs, which overlay's upper directory needs
_ARCHITECTURES = ("x86_64", "aarch64")


def refuse_other_systems() -> None:
    """Raise `HostError` (code ``not-linux``) where there is no Linux kernel under this Python."""
    if sys.platform != "linux":
        raise HostError(
            f"containers are made by the Linux kernel, and this system is {sys.platform!r}",
            code="not-linux",
            remedy="run all of it, pytest too, inside a Linux machine: WSL 2, colima, lima, podman machine, or a container",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One ability. ``state``: good, limited or missing. ``needed``: without it no container runs."""

    name: str
    state: str
    found: str
    needed: bool = False
    remedy: str = ""


def parse_kernel_release(release: str) -> tuple[int, int]:
    """``6.1.0-13-amd64`` as (6, 1); (0, 0) for what cannot be read."""
    parts = release.split("-", maxsplit=1)[0].split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (IndexError, ValueError):
        return 0, 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _kernel() -> Finding:
    release = platform.release()
    version = parse_kernel_release(release)
    if version < _OLDEST_KERNEL:
        oldest = ".".join(map(str, _OLDEST_KERNEL))
        return Finding(
            name="kernel",
            state="missing",
            found=release,
            needed=True,
            remedy=f"Linux {oldest} or newer is needed; upgrade the kernel",
        )
    if version < _SCRATCH_KERNEL:
        return Finding(
            name="kernel",
            state="limited",
            found=f"{release}: containers of tests keep their writes on disk, not in memory",
            remedy="Linux 6.6 makes `pytest --in-container` faster",
        )
    return Finding(name="kernel", state="good", found=release, needed=True)


def _architecture() -> Finding:
    machine = platform.machine()
    if machine in _ARCHITECTURES:
        return Finding(name="architecture", state="good", found=machine, needed=True)
    remedy = f"there is a system call policy for {' and '.join(_ARCHITECTURES)} only"
    return Finding(name="architecture", state="missing", found=machine, needed=True, remedy=remedy)


def _user() -> Finding:
    found = "root" if os.geteuid() == 0 else f"user id {os.geteuid()}, root inside a user namespace (docs/rootless.md)"
    return Finding(name="user", state="good", found=found, needed=True)


def _capabilities() -> Finding:
    effective = 0
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    if effective >> 21 & 1:
        return Finding(name="CAP_SYS_ADMIN", state="good", found="held", needed=True)
    remedy = "inside a container, start that one with --privileged; otherwise run as root"
    return Finding(name="CAP_SYS_ADMIN", state="missing", found="not held", needed=True, remedy=remedy)


def _user_namespaces() -> Finding:
    most = _read("/proc/sys/user/max_user_namespaces")
    restricted = _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if most in ("", "0"):
        remedy = "sysctl -w user.max_user_namespaces=10000"
        return Finding(name="user namespaces", state="missing", found=f"at most {most or 'none'}", needed=True, remedy=remedy)
    if restricted == "1" and os.geteuid() != 0:
        return Finding(
            name="user namespaces",
            state="limited",
            found="AppArmor restricts them for ordinary users",
            remedy="sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root",
        )
    return Finding(name="user namespaces", state="good", found=f"at most {most}", needed=True)


def _translated_owners() -> Finding:
    version = parse_kernel_release(platform.release())
    if version < _TRANSLATION_KERNEL:
        needed = ".".join(map(str, _TRANSLATION_KERNEL))
        remedy = f"Linux {needed} is needed for --userns=auto; the default works without it"
        return Finding(name="ids of one's own", state="limited", found=f"not with Linux {platform.release()}", remedy=remedy)
    if os.geteuid() != 0:
        remedy = "run as root for --userns=auto; your containers have a user namespace anyway"
        return Finding(name="ids of one's own", state="limited", found="handed out by root only", remedy=remedy)
    return Finding(name="ids of one's own", state="good", found="--userns=auto")


def _filesystem(kind: str, module: str) -> Finding:
    known = {line.split()[-1] for line in _read("/proc/filesystems").splitlines()}
    if kind in known:
        return Finding(name=kind, state="good", found="known to the kernel", needed=True)
    return Finding(
        name=kind, state="limited", found="not loaded (it may be when first used)", needed=False, remedy=f"modprobe {module}"
    )


def _control_groups() -> list[Finding]:
    versions: dict[str, str] = {}
    withheld: dict[str, str] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup "):
            for word in right.split(" ", 2)[2].split(","):
                versions[word.strip()] = "v1"
        elif right.startswith("cgroup2 "):
            top = left.split()[4]
            for word in _read(f"{top}/cgroup.controllers").split():
                versions.setdefault(word, "v2")
            if os.path.exists(f"{top}/cgroup.type") and _read(f"{top}/cgroup.procs"):  # not the machine's own topmost group
                handed_down = _read(f"{top}/cgroup.subtree_control").split()
                withheld = {word: top for word, version in versions.items() if version == "v2" and word not in handed_down}
    findings = []
    for controller, use in (("memory", "memory limits"), ("pids", "process limits"), ("cpu", "CPU limits")):
        if controller in withheld:
            top = withheld[controller]
            found = f"v2, but the topmost group has processes and hands it to none below: no {use}"
            remedy = (
                f"in the outer container, first: mkdir {top}/init && xargs -rn1 <{top}/cgroup.procs >{top}/init/cgroup.procs"
            )
            findings.append(Finding(name=f"cgroup {controller}", state="limited", found=found, remedy=remedy))
        elif controller in versions:
            findings.append(Finding(name=f"cgroup {controller}", state="good", found=versions[controller]))
        else:
            remedy = "boot with the controller enabled, or mount it; until then asking for such a limit is an error"
            findings.append(Finding(name=f"cgroup {controller}", state="limited", found=f"missing: no {use}", remedy=remedy))
    return findings


def _proc() -> Finding:
    masked = [
        line.split()[4]
        for line in _read("/proc/self/mountinfo").splitlines()
        if line.split()[4].startswith(("/proc/", "/sys/firmware"))
    ]
    covered = [path for path in masked if path != "/proc/sys/fs/binfmt_misc"]
    if not covered:
        return Finding(name="/proc", state="good", found="fully visible", needed=True)
    return Finding(
        name="/proc",
        state="missing",
        found=f"partly masked ({covered[0]})",
        needed=True,
        remedy="this is a container that hides part of /proc: start it with --security-opt systempaths=unconfined or --privileged",
    )


def probe_host() -> tuple[Finding, ...]:
    """Every ability, most basic first."""
    return (
        _kernel(),
        _architecture(),
        _user(),
        _capabilities(),
        _user_namespaces(),
        _translated_owners(),
        _filesystem("overlay", "overlay"),
        _proc(),
        *_control_groups(),
    )
