"""What ``spec`` and ``features`` print. Pure. Sources: config.md, features.md, features-linux.md of the runtime specification."""

from __future__ import annotations

import json

from contain.linux.capabilities import CAPABILITY_NUMBERS
from contain.linux.seccomp_policy import ACTIONS
from contain.runtime_spec.configuration import HOOKS, NAMESPACES, NEWEST_VERSION, OLDEST_VERSION
from contain.runtime_spec.mounts import MOUNT_OPTIONS
from contain.runtime_spec.seccomp import FLAGS, OPERATORS

_KEPT = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_MASKED = (
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats "
    "/proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
)
_READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, object]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def render_example(*, rootless: bool, user_id: int, group_id: int) -> str:
    """A ``config.json`` that runs a shell. ``rootless``: for an ordinary user, whose ids become root inside."""
    safe = ("nosuid", "noexec", "nodev")
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *(() if rootless else ("gid=5",)))
    mounts = [
        _mount("/proc", "proc", "proc", *safe),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *pts),
        _mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", *safe),
        _mount("/sys", "none", "/sys", "rbind", *safe, "ro") if rootless else _mount("/sys", "sysfs", "sysfs", *safe, "ro"),
    ]
    if not rootless:
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "relatime", "ro"))
    kinds = ["pid", "ipc", "uts", "mount", "cgroup", *(["user"] if rootless else ["network"])]
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": _MASKED.split(),
        "readonlyPaths": _READ_ONLY.split(),
    }
    if rootless:
        linux["uidMappings"] = [{"containerID": 0, "hostID": user_id, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": group_id, "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    config = {
        "ociVersion": NEWEST_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(_KEPT) for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "contain",
        "mounts": mounts,
        "linux": linux,
    }
    return json.dumps(config, indent=2) + "\n"


def render_features() -> str:
    """The ``features`` document."""
    disabled = {"enabled": False}
    return json.dumps(
        {
            "ociVersionMin": OLDEST_VERSION,
            "ociVersionMax": NEWEST_VERSION,
            "hooks": list(HOOKS),
            "mountOptions": list(MOUNT_OPTIONS),
            "linux": {
                "namespaces": sorted(NAMESPACES),
                "capabilities": [f"CAP_{name}" for name in CAPABILITY_NUMBERS],
                "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
                "seccomp": {
                    "enabled": True,
                    "actions": list(ACTIONS),
                    "operators": list(OPERATORS),
                    "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X86_64"],
                    "knownFlags": list(FLAGS),
                    "supportedFlags": list(FLAGS),
                },
                "apparmor": {"enabled": True},
                "selinux": disabled,
                "intelRdt": disabled,
                "mountExtensions": {"idmap": disabled},
                "netDevices": disabled,
            },
        },
        indent=2,
    )
