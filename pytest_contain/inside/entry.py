"""Put a forked child of the worker into a prepared container. Runs on the image's Python (3.8 or newer), standard library only.

The worker is started with the capabilities SYS_ADMIN and SYS_CHROOT of the session's user namespace. `hold_capabilities` makes
them permitted only, neither effective nor inherited, before anything of the project runs. For each fork it raises them, points
its children at the sandbox's PID namespace, forks, and lowers them again. The child writes itself into the control groups,
joins the other namespaces, gives up what was held, and installs the system call filter. From then on it is the container.

Sources: setns(2), pid_namespaces(7), capabilities(7), seccomp(2).
"""

from __future__ import annotations

import base64
import ctypes
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

_CLONE_NEWPID = 0x20000000
_JOINED = (
    0x00020000,
    0x40000000,
    0x08000000,
    0x04000000,
    0x02000000,
)  # mnt, net, ipc, uts, cgroup: the order of the descriptors
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 22, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _set_capabilities(effective: int, permitted: int) -> None:
    header = _Header(0x20080522, 0)
    data = (_Data * 2)()
    for index in (0, 1):
        data[index].effective = effective >> 32 * index & 0xFFFFFFFF
        data[index].permitted = permitted >> 32 * index & 0xFFFFFFFF
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


_own_pid_namespace = -1


def hold_capabilities() -> None:
    """Keep what the joining needs as permitted only. Call it first: what the project runs has what any container has."""
    with open("/proc/self/status") as file:
        rows = dict(line.split(":", 1) for line in file if line.startswith("Cap"))
    permitted, bounding = int(rows["CapPrm"], 16), int(rows["CapBnd"], 16)
    _set_capabilities(permitted & bounding if os.getuid() == 0 else 0, permitted)


def fork_into(details: Mapping[str, Any], fds: Sequence[int]) -> int:
    """Fork. Returns the child's id in the parent, and 0 in the child, which then is inside the sandbox.

    ``fds``: the sandbox's PID namespace, the namespaces of `_JOINED`, then ``details["joins"]`` open ``cgroup.procs``. They stay
    open in the parent. If the child cannot get in, it says why on standard error and ends with status 125.
    """
    global _own_pid_namespace
    if _own_pid_namespace < 0:
        _own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    effective, held = details["effective"], details["held"]
    _set_capabilities(effective | held, effective | held)
    child = -1
    try:
        _check(_libc.setns(fds[0], _CLONE_NEWPID), "setns")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CPython 3.12 warns of threads; only this one goes on in the child
            child = os.fork()
    finally:
        if child != 0:
            _libc.setns(_own_pid_namespace, _CLONE_NEWPID)
            _set_capabilities(effective, effective | held)
    if child == 0:
        _enter(details, fds)
    return child


def _enter(details: Mapping[str, Any], fds: Sequence[int]) -> None:
    try:
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        namespaces = len(_JOINED) + 1
        for descriptor in fds[namespaces:]:
            os.write(descriptor, b"0")
        for descriptor, kind in zip(fds[1:namespaces], _JOINED):
            _check(_libc.setns(descriptor, kind), f"setns {kind:#x}")
        os.chdir(details["cwd"])
        for descriptor in fds:
            os.close(descriptor)
        os.close(_own_pid_namespace)
        os.setsid()
        _set_capabilities(details["effective"], details["effective"])
        program = base64.b64decode(details["seccomp"])
        buffer = ctypes.create_string_buffer(program, len(program))
        policy = _Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
        _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(policy), 0, 0), "seccomp")
    except BaseException as error:
        os.write(2, f"cannot enter the container: {error}\n".encode())
        os._exit(125)


hold_capabilities()
