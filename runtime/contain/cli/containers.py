"""``contain ps``, ``logs``, ``inspect``, ``stop``, ``kill``, ``wait``, ``rm``: containers on record."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from contain.cli.networks import describe_network, find_lease, render_ports
from contain.cli.output import render_age, render_table
from contain.errors import ContainError, NotFound, UsageError

if TYPE_CHECKING:
    from contain.container.records import ContainerRecord
    from contain.engine import Engine
    from contain.paths import HostPath

_COMMAND_WIDTH = 20


def each_container(names: list[str], action: Callable[[str], None]) -> int:
    """Do it for every name; an error of one does not stop the others. 1 if there was one."""
    status = 0
    for name in names:
        try:
            action(name)
        except ContainError as error:
            sys.stderr.write(f"Error: {error}\n")
            status = 1
        else:
            sys.stdout.write(f"{name}\n")
    return status


def _status(record: ContainerRecord) -> str:
    from contain.container.processes import is_paused

    now = time.time()
    match record.state:
        case "running" if record.started_seconds and is_paused(record):
            return f"Up {render_age(now - record.started_seconds)} (Paused)"
        case "running" if record.started_seconds:
            return f"Up {render_age(now - record.started_seconds)}"
        case "exited":
            ago = render_age(now - (record.finished_seconds or now))
            return f"Exited ({record.status}) {ago} ago" + (" (out of memory)" if record.out_of_memory else "")
        case "dead":
            return "Dead (its supervisor is gone)"
        case state:
            return state.capitalize()


def add_ps_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids and commands")


def ps(options: argparse.Namespace) -> int:
    """A table, newest first."""
    from contain.engine import Engine

    with Engine.open() as engine:
        records = [record for record in engine.records.all() if options.all or record.state == "running"]
    if options.quiet:
        for record in records:
            sys.stdout.write((record.container_id if options.no_trunc else record.container_id[:12]) + "\n")
        return 0
    rows = []
    for record in records:
        lease = find_lease(record, engine.run_home)
        command = '"' + " ".join(record.arguments).replace("\n", " ") + '"'
        if not options.no_trunc and len(command) > _COMMAND_WIDTH:
            command = command[: _COMMAND_WIDTH - 2] + '…"'
        rows.append(
            (
                record.container_id if options.no_trunc else record.container_id[:12],
                record.image_name,
                command,
                f"{render_age(time.time() - record.created_seconds)} ago",
                _status(record),
                render_ports(lease.ports) if lease else "",
                record.name,
            )
        )
    sys.stdout.write(render_table(("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"), rows))
    return 0


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("container", metavar="CONTAINER")


def logs(options: argparse.Namespace) -> int:
    """Standard output to standard output, standard error to standard error."""
    from contain.container.lifecycle import read_log
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records
        for stream, text in read_log(records, records.find(options.container), follow=options.follow):
            target = sys.stderr if stream == "stderr" else sys.stdout
            target.write(text)
            target.flush()
    return 0


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags; names of containers or images."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.Config.Cmd}}'")
    parser.add_argument("--type", choices=("container", "image"), help="look for one of these only")
    parser.add_argument("names", nargs="+", metavar="NAME")


def inspect(options: argparse.Namespace) -> int:
    """A JSON list."""
    from contain.engine import Engine

    with Engine.open() as engine:
        found = [_describe(engine, name, options.type) for name in options.names]
    if options.format in (None, "json"):
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    else:
        from contain.cli.templates import render_rows

        sys.stdout.write(render_rows(options.format, found, headings={}))
    return 0


def _describe(engine: Engine, name: str, kind: str | None) -> dict[str, object]:
    if kind != "image":
        with suppress(NotFound):
            return _describe_container(engine.records.find(name), engine.run_home)
    if kind != "container":
        with suppress(NotFound):
            return _describe_image(engine, name)
    raise NotFound(f"No such {kind or 'object'}: {name}", code="no-such-object")


def _describe_container(record: ContainerRecord, run_home: HostPath) -> dict[str, object]:
    from contain.container.processes import is_paused

    paused = is_paused(record)
    from contain.container.mounts import describe_mounts

    return {
        "Id": record.container_id,
        "Name": record.name,
        "Created": record.created_seconds,
        "Image": record.image_digest,
        "ImageName": record.image_name,
        "State": {
            "Status": "paused" if paused else record.state,
            "Running": record.state == "running",
            "Paused": paused,
            "Pid": record.process_id or 0,
            "ExitCode": record.status,
            "Signal": record.signal,
            "OOMKilled": record.out_of_memory,
            "Reason": record.reason,
            "StartedAt": record.started_seconds,
            "FinishedAt": record.finished_seconds,
        },
        "NetworkSettings": describe_network(record, run_home),
        "Mounts": describe_mounts(record.details),
        "Spec": record.details,
    }


def _describe_image(engine: Engine, name: str) -> dict[str, object]:
    from contain.cli.listing import image_document

    return image_document(*engine.look_at_image(name))


def add_grace_arguments(parser: argparse.ArgumentParser) -> None:
    """``-t`` and ``-s`` of ``stop`` and ``restart``."""
    parser.add_argument(
        "-t",
        "--timeout",
        "--time",
        type=int,
        default=None,
        metavar="SECONDS",
        help="before SIGKILL (default 10; -1: wait for ever)",
    )
    parser.add_argument("-s", "--signal", metavar="SIGNAL", help="instead of the container's stop signal")


def parse_grace(options: argparse.Namespace) -> tuple[float, int | None]:
    """The grace time in seconds (below 0: no end), and a signal or None."""
    from contain.container.lifecycle import GRACE_SECONDS
    from contain.container.resolve import parse_signal

    seconds = GRACE_SECONDS if options.timeout is None else float(options.timeout)
    return seconds, None if options.signal is None else parse_signal(options.signal)


def add_stop_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    add_grace_arguments(parser)
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def stop(options: argparse.Namespace) -> int:
    """The stop signal, then SIGKILL."""
    from contain.container.lifecycle import stop_container
    from contain.engine import Engine

    seconds, number = parse_grace(options)
    with Engine.open() as engine:
        records = engine.records
        return each_container(
            options.containers,
            lambda name: stop_container(records, records.find(name), grace_seconds=seconds, number=number),
        )


def add_kill_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="name or number (default KILL)")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def kill(options: argparse.Namespace) -> int:
    """A signal to the first process."""
    from contain.container.lifecycle import signal_container
    from contain.container.resolve import parse_signal
    from contain.engine import Engine

    number = parse_signal(options.signal)
    with Engine.open() as engine:
        records = engine.records
        return each_container(options.containers, lambda name: signal_container(records.find(name), number))


def add_wait_arguments(parser: argparse.ArgumentParser) -> None:
    """Names."""
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def wait(options: argparse.Namespace) -> int:
    """Print each exit status when it has ended."""
    from contain.container.lifecycle import wait_until_ended
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records
        for name in options.containers:
            record = records.find(name)
            wait_until_ended(records, record, None)
            try:
                latest = records.find(record.container_id)
            except NotFound:
                raise UsageError(f"{name} was removed when it ended (--rm): its status is gone", code="removed") from None
            sys.stdout.write(f"{_exit_status(latest)}\n")
    return 0


def _exit_status(record: ContainerRecord) -> int:
    """As Docker tells it: 0 before the first start; who went with its supervisor was killed."""
    if record.status is not None:
        return record.status
    return 137 if record.state == "dead" else 0


def add_rm_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="kill it first if it runs")
    parser.add_argument("-v", "--volumes", action="store_true", help="its volumes without a name too")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def rm(options: argparse.Namespace) -> int:
    """Record, log, and what it wrote."""
    from contain.container.lifecycle import remove_container
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records

        def remove(name: str) -> None:
            record = records.find(name)
            remove_container(records, record, force=options.force)
            if options.volumes:
                engine.volumes.remove_anonymous(record.details, engine.volume_users)

        return each_container(options.containers, remove)
