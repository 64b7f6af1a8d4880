"""``contain pause``, ``unpause``, ``top``, ``stats``: the processes of running containers."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress

from contain.annotations import TYPE_CHECKING
from contain.cli.names import each_name
from contain.cli.output import render_size, render_table
from contain.errors import Conflict, HostError, NotFound, UsageError

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord, Records
    from contain.container.processes import ProcessRow, Usage

_SAMPLE_SECONDS = 0.5
_CLEAR = "\x1b[H\x1b[J"  # to the upper left corner, and nothing behind it
STATS_HEADINGS = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}


def add_pause_arguments(parser: argparse.ArgumentParser) -> None:
    """Names."""
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def pause(options: argparse.Namespace) -> int:
    """Hold every process still."""
    from contain.container.processes import pause as pause_container
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records

        def hold(name: str) -> None:
            record = records.find(name)
            pause_container(record)
            records.tell(record, "pause")

        return each_name(options.containers, hold)


add_unpause_arguments = add_pause_arguments


def unpause(options: argparse.Namespace) -> int:
    """Let them go on."""
    from contain.container.processes import unpause as unpause_container
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records

        def let_go(name: str) -> None:
            record = records.find(name)
            unpause_container(record)
            records.tell(record, "unpause")

        return each_name(options.containers, let_go)


def add_top_arguments(parser: argparse.ArgumentParser) -> None:
    """A name, and options of this machine's ps(1)."""
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="ps OPTIONS", help="of ps(1): other columns")


def top(options: argparse.Namespace) -> int:
    """What ``ps -ef`` shows of this container's processes, with this machine's numbers."""
    from contain.container.processes import read_processes
    from contain.engine import Engine

    with Engine.open() as engine:
        record = engine.records.find(options.container)
        rows = read_processes(record)
        engine.records.tell(record, "top")
    if options.options:
        sys.stdout.write(select_rows(_run_ps(options.options), {row.process_id for row in rows}))
        return 0
    header = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
    sys.stdout.write(render_table(header, [_process_cells(row, time.time()) for row in rows]))
    return 0


def _run_ps(words: list[str]) -> str:
    import subprocess

    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, errors="backslashreplace", check=False)
    except FileNotFoundError as error:
        raise HostError(
            "there is no program ps on this machine", code="program-missing", remedy="leave out its options"
        ) from error
    if done.returncode:
        said = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
        raise UsageError(f"ps: {said.removeprefix('error: ')}", code="bad-arguments")
    return done.stdout


def select_rows(text: str, numbers: set[int]) -> str:
    """Of what ps(1) printed, the headings and the rows of these processes. `UsageError` where it shows no numbers of processes."""
    heading, *lines = text.splitlines() or [""]
    names = heading.split()
    if "PID" not in names:
        raise UsageError("Couldn't find PID field in ps output", code="bad-arguments", remedy="ask ps for the column PID, too")
    place = names.index("PID")
    chosen = []
    for line in lines:
        words = line.split(None, place + 1)
        if len(words) > place and words[place].isdigit() and int(words[place]) in numbers:
            chosen.append(line)
    return "\n".join([heading, *chosen]) + "\n"


def _process_cells(row: ProcessRow, now: float) -> tuple[str, ...]:
    import pwd

    try:
        user = pwd.getpwuid(row.user_id).pw_name
    except KeyError:
        user = str(row.user_id)
    age = max(now - row.started_seconds, 1e-6)
    minutes, seconds = divmod(int(row.processor_seconds), 60)
    terminal = "?" if row.terminal == 0 else f"pts/{row.terminal & 0xFF | row.terminal >> 12 & 0xFFF00}"
    return (
        user,
        str(row.process_id),
        str(row.parent_id),
        str(min(99, int(100 * row.processor_seconds / age))),
        time.strftime("%H:%M" if age < 86400 else "%b%d", time.localtime(row.started_seconds)),
        terminal,
        f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}",
        row.command.replace("\n", " "),
    )


def add_stats_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--all", action="store_true", help="also containers that do not run")
    parser.add_argument("--no-stream", action="store_true", help="once")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids")
    parser.add_argument("--format", metavar="TEMPLATE", help="json, table, or a template such as '{{.Name}} {{.MemUsage}}'")
    parser.add_argument("containers", nargs="*", metavar="CONTAINER")


def stats(options: argparse.Namespace) -> int:
    """What containers use, measured over half a second: again and again until it is interrupted, or once."""
    from contain.cli.templates import check_template, render_rows
    from contain.engine import Engine

    check_template(options.format)
    with Engine.open() as engine:
        known = engine.records
        for name in options.containers:
            known.find(name)
        on_screen = sys.stdout.isatty() and not options.no_stream
        while True:
            records = _chosen(known, options)
            before = [_usage(record) for record in records]
            if any(before) or not options.no_stream:
                time.sleep(_SAMPLE_SECONDS)
            rows = [
                render_usage(record, first, _usage(record), whole=options.no_trunc)
                for record, first in zip(records, before, strict=True)
            ]
            shown = render_rows(options.format or "table", rows, headings=STATS_HEADINGS)
            sys.stdout.write(f"{_CLEAR}{shown}" if on_screen else shown)
            sys.stdout.flush()
            if options.no_stream:
                return 0


def _chosen(known: Records, options: argparse.Namespace) -> list[ContainerRecord]:
    """Those that were named, as long as they are there, or all that run."""
    every = known.all()
    if not options.containers:
        return [record for record in every if options.all or record.state == "running"]
    found = []
    for name in options.containers:
        with suppress(NotFound):
            found.append(known.find(name))
    return found


def _usage(record: ContainerRecord) -> Usage | None:
    from contain.container.processes import read_usage

    try:
        return read_usage(record)
    except Conflict:
        return None


def _binary_size(size_bytes: int) -> str:
    """``1.5MiB``: memory is told in powers of two."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g}{unit}"
        value /= 1024
    return f"{value:.4g}TiB"


def render_usage(record: ContainerRecord, before: Usage | None, now: Usage | None, *, whole: bool) -> dict[str, object]:
    """The fields of one row; of a container that does not run, what Docker shows then."""
    row: dict[str, object] = {
        "Container": record.container_id if whole else record.container_id[:12],
        "ID": record.container_id if whole else record.container_id[:12],
        "Name": record.name,
    }
    if before is None or now is None:
        return row | {
            "CPUPerc": "0.00%",
            "MemUsage": "0B / 0B",
            "MemPerc": "0.00%",
            "NetIO": "0B / 0B",
            "BlockIO": "0B / 0B",
            "PIDs": "0",
        }
    seconds = max(now.at_seconds - before.at_seconds, 1e-6)
    used = max(0.0, now.processor_seconds - before.processor_seconds)
    memory, limit = now.memory_bytes, now.memory_limit_bytes
    return row | {
        "CPUPerc": f"{100 * used / seconds:.2f}%",
        "MemUsage": f"{'--' if memory is None else _binary_size(memory)} / {_binary_size(limit)}",
        "MemPerc": "--" if memory is None or not limit else f"{100 * memory / limit:.2f}%",
        "NetIO": f"{render_size(now.received_bytes)} / {render_size(now.sent_bytes)}",
        "BlockIO": f"{render_size(now.read_bytes)} / {render_size(now.written_bytes)}",
        "PIDs": str(now.processes),
    }
