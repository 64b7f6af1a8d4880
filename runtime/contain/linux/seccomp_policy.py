"""What a system call policy is, and the default one. Values only: `contain.linux.seccomp` compiles them.

The default is Docker's profile as it comes out for the given capabilities (moby/profiles ``seccomp/default.json``): what an
architecture has is allowed, but for the calls below. A capability that is added gives its calls back. Where it is stricter:
``ioctl`` with TIOCSTI and TIOCLINUX is refused (CVE-2017-5226, typing into the caller's terminal); socket families and device
requests are looked at in the low half of the argument, as the kernel does; no other architecture is let in.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from enum import Enum

from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.linux.syscall_table import SyscallTable
from contain.values import dataclass

# linux/seccomp.h
KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW = (
    *(0x80000000, 0x00000000, 0x00030000, 0x00050000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000),
)
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
PERMISSIVE = (ALLOW, LOG)

_NAMESPACE_FLAGS = 0x7E020000  # of clone(2)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK = 38, 40

NEWEST = 466
"""The last number that the default policy knows: removexattrat, of Linux 6.13. Later ones are told ENOSYS, as runc does it."""

_NEVER = (
    "uselib ustat sysfs pivot_root _sysctl swapon swapoff create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg "
    "afs_syscall tuxcall security vserver kexec_load kexec_file_load add_key request_key keyctl migrate_pages move_pages "
    "userfaultfd uprobe io_uring_setup io_uring_enter io_uring_register"
)
_BY_CAPABILITY = {
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules "
    "lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname "
    "setns syslog umount2 unshare",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module init_module finit_module",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_TIME": "settimeofday clock_settime",
    "SYS_TTY_CONFIG": "vhangup",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
}

ACTIONS = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": LOG,
}
"""What profiles and bundles call an action (libseccomp's names)."""


class Operator(Enum):
    """How an argument is compared: without sign, as seccomp_rule_add(3) does."""

    NOT_EQUAL = "SCMP_CMP_NE"
    LESS = "SCMP_CMP_LT"
    LESS_OR_EQUAL = "SCMP_CMP_LE"
    EQUAL = "SCMP_CMP_EQ"
    GREATER_OR_EQUAL = "SCMP_CMP_GE"
    GREATER = "SCMP_CMP_GT"
    MASKED_EQUAL = "SCMP_CMP_MASKED_EQ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One argument, 0 to 5, against ``value``; for MASKED_EQUAL: the argument under the mask ``value`` against ``masked``.
    ``bits``: 64, or 32 for the low half alone, where the kernel takes an ``int``."""

    argument: int
    operator: Operator
    value: int
    masked: int = 0
    bits: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Calls by name, and what is done with them where all conditions hold."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``default`` is for what no rule says. Of several rules for a call, one without conditions counts first, then the first that
    holds. ``newest``: the last number that its author knew; None: the highest that a rule names."""

    default: int
    rules: tuple[Rule, ...]
    newest: int | None = None


def default_policy(table: SyscallTable, capabilities: Collection[str] = DEFAULT_CAPABILITIES, *, setns: bool = False) -> Policy:
    """The policy of a container with these capabilities. ``setns``: that call is allowed nevertheless."""
    given = {name for capability in capabilities for name in _BY_CAPABILITY.get(capability, "").split()}
    denied = {name for names in _BY_CAPABILITY.values() for name in names.split()} - given | set(_NEVER.split())
    if setns:
        denied -= {"setns"}
    special = {"clone", "clone3", "socket", "ioctl", "personality"}
    allowed = tuple(
        name for name, number in table.numbers.items() if number <= NEWEST and name not in denied and name not in special
    )
    low = 32
    rules = [
        Rule(names=allowed, action=ALLOW),
        Rule(
            names=("socket",),
            action=ALLOW,
            conditions=tuple(
                Condition(argument=0, operator=Operator.NOT_EQUAL, value=family, bits=low) for family in (_AF_ALG, _AF_VSOCK)
            ),
        ),
        Rule(
            names=("ioctl",),
            action=ALLOW,
            conditions=tuple(
                Condition(argument=1, operator=Operator.NOT_EQUAL, value=request, bits=low)
                for request in (_TIOCSTI, _TIOCLINUX)
            ),
        ),
        *(
            Rule(
                names=("personality",),
                action=ALLOW,
                conditions=(Condition(argument=0, operator=Operator.EQUAL, value=value),),
            )
            for value in _PERSONALITIES
        ),
    ]
    if "SYS_ADMIN" in capabilities:
        rules.append(Rule(names=("clone", "clone3"), action=ALLOW))
    else:
        no_namespaces = Condition(argument=0, operator=Operator.MASKED_EQUAL, value=_NAMESPACE_FLAGS)
        rules.append(Rule(names=("clone",), action=ALLOW, conditions=(no_namespaces,)))
        rules.append(Rule(names=("clone3",), action=ENOSYS))  # its flags lie in memory: libraries then use clone
    return Policy(default=EPERM, rules=tuple(rules), newest=NEWEST)
