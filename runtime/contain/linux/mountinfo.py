"""Paths as the kernel writes them in ``/proc/PID/mountinfo`` (proc(5)). Pure, and light to import."""

from __future__ import annotations


def unescape_mount(path: str) -> str:
    """``\\\\040`` and the like as the characters that they stand for: blanks, tabs, line ends and backslashes."""
    first, *rest = path.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else f"\\{part}" for part in rest)
