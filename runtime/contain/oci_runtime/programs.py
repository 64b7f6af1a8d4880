"""Find a container's program, from within: on its PATH, with its rights, and with what it needs to be executed. And its variables.

Runs in the process that is to become the program, below the container's root. Reads files of the image with a limit, and believes none.
"""

from __future__ import annotations

import contextlib
import errno
import os

from contain.errors import ContainError
from contain.runtime_spec.process import Process


class ProgramNotStarted(ContainError):
    """The container's program cannot be executed. The words are those that other engines read for their exit status."""

    code = "bundle-program"


def find_program(process: Process, environment: dict[str, str]) -> str:
    """The path that execvp(3) would take. Raises `ProgramNotStarted` in the words of other runtimes."""
    name = process.arguments[0]
    if not name:
        raise ProgramNotStarted('exec: "": executable file not found in $PATH')
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{place or '.'}/{name}" for place in environment.get("PATH", "").split(":") if environment.get("PATH")]
    why = ""
    for candidate in candidates:
        try:
            found = os.stat(candidate)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.ELOOP) or "/" in name:
                why = why or f"stat {candidate}: {os.strerror(error.errno or 0).lower()}"
            continue
        if found.st_mode & 0o170000 == 0o040000:
            why = why or "is a directory"
        elif not os.access(candidate, os.X_OK, effective_ids=True):
            why = why or "permission denied"
        else:
            why = _why_not_executable(candidate)
            if not why:
                return candidate
            break
    raise ProgramNotStarted(f'exec: "{name}": {why or "executable file not found in $PATH"}')


def _why_not_executable(path: str) -> str:
    """What execve(2) would say of a file that needs an interpreter or a loader, where that can be told; "" else. An engine learns it
    from ``create`` then, and not from a ``start`` that fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        head = os.read(descriptor, 4096)
        os.close(descriptor)
    except OSError:
        return ""  # it may be executed and not read
    needed = ""
    if head.startswith(b"#!"):
        words = head[2:256].partition(b"\n")[0].split()
        needed = os.fsdecode(words[0]) if words else ""
    elif head.startswith(b"\x7fELF"):
        if len(head) < 64:
            return os.strerror(errno.ENOEXEC).lower()
        needed = _loader_of(head)
    if needed and not os.path.exists(needed):
        return os.strerror(errno.ENOENT).lower()
    return ""


def _loader_of(head: bytes) -> str:
    """The PT_INTERP of a 64-bit little endian file (elf(5)), if it lies in its first page."""
    if head[4:6] != b"\x02\x01":
        return ""
    offset, size, count = (int.from_bytes(head[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2)))
    for number in range(count):
        entry = head[offset + number * size :][:56]
        if len(entry) == 56 and int.from_bytes(entry[:4], "little") == 3:
            start, length = (int.from_bytes(entry[at : at + 8], "little") for at in (8, 32))
            return os.fsdecode(head[start : start + length].rstrip(b"\0"))
    return ""


def environment_of(process: Process, extra: tuple[str, ...]) -> dict[str, str]:
    """A process's variables; of two of one name the last."""
    found: dict[str, str] = {}
    for pair in (*process.environment, *extra):
        name, _, value = pair.partition("=")
        found[name] = value
    return found


def add_home(environment: dict[str, str]) -> None:
    """HOME from the container's own /etc/passwd where nobody said it, as other runtimes do; read with a limit (CVE-2022-36109)."""
    if environment.get("HOME"):
        return
    environment["HOME"] = "/"
    with contextlib.suppress(OSError):
        descriptor = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        text = os.read(descriptor, 1 << 20).decode(errors="replace")
        os.close(descriptor)
        for line in text.splitlines():
            fields = line.split(":")
            if len(fields) >= 6 and fields[2] == str(os.geteuid()) and fields[5]:
                environment["HOME"] = fields[5]
                return
