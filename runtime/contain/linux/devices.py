"""Which devices a container may open and make, where no user namespace forbids it (``--userns=host``): rules, and how they are set.

Decides (pure) the default rules, what a rule's text means, and the program for version 2; sets them on a control group. Version 1 has
files for it (``devices.deny``, ``devices.allow``; kernel ``cgroup-v1/devices.rst``), version 2 a program that the kernel asks
(``BPF_PROG_TYPE_CGROUP_DEVICE``; bpf(2), kernel ``cgroup-v2.rst``). A rule that comes later wins. The default is Docker's: the few
devices of every container, and any node may be made, as it cannot be opened (moby ``daemon/pkg/oci/defaults.go``, runc
``libcontainer/specconv``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterable, Sequence

from contain.errors import HostError, UsageError
from contain.linux import syscalls
from contain.values import dataclass

_BPF = 321 if os.uname().machine == "x86_64" else 280
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROGRAM_TYPE_DEVICE, _ATTACH_DEVICE, _ALLOW_MULTI = 15, 6, 2
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERYTHING = 7

# Instructions of eBPF (kernel ``bpf/standardization/instruction-set.rst``)
_LOAD_WORD, _MOVE_64, _MOVE_32, _MOVE_VALUE = 0x61, 0xBF, 0xBC, 0xB4
_AND_VALUE, _SHIFT_RIGHT, _JUMP_EQUAL, _JUMP_UNEQUAL, _EXIT = 0x54, 0x74, 0x15, 0x55, 0x95


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """``kind``: ``c``, ``b``, or ``a`` for both. ``major`` and ``minor`` None: any. ``access``: among r (read), w (write), m (make)."""

    allow: bool = True
    kind: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def render(self) -> str:
        """As version 1's files take it, and Docker's ``--device-cgroup-rule``."""
        major, minor = ("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {self.access}"

    @property
    def is_everything(self) -> bool:
        """Whether it is about every device and every access."""
        return self.kind == "a" and self.major is None and self.minor is None and set(self.access) == {"r", "w", "m"}


def _character(major: int, minor: int | None) -> DeviceRule:
    return DeviceRule(kind="c", major=major, minor=minor)


DEFAULT_DEVICE_RULES = (
    DeviceRule(allow=False),
    DeviceRule(kind="c", access="m"),
    DeviceRule(kind="b", access="m"),
    _character(1, 3),  # null
    _character(1, 5),  # zero
    _character(1, 7),  # full
    _character(1, 8),  # random
    _character(1, 9),  # urandom
    _character(5, 0),  # tty
    _character(5, 1),  # console
    _character(5, 2),  # ptmx
    _character(136, None),  # pts
)

ALL_DEVICES = (DeviceRule(),)
"""What ``--privileged`` means."""


def parse_device_rule(text: str) -> DeviceRule:
    """``c 13:* rwm``, Docker's ``--device-cgroup-rule``. Raises `UsageError` (code ``bad-device-rule``)."""
    words = text.split(" ")
    numbers = words[1].split(":") if len(words) == 3 else []
    good = (
        len(numbers) == 2
        and words[0] in ("a", "b", "c")
        and all(each == "*" or (each.isascii() and each.isdigit() and len(each) < 8) for each in numbers)
        and 0 < len(words[2]) == len(set(words[2])) <= len(_ACCESS)
        and set(words[2]) <= set(_ACCESS)
    )
    if not good:
        raise UsageError(
            f"invalid device cgroup format '{text}'",
            code="bad-device-rule",
            remedy="TYPE MAJOR:MINOR ACCESS, for example 'c 13:* rwm'",
        )
    major, minor = (None if each == "*" else int(each) for each in numbers)
    return DeviceRule(kind=words[0], major=major, minor=minor, access=words[2])


