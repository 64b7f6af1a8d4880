"""How things look on a terminal: tables, sizes, ages, and progress. Writes; decides nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from contain.annotations import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_REFRESH_SECONDS = 0.1


def replace_file(name: str | Path, data: bytes) -> None:
    """Write a file in one step: the old content or the new one, whenever this is interrupted. Raises `OSError`."""
    from contain.store.durable import replaced

    with replaced(name) as file:
        file.write(data)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, three blanks between them."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines) + "\n"


def render_size(size_bytes: int) -> str:
    """Decimal units, as Docker shows sizes: ``12.3MB``."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            return f"{value:.3g}{unit}" if value < 999.5 else f"{value:.0f}{unit}"
        value /= 1000
    raise AssertionError


def render_age(seconds: float) -> str:
    """``5 minutes``, ``About an hour``: how long, in the largest fitting unit and Docker's words (docker/go-units, HumanDuration)."""
    if seconds < 1:
        return "Less than a second"
    for unit, length, least in (
        ("year", 31536000, 2 * 31536000),
        ("month", 2592000, 60 * 86400),
        ("week", 604800, 14 * 86400),
        ("day", 86400, 48 * 3600),
        ("hour", 3600, 2 * 3600),
    ):
        if seconds >= least:
            return f"{int(seconds // length)} {unit}s"
    if seconds >= 3600:
        return "About an hour"
    if seconds >= 120:
        return f"{int(seconds // 60)} minutes"
    if seconds >= 60:
        return "About a minute"
    return "1 second" if seconds < 2 else f"{int(seconds)} seconds"


class TerminalProgress:
    """Steps and notes as lines; a bar for bytes where the stream is a terminal. No threads: containers are forked meanwhile."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._refreshed = 0.0
        self._line_open = False
        self.said: list[str] = []

    def _say(self, text: str) -> None:
        self._end_bars()
        self.said.append(text)
        if self._line_open:
            self._stream.write("\n")
            self._line_open = False
        self._stream.write(text + "\n")
        self._stream.flush()

    def _end_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks = {}

    def step(self, title: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._say(title)

    def log(self, text: str) -> None:
        """The step's own output, as it comes."""
        if self._quiet:
            return
        self._end_bars()
        self._stream.write(text)
        self._stream.flush()
        self._line_open = bool(text) and not text.endswith("\n")

    def note(self, text: str) -> None:
        """An indented line."""
        if not self._quiet:
            self._say(f"  {text}")

    def warn(self, text: str) -> None:
        """Shown also when quiet."""
        self._say(f"warning: {text}")

    def amount(self, label: str, done: int, total: int | None) -> None:
        """A bar on a terminal, nothing elsewhere."""
        if self._quiet or not self._stream.isatty():
            return
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn())
            self._bars = Progress(*columns, console=Console(file=self._stream), auto_refresh=False, transient=True)
            self._bars.start()
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total)
        self._bars.update(self._tasks[label], completed=done, total=total)
        now = time.monotonic()
        if now - self._refreshed > _REFRESH_SECONDS or done == total:
            self._bars.refresh()
            self._refreshed = now

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._end_bars()
