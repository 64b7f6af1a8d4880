"""What a test prints and leaves: capture files of its own, sections that stay readable, the processes that still run.

Knows nothing of the session or the controller. Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import Any

LONGEST_SECTION = 1 << 20  # characters of captured output kept per section of a report


def shorten(text: str) -> str:
    """A report's section, cut in the middle if it is enormous."""
    if len(text) <= LONGEST_SECTION:
        return text
    half = LONGEST_SECTION // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def flush_streams() -> None:
    """What the test printed must not be lost with the process; a stream that the test broke is the test's own affair."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def other_processes() -> list[str]:
    """What runs in this container besides its init and this process: one command line each."""
    own = {1, os.getpid()}
    found = []
    with open("/proc/self/cmdline", "rb") as file:
        own_words = file.read(400)
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) in own:
                continue
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    command, _, rest = file.read(400).partition(b"(")[2].rpartition(b")")
                if rest.split()[0] in (b"Z", b"X"):  # proc(5): over already
                    continue
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read(400)
                if words == own_words:
                    found.append("a fork of the test")
                else:
                    found.append((words.replace(b"\0", b" ").strip() or command).decode("utf-8", "replace"))
    return found[:20]


def fresh_file() -> int:
    """An empty file that needs no directory, or at least no name."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.memfd_create("contain-output")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def bound_snap(capture: Any) -> None:
    """Never read more of a captured file into memory than a report will hold."""
    original = capture.snap

    def snap() -> Any:
        try:
            number = capture.tmpfile.fileno()
            size = os.fstat(number).st_size
        except (OSError, ValueError, AttributeError):
            return original()
        if size <= 4 * LONGEST_SECTION:
            return original()
        half = LONGEST_SECTION // 2 - 100  # room for the note, or it would be cut out again
        head, tail = os.pread(number, half, 0), os.pread(number, half, size - half)
        capture.tmpfile.seek(0)
        capture.tmpfile.truncate()
        return f"\n[... {size - 2 * half} bytes left out ...]\n".join(part.decode("utf-8", "replace") for part in (head, tail))

    with contextlib.suppress(AttributeError):
        capture.snap = snap
