"""Whether programs of a platform can be executed here: natively, or by an interpreter that the kernel was told of. Pure, and a reader.

The kernel compares a program's first bytes with what is registered in binfmt_misc; an interpreter with the flag ``F`` was opened when
it was registered, and works in containers, too. Source: the kernel's ``Documentation/admin-guide/binfmt-misc.rst``; elf(5).
"""

from __future__ import annotations

import os
import struct

from contain.oci import Platform
from contain.paths import HostPath
from contain.values import dataclass

PLACE = HostPath("/proc/sys/fs/binfmt_misc")

# architecture: (32 or 64 bits, big endian, e_machine of elf(5))
_MACHINES = {
    "386": (32, False, 3),
    "amd64": (64, False, 62),
    "arm": (32, False, 40),
    "arm64": (64, False, 183),
    "loong64": (64, False, 258),
    "mips64le": (64, False, 8),
    "ppc64le": (64, False, 21),
    "riscv64": (64, False, 243),
    "s390x": (64, True, 22),
}
_NATIVE_TOO = {("amd64", "386")}
"""(machine, program): what the processor and the kernel execute without help."""
_EXECUTABLE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """One registration. ``fixed``: its flag ``F``."""

    path: str
    enabled: bool
    fixed: bool
    offset: int
    magic: bytes
    mask: bytes

    def takes(self, header: bytes) -> bool:
        """Whether the kernel would give a program that begins so to this interpreter."""
        part = header[self.offset : self.offset + len(self.magic)]
        if not self.magic or len(part) < len(self.magic):
            return False
        mask = self.mask or b"\xff" * len(self.magic)
        return all((seen ^ wanted) & bits == 0 for seen, wanted, bits in zip(part, self.magic, mask, strict=True))


def elf_header(platform: Platform) -> bytes | None:
    """The first bytes of an executable of that platform; None for one that is not known."""
    known = _MACHINES.get(platform.architecture) if platform.os == "linux" else None
    if known is None:
        return None
    bits, big, machine = known
    identification = b"\x7fELF" + bytes([2 if bits == 64 else 1, 2 if big else 1, 1]) + bytes(9)
    return identification + struct.pack(">HHI" if big else "<HHI", _EXECUTABLE, machine, 1) + bytes(104)


def parse_registration(text: str) -> Interpreter | None:
    """The text of one file of binfmt_misc; None for what is not compared by a program's bytes."""
    lines = text.splitlines()
    values = dict(line.partition(" ")[::2] for line in lines[1:])
    try:
        if "magic" not in values:
            return None
        return Interpreter(
            path=values.get("interpreter", ""),
            enabled=lines[0] == "enabled",
            fixed="F" in values.get("flags:", ""),
            offset=int(values.get("offset", "0")),
            magic=bytes.fromhex(values["magic"]),
            mask=bytes.fromhex(values.get("mask", "")),
        )
    except ValueError:
        return None


def read_interpreters(place: HostPath = PLACE) -> tuple[Interpreter, ...]:
    """What is registered on this machine; nothing where binfmt_misc is not mounted."""
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return ()
    found = []
    for name in names:
        if name not in ("register", "status"):
            try:
                interpreter = parse_registration((place / name).read_text())
            except OSError:
                continue
            if interpreter is not None:
                found.append(interpreter)
    return tuple(found)


def can_execute(platform: Platform, machine: Platform, interpreters: tuple[Interpreter, ...] = ()) -> bool:
    """Whether a machine executes programs of ``platform``."""
    if platform.os != machine.os:
        return False
    if platform.architecture == machine.architecture or (machine.architecture, platform.architecture) in _NATIVE_TOO:
        return True
    header = elf_header(platform)
    return header is not None and any(each.enabled and each.fixed and each.takes(header) for each in interpreters)
