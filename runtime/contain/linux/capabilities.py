"""Capability names and masks (capabilities(7)). Values only."""

from __future__ import annotations

from collections.abc import Iterable

# linux/capability.h, in the order of their numbers from 0 on
_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM "
    "BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)

CAPABILITY_NUMBERS = {name: number for number, name in enumerate(_NAMES.split())}

_DEFAULT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)
DEFAULT_CAPABILITIES = frozenset(_DEFAULT.split())
"""What Docker keeps: 14 of 41. Source: moby ``daemon/pkg/oci/caps/defaults.go``."""


def mask_of(names: Iterable[str]) -> int:
    """The bit mask of capability names (without ``CAP_``)."""
    return sum(1 << CAPABILITY_NUMBERS[name] for name in names)