def is_allowed(rules: Sequence[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """What the program answers: the last rule about the device and the access decides, and without one it is no."""
    for rule in reversed(rules):
        if rule.kind not in ("a", kind) or rule.major not in (None, major) or rule.minor not in (None, minor):
            continue
        if rule.allow and set(access) <= set(rule.access):
            return True
        if not rule.allow and set(access) & set(rule.access):
            return False
    return False


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def compile_device_program(rules: Sequence[DeviceRule]) -> bytes:
    """The program for version 2: 1 for yes, 0 for no, from kind, access and numbers of the device (``struct bpf_cgroup_dev_ctx``)."""
    program = [
        _instruction(_LOAD_WORD, 2, 1, 0),  # r2: kind, below the access that is wanted
        _instruction(_MOVE_32, 3, 2),
        _instruction(_AND_VALUE, 2, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, 3, value=16),
        _instruction(_LOAD_WORD, 4, 1, 4),  # r4, r5: major, minor
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    answered = False
    for rule in reversed(rules):
        mask = sum(_ACCESS[letter] for letter in set(rule.access))
        tests: list[tuple[int, int, int]] = []  # (jump, register, value): past this rule
        if rule.kind != "a":
            tests.append((_JUMP_UNEQUAL, 2, _KINDS[rule.kind]))
        tests += [
            (_JUMP_UNEQUAL, register, number) for register, number in ((4, rule.major), (5, rule.minor)) if number is not None
        ]
        answer = [_instruction(_MOVE_VALUE, 0, value=int(rule.allow)), _instruction(_EXIT)]
        if mask != _EVERYTHING:
            looked = [
                _instruction(_MOVE_32, 1, 3),
                _instruction(_AND_VALUE, 1, value=_EVERYTHING & ~mask if rule.allow else mask),
            ]
            answer = [*looked, _instruction(_JUMP_UNEQUAL if rule.allow else _JUMP_EQUAL, 1, offset=2), *answer]
        for index, (jump, register, number) in enumerate(tests):
            program.append(_instruction(jump, register, offset=len(tests) - index - 1 + len(answer), value=number))
        program += answer
        if not tests and mask == _EVERYTHING:
            answered = True
            break  # the kernel takes no program with instructions that are never reached
    if not answered:
        program += [_instruction(_MOVE_VALUE, 0, value=0), _instruction(_EXIT)]
    return b"".join(program)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(
        syscalls.libc.syscall(ctypes.c_long(_BPF), ctypes.c_int(command), ctypes.byref(buffer), ctypes.c_uint(len(attributes)))
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf: {os.strerror(number)}")
    return result


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII", _PROGRAM_TYPE_DEVICE, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0
    )
    try:
        return _bpf(_PROG_LOAD, attributes)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        with contextlib.suppress(OSError, ValueError):  # before Linux 5.11 programs count as locked memory
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return _bpf(_PROG_LOAD, attributes)


def attach_device_program(directory: str, rules: Sequence[DeviceRule]) -> None:
    """Have the kernel ask about every device that a process of a version 2 group opens or makes. It goes with the group."""
    program = _load(compile_device_program(rules))
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _bpf(_PROG_ATTACH, struct.pack("=IIII", group, program, _ATTACH_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(group)
    finally:
        os.close(program)


def write_device_rules(directory: str, rules: Iterable[DeviceRule]) -> None:
    """Set the rules of a version 1 group. What the group above may not, cannot be allowed; that is no error, it is less."""
    for rule in rules:
        text = "a" if rule.is_everything else rule.render()
        descriptor = os.open(f"{directory}/devices.{'allow' if rule.allow else 'deny'}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        except PermissionError:
            if not rule.allow:
                raise
        finally:
            os.close(descriptor)


def restrict_devices(places: Sequence[tuple[int, str, bool]], rules: Sequence[DeviceRule]) -> None:
    """Set the rules on a container's groups: (version, directory, whether version 1's devices are there). Raises `HostError` (code
    ``device-rules-refused``) where none of them can hold them: a container without them could open any device of the machine."""
    if tuple(rules) == ALL_DEVICES:
        return
    first = [directory for version, directory, devices in places if version == 1 and devices]
    second = [directory for version, directory, _ in places if version == 2]
    try:
        if first:
            write_device_rules(first[0], rules)
            return
        if second:
            attach_device_program(second[0], rules)
            return
    except OSError as error:
        raise HostError(
            "the machine's devices cannot be kept from a container without a user namespace",
            call="bpf" if not first else "write",
            path=(first or second)[0],
            errno=error.errno or 0,
            code="device-rules-refused",
            remedy="leave out --userns=host",
        ) from error
    raise HostError(
        "no control group can keep the machine's devices from a container without a user namespace: neither version 1's devices nor "
        "version 2 is mounted",
        code="device-rules-refused",
        remedy="leave out --userns=host, or mount one of them",
    )
