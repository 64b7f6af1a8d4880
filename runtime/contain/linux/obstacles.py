"""What stands in the way where the kernel refuses a step of a container's start: the cause in words, and what helps.

`explain` decides, from the step, the error number and facts of the surroundings; `read_surroundings` reads the facts. Nothing is
tried here. A cause is named only if a fact speaks for it. The places: ``docs/rootless.md``, "Places that stand in the way".
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from contain.values import dataclass

_SYS_ADMIN, _SYS_RESOURCE = 21, 24
_OUTER_REMEDIES = {
    "kubernetes": "in the pod's securityContext: privileged: true; or hostUsers: false with procMount: Unmasked and seccompProfile "
    "type: Unconfined",
    "podman": "start the outer container with --privileged; or with --security-opt seccomp=unconfined --security-opt unmask=ALL",
    "": "start the outer container with --privileged; or with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined",
}
NO_UPPER = ("overlay", "nfs", "nfs4", "cifs", "fuse.sshfs", "9p", "vfat", "exfat")
"""Kinds of file systems onto which the kernel writes no overlay."""
_PLACES = {"kubernetes": "a pod", "podman": "a podman container", "docker": "a Docker container"}
_APPARMOR_REMEDY = (
    "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; or run as root; or an AppArmor profile with `userns,` for this "
    "Python"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Facts about where this process runs. ``container``: kubernetes, podman, docker, or "" where nothing says so."""

    user_id: int = 0
    capabilities: int = -1
    has_filter: bool = False  # a seccomp filter that somebody else installed
    container: str = ""
    most_user_namespaces: int | None = None
    unprivileged_user_namespaces: bool = True  # Debian's and Ubuntu's own switch
    apparmor_restricts: bool = False
    masked: tuple[str, ...] = ()  # mount points that hide parts of /proc or /sys
    in_chroot: bool = False
    kernel: tuple[int, int] = (6, 0)

    @property
    def is_confined(self) -> bool:
        """Whether somebody took away what a container's start needs."""
        return self.has_filter or (self.user_id == 0 and not self.capabilities >> _SYS_ADMIN & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """A cause, as what follows "because" would say it, and the remedy."""

    cause: str
    remedy: str


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def parse_masked(mountinfo: str) -> tuple[str, ...]:
    """What is mounted over parts of /proc and of /sys's firmware: then the kernel gives no new /proc (mount_too_revealing())."""
    points = [line.split()[4] for line in mountinfo.splitlines() if len(line.split()) > 4]
    return tuple(
        point
        for point in dict.fromkeys(points)
        if point.startswith(("/proc/", "/sys/firmware", "/sys/devices/virtual/powercap"))
        and point != "/proc/sys/fs/binfmt_misc"
    )


def read_surroundings() -> Surroundings:
    """Where this process is."""
    status = dict(line.split(":", 1) for line in _read("/proc/self/status").splitlines() if ":" in line)
    release = os.uname().release.split("-")[0].split(".")
    most = _read("/proc/sys/user/max_user_namespaces")
    container = ""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        container = "kubernetes"
    elif os.path.exists("/run/.containerenv"):
        container = "podman"
    elif os.path.exists("/.dockerenv"):
        container = "docker"
    return Surroundings(
        user_id=os.geteuid(),
        capabilities=int(status.get("CapEff", "0").strip() or "0", 16),
        has_filter=status.get("Seccomp", "").strip() == "2",
        container=container,
        most_user_namespaces=int(most) if most.isdigit() else None,
        unprivileged_user_namespaces=_read("/proc/sys/kernel/unprivileged_userns_clone") != "0",
        apparmor_restricts=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
        masked=parse_masked(_read("/proc/self/mountinfo")),
        in_chroot=_is_in_chroot(),
        kernel=(int(release[0]), int(release[1]))
        if len(release) > 1 and release[0].isdigit() and release[1].isdigit()
        else (0, 0),
    )


def _is_in_chroot() -> bool:
    """Whether this process's root is no mount: the kernel gives no user namespaces there (unshare(2), EPERM)."""
    return (
        bool(points := [line.split()[4] for line in _read("/proc/self/mountinfo").splitlines() if line]) and "/" not in points
    )


def explain(step: str, number: int, facts: Surroundings) -> Obstacle | None:
    """Why a step was refused; None where no fact says it. ``step``: an operation as text, or a system call's name."""
    refused = number in (errno.EPERM, errno.EACCES)
    if "unshare" in step or "CLONE_NEWUSER" in step or "uid_map" in step or "gid_map" in step:
        if facts.most_user_namespaces == 0 or number in (errno.ENOSPC, errno.EUSERS):
            return Obstacle(
                cause="user namespaces are switched off here (user.max_user_namespaces), or all of them are taken",
                remedy="as the machine's root: sysctl -w user.max_user_namespaces=10000",
            )
        if refused and not facts.unprivileged_user_namespaces:
            return Obstacle(
                cause="ordinary users may have no user namespaces here (kernel.unprivileged_userns_clone is 0)",
                remedy="sysctl -w kernel.unprivileged_userns_clone=1, or run as root",
            )
        if refused and facts.in_chroot:
            return Obstacle(
                cause="the kernel gives no user namespaces to a process in a chroot", remedy="leave the chroot, or run as root"
            )
    if "kind=proc" in step and refused and facts.masked:
        return Obstacle(
            cause=f"this place hides parts of /proc ({facts.masked[0]}), and the kernel gives nobody a whole one there",
            remedy="start the outer container with --security-opt systempaths=unconfined (Docker), --security-opt unmask=ALL (podman) "
            "or procMount: Unmasked (Kubernetes)",
        )
    if "SetResourceLimit" in step and refused:
        return Obstacle(
            cause="this process may not raise its limits (CAP_SYS_RESOURCE is missing)",
            remedy="ask for no more than the hard limits that `ulimit -H -a` shows, or raise them outside",
        )
    if number == errno.ENOSYS and facts.kernel < (5, 12):
        return Obstacle(
            cause=f"Linux {facts.kernel[0]}.{facts.kernel[1]} does not have this call", remedy="Linux 5.12 or newer"
        )
    if (refused or number == errno.ENOSYS) and facts.is_confined:
        what = "a system call filter keeps" if facts.has_filter else "missing capabilities keep"
        where = _PLACES.get(facts.container, "a container")
        return Obstacle(
            cause=f"this is {where}, or something like it: {what} containers from being made",
            remedy=_OUTER_REMEDIES.get(facts.container, _OUTER_REMEDIES[""]),
        )
    if refused and facts.apparmor_restricts:
        return Obstacle(
            cause="AppArmor gives ordinary users user namespaces without power in them (kernel.apparmor_restrict_unprivileged_userns)",
            remedy=_APPARMOR_REMEDY,
        )
    return None


def explain_step(step: str, number: int) -> Obstacle | None:
    """`explain` or `explain_overlay` with the facts of here. ``step``: what `contain.operations.render_operation` made of it."""
    if step.startswith(("MountRoot", "MountCopyOnWrite", "MountLayers")):
        words = dict(word.split("=", 1) for word in step.split() if "=" in word)
        found = explain_overlay(number, os.path.dirname(words.get("upper", "/")))
        if found is not None:
            return found
    return explain(step, number, read_surroundings())


def explain_overlay(number: int, directory: str) -> Obstacle | None:
    """Why an overlay that writes to a directory was refused."""
    if number == errno.ENODEV:
        return Obstacle(cause="the kernel has no overlay file system", remedy="as the machine's root: modprobe overlay")
    kind = filesystem_of(directory)
    if number == errno.EINVAL and (kind in NO_UPPER or kind.startswith("fuse")):
        return Obstacle(
            cause=f"the store is on a file system of the kind {kind}, onto which the kernel writes no overlay",
            remedy="set CONTAIN_HOME to a directory on ext4, xfs, btrfs or a tmpfs: in a container, on a volume; or make a new "
            "container without CONTAIN_STORAGE=overlay, which is a copy of its image then",
        )
    return None


def filesystem_of(path: str) -> str:
    """The kind of file system at a path, as mountinfo has it; "" if that cannot be told."""
    best, kind = "", ""
    try:
        wanted = os.path.realpath(path)
    except OSError:
        return ""
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        if (wanted == point or wanted.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
