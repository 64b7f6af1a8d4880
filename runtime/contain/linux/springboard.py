"""The last file that a process of ours executes before a container's program: a program of a hundred bytes that only executes another.

Why: while a process becomes the container's program, the container may reach the file that it executes, through ``/proc/PID/exe`` or
by having itself executed as the interpreter of a script (CVE-2019-5736). Without a user namespace its root could then overwrite the
machine's Python. So the process first executes this: a sealed memory file (memfd_create(2)), which nobody can change.

It executes its first argument with the rest of them and its environment; if that fails, it writes the errno, four bytes, to the given
descriptor, which it sets to close on success, and exits with 127. Source of the encoding: elf(5), syscall(2), syscalls(2).
"""

from __future__ import annotations

import fcntl
import os
import struct

_BASE = 0x400000
_HEADERS = 64 + 56 + 56
_MFD_EXEC = 0x10  # Linux 6.3; before, every memory file can be executed
_F_ADD_SEALS, _EVERY_SEAL = 1033, 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_MOST_DESCRIPTOR = 0xFFFF


def _code_x86_64(descriptor: int) -> bytes:
    number = struct.pack("<I", descriptor)
    return b"".join(
        (
            b"\xb8\x48\x00\x00\x00",  # mov eax, 72           fcntl(
            b"\xbf" + number,  # mov edi, descriptor          descriptor,
            b"\xbe\x02\x00\x00\x00",  # mov esi, 2            F_SETFD,
            b"\xba\x01\x00\x00\x00",  # mov edx, 1            FD_CLOEXEC)
            b"\x0f\x05",  # syscall
            b"\x48\x8b\x0c\x24",  # mov rcx, [rsp]            argc
            b"\x48\x8d\x54\xcc\x10",  # lea rdx, [rsp+rcx*8+16]  environment
            b"\x48\x8b\x7c\x24\x08",  # mov rdi, [rsp+8]      the first argument
            b"\x48\x8d\x74\x24\x10",  # lea rsi, [rsp+16]     the others
            b"\xb8\x3b\x00\x00\x00",  # mov eax, 59           execve
            b"\x0f\x05",  # syscall
            b"\xf7\xd8",  # neg eax                           errno
            b"\x50",  # push rax
            b"\x48\x89\xe6",  # mov rsi, rsp
            b"\xbf" + number,  # mov edi, descriptor
            b"\xba\x04\x00\x00\x00",  # mov edx, 4
            b"\xb8\x01\x00\x00\x00",  # mov eax, 1            write
            b"\x0f\x05",  # syscall
            b"\xbf\x7f\x00\x00\x00",  # mov edi, 127
            b"\xb8\xe7\x00\x00\x00",  # mov eax, 231          exit_group
            b"\x0f\x05",  # syscall
        )
    )


def _code_aarch64(descriptor: int) -> bytes:
    set_descriptor = 0x52800000 | descriptor << 5  # mov w0, descriptor
    return struct.pack(
        "<23I",
        set_descriptor,
        0x52800041,  # mov w1, 2                 F_SETFD
        0x52800022,  # mov w2, 1                 FD_CLOEXEC
        0x52800328,  # mov w8, 25                fcntl
        0xD4000001,  # svc 0
        0xF94003E3,  # ldr x3, [sp]              argc
        0x8B236FE2,  # add x2, sp, x3, lsl 3
        0x91004042,  # add x2, x2, 16            environment
        0xF94007E0,  # ldr x0, [sp, 8]           the first argument
        0x910043E1,  # add x1, sp, 16            the others
        0x52801BA8,  # mov w8, 221               execve
        0xD4000001,  # svc 0
        0x4B0003E0,  # neg w0, w0                errno
        0xF81F0FE0,  # str x0, [sp, -16]!
        0x910003E1,  # mov x1, sp
        set_descriptor,
        0x52800082,  # mov w2, 4
        0x52800808,  # mov w8, 64                write
        0xD4000001,  # svc 0
        0x52800FE0,  # mov w0, 127
        0x52800BC8,  # mov w8, 94                exit_group
        0xD4000001,  # svc 0
        0xD503201F,  # nop
    )


_CODE = {"x86_64": (62, _code_x86_64), "aarch64": (183, _code_aarch64)}


def render_springboard(machine: str, descriptor: int) -> bytes:
    """The program's file for an architecture (as uname(2) says it). Raises KeyError for one without code, ValueError for a descriptor
    that does not fit."""
    if not 0 <= descriptor <= _MOST_DESCRIPTOR:
        raise ValueError(f"descriptor {descriptor}")
    number, code_of = _CODE[machine]
    code = code_of(descriptor)
    size = _HEADERS + len(code)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 0),  # 64 bits, little endian, version 1
        *(2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 2, 64, 0, 0),  # ET_EXEC; two program headers
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, read and execute
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK: not executable
    return header + load + stack + code


def open_springboard(descriptor: int) -> int:
    """A read-only descriptor of the sealed program, which closes at exec. Raises OSError."""
    image = render_springboard(os.uname().machine, descriptor)
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        memory = os.memfd_create("contain", flags | _MFD_EXEC)
    except OSError:
        memory = os.memfd_create("contain", flags)
    try:
        os.write(memory, image)
        os.fchmod(memory, 0o555)
        fcntl.fcntl(memory, _F_ADD_SEALS, _EVERY_SEAL)
        return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)  # what is open for writing cannot be executed
    finally:
        os.close(memory)
