"""The default system call policy, compiled to classic BPF.

Policy (Docker's default profile, as it comes out for the 14 default capabilities): known calls are allowed, the calls of `_DENIED`
get EPERM, numbers that this table does not know get ENOSYS so that a libc falls back, other architectures kill.
Stricter than Docker: ioctl TIOCSTI and TIOCLINUX get EPERM (CVE-2017-5226: typing into the caller's terminal).

Filter layout: check the architecture, then a balanced tree over ranges of numbers with equal treatment, then a few calls whose
arguments matter. Source: seccomp(2), linux/seccomp.h, linux/filter.h. Compiling takes well under a millisecond.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import lru_cache

from contain.values import dataclass

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000
_EPERM = _ERRNO | errno.EPERM
_ENOSYS = _ERRNO | errno.ENOSYS

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _AND, _RETURN, _JUMP = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06, 0x05
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16

_NAMESPACE_FLAGS = 0x7E020000  # clone flags that make namespaces
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK = 38, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The system calls of one architecture: audit number, known numbers, and the numbers of the names that we treat specially."""

    audit: int
    known: tuple[tuple[int, int], ...]
    denied: tuple[int, ...]
    setns: int
    clone: int
    clone3: int
    personality: int
    socket: int
    ioctl: int


# The unified numbers from 424 on are equal everywhere; 469 is file_setattr of Linux 6.17.
_NEWEST = 469
_DENIED_UNIFIED = (
    *range(425, 428),  # io_uring_setup io_uring_enter io_uring_register
    *range(428, 434),  # open_tree move_mount fsopen fsconfig fsmount fspick
    438,  # pidfd_getfd
    440,  # process_madvise
    442,  # mount_setattr
    443,  # quotactl_fd
    450,  # set_mempolicy_home_node
)

_TABLES = {
    "x86_64": _Table(
        audit=0xC000003E,
        known=((0, 335), (424, _NEWEST)),
        # uselib ustat sysfs vhangup pivot_root _sysctl acct settimeofday mount umount2 swapon swapoff reboot sethostname setdomainname
        # iopl ioperm create_module init_module delete_module get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg
        # afs_syscall tuxcall security lookup_dcookie clock_settime vserver mbind set_mempolicy get_mempolicy kexec_load add_key
        # request_key keyctl migrate_pages unshare move_pages perf_event_open fanotify_init open_by_handle_at setns kcmp finit_module
        # kexec_file_load bpf userfaultfd syslog
        denied=(
            *(
                134,
                136,
                139,
                153,
                155,
                156,
                163,
                164,
                165,
                166,
                167,
                168,
                169,
                170,
                171,
                172,
                173,
                174,
                175,
                176,
                177,
                178,
                179,
                180,
            ),
            *(
                181,
                182,
                183,
                184,
                185,
                212,
                227,
                236,
                237,
                238,
                239,
                246,
                248,
                249,
                250,
                256,
                272,
                279,
                298,
                300,
                304,
                308,
                312,
                313,
            ),
            *(320, 321, 323, 103),
            *_DENIED_UNIFIED,
        ),
        setns=308,
        clone=56,
        clone3=435,
        personality=135,
        socket=41,
        ioctl=16,
    ),
    "aarch64": _Table(
        audit=0xC00000B7,
        known=((0, 243), (260, 294), (424, _NEWEST)),
        # mount umount2 pivot_root nfsservctl quotactl lookup_dcookie vhangup unshare acct kexec_load init_module delete_module
        # clock_settime syslog reboot sethostname setdomainname settimeofday add_key request_key keyctl swapon swapoff
        # mbind get_mempolicy set_mempolicy migrate_pages move_pages perf_event_open fanotify_init open_by_handle_at setns kcmp
        # finit_module bpf userfaultfd kexec_file_load
        denied=(
            *(
                39,
                40,
                41,
                42,
                60,
                18,
                58,
                97,
                89,
                104,
                105,
                106,
                112,
                116,
                142,
                161,
                162,
                170,
                217,
                218,
                219,
                224,
                225,
                235,
                236,
                237,
            ),
            *(238, 239, 241, 262, 265, 268, 272, 273, 280, 282, 294),
            *_DENIED_UNIFIED,
        ),
        setns=268,
        clone=220,
        clone3=435,
        personality=92,
        socket=198,
        ioctl=29,
    ),
}


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _return(action: int) -> bytes:
    return _instruction(_RETURN, action)


def _tree(ranges: list[tuple[int, int]]) -> list[bytes]:
    """Instructions that return the action of the range in which the accumulator lies; ``ranges`` are (first number, action)."""
    if len(ranges) == 1:
        return [_return(ranges[0][1])]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    if len(low) > 255:  # a conditional jump reaches 255 instructions
        return [_instruction(_JUMP_AT_LEAST, ranges[middle][0], 0, 1), _instruction(_JUMP, len(low)), *low, *high]
    return [_instruction(_JUMP_AT_LEAST, ranges[middle][0], len(low), 0), *low, *high]


def _when(number: int, block: list[bytes]) -> list[bytes]:
    """Run ``block`` (which must return) if the accumulator holds ``number``."""
    return [_instruction(_JUMP_EQUAL, number, 0, len(block)), *block]


def _low_word(argument: int) -> bytes:
    return _instruction(_LOAD, _ARGUMENT + 8 * argument)


@lru_cache
def compile_default_policy(*, machine: str = "", allow_setns: bool = False) -> bytes:
    """The filter's bytes for this machine's architecture (or ``machine``, as uname(2) says it).

    ``allow_setns`` is for the test worker only, whose children join the containers that were prepared for them.
    Raises KeyError for an architecture without a table.
    """
    table = _TABLES[machine or os.uname().machine]
    actions: dict[int, int] = {}
    for first, last in table.known:
        actions.update(dict.fromkeys(range(first, last + 1), _ALLOW))
    actions.update(dict.fromkeys(table.denied, _EPERM))
    actions[table.clone3] = _ENOSYS
    if allow_setns:
        actions[table.setns] = _ALLOW
    ranges: list[tuple[int, int]] = []
    for number in range(_NEWEST + 2):
        action = actions.get(number, _ENOSYS)
        if not ranges or ranges[-1][1] != action:
            ranges.append((number, action))

    personality = [_low_word(0)]
    for value in _PERSONALITIES:
        personality += _when(value, [_return(_ALLOW)])
    personality.append(_return(_EPERM))
    conditional = [
        *_when(table.clone, [_low_word(0), _instruction(_JUMP_SET, _NAMESPACE_FLAGS, 1, 0), _return(_ALLOW), _return(_EPERM)]),
        *_when(
            table.socket,
            [
                _low_word(0),
                *_when(_AF_ALG, [_return(_EPERM)]),
                *_when(_AF_VSOCK, [_return(_EPERM)]),
                _return(_ALLOW),
            ],
        ),
        *_when(
            table.ioctl,
            [_low_word(1), *_when(_TIOCSTI, [_return(_EPERM)]), *_when(_TIOCLINUX, [_return(_EPERM)]), _return(_ALLOW)],
        ),
        *_when(table.personality, personality),
    ]
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        *[_instruction(_JUMP_EQUAL, table.audit, 1, 0), _return(_KILL)],
        _instruction(_LOAD, _NUMBER),
        *conditional,
        *_tree(ranges),
    ]
    return b"".join(program)
