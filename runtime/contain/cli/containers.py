"""``contain ps``, ``logs``, ``stop``, ``kill``, ``wait``, ``rm``: containers on record."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from contain.annotations import TYPE_CHECKING
from contain.cli.names import each_name
from contain.cli.output import render_table
from contain.cli.ports import exposed_ports, find_ports, network_names, read_bridges, render_ports
from contain.errors import ContainError, NotFound

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord, Records
    from contain.engine import Engine
    from contain.linux.leases import NetworkRecord


def add_ps_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("-n", "--last", type=int, default=-1, metavar="N", help="the last N made, in whatever state")
    parser.add_argument("-l", "--latest", action="store_true", help="the last one made, in whatever state")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help="for example status=exited")
    parser.add_argument("--format", metavar="TEMPLATE", help="json, table, or a template such as '{{.Names}} {{.Status}}'")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids and commands")
    parser.add_argument("-s", "--size", action="store_true", help="how much they wrote")


def ps(options: argparse.Namespace) -> int:
    """A table, newest first."""
    from contain.cli import container_listing as listing
    from contain.cli.inspecting import container_sizes
    from contain.cli.templates import render_rows
    from contain.container.processes import is_paused
    from contain.engine import Engine

    filters = listing.parse_filters(options.filter)
    with_sizes = options.size or ".Size" in (options.format or "")
    with Engine.open() as engine:
        records = engine.records
        images = []
        for name in filters.get("ancestor", ()):
            with suppress(NotFound):
                images.append(engine.store.find_image(name).digest)
        known = _networks_meant(engine, filters.get("network", ()))
        bridges = read_bridges(engine.run_home)
        seen = [
            listing.Seen(
                record=record,
                paused=is_paused(record),
                ports=_ports_of(engine, record, bridges),
                networks=network_names(record),
                health=_health_word(records, record),
                sizes=container_sizes(engine, record) if with_sizes else None,
            )
            for record in records.all()
        ]
        chosen = listing.select_containers(
            seen,
            filters,
            everything=options.all,
            last=1 if options.latest else options.last,
            before=[records.find(name).created_seconds for name in filters.get("before", ())],
            since=[records.find(name).created_seconds for name in filters.get("since", ())],
            images=images,
            networks=known,
        )
    now = time.time()
    rows = [listing.container_row(each, now=now, whole=options.no_trunc) for each in chosen]
    if options.quiet:
        sys.stdout.writelines(f"{row['ID']}\n" for row in rows)
    elif options.format is None or options.format == "table":
        headings = {**listing.CONTAINER_HEADINGS, **({"Size": "SIZE"} if options.size else {})}
        sys.stdout.write(render_table([*headings.values()], [[str(row[field]) for field in headings] for row in rows]))
    else:
        sys.stdout.write(render_rows(options.format, rows, headings=listing.ALL_HEADINGS))
    return 0


def _health_word(records: Records, record: ContainerRecord) -> str:
    if record.state != "running" or not record.details.get("health"):
        return ""
    from contain.container.lifecycle.health import read_health

    health = read_health(records.place(record.container_id))
    return "starting" if health is None else health.status


def _ports_of(engine: Engine, record: ContainerRecord, bridges: Sequence[NetworkRecord]) -> str:
    if record.state != "running":
        return ""
    exposed = exposed_ports(record) if record.details.get("network") == "bridge" else ()
    return render_ports(find_ports(record, engine.run_home, bridges), exposed)


def _networks_meant(engine: Engine, wanted: tuple[str, ...]) -> list[str]:
    """The names of the networks that the filter ``network`` means, by name or id."""
    if not wanted:
        return []
    from contain.cli.networks import find_network

    found = []
    for text in wanted:
        with suppress(NotFound):
            found.append(find_network(engine, text).name)
    return found


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("-n", "--tail", default="all", metavar="N", help="the last N lines only")
    parser.add_argument("-t", "--timestamps", action="store_true", help="the time before each line")
    parser.add_argument("--details", action="store_true", help="what the log's options add to a line: nothing but a blank here")
    parser.add_argument("--since", metavar="TIME", help="only from then on: a time, or how long ago (10m)")
    parser.add_argument("--until", metavar="TIME", help="only up to then: a time, or how long ago (10m)")
    parser.add_argument("container", metavar="CONTAINER")


def write_raw(stream: str, text: str) -> None:
    """What a container printed, to the standard stream of the same name, byte for byte."""
    from contain.container.lifecycle.logs import to_bytes

    target = sys.stderr if stream == "stderr" else sys.stdout
    target.flush()
    target.buffer.write(to_bytes(text))
    target.flush()


def logs(options: argparse.Namespace) -> int:
    """Standard output to standard output, standard error to standard error."""
    from contain.cli.container_listing import Piece, join_lines, parse_moment, parse_tail, render_moment
    from contain.container.lifecycle.logs import read_log_batches
    from contain.engine import Engine

    now = time.time()
    since = None if options.since is None else parse_moment(options.since, flag="since", now=now)
    until = None if options.until is None else parse_moment(options.until, flag="until", now=now)
    tail = parse_tail(options.tail)
    rest: dict[str, tuple[float, str]] = {}

    def show(pieces: list[Piece]) -> None:
        for stream, moment, text in pieces:
            shown = f" {text}" if options.details else text
            write_raw(stream, f"{render_moment(moment)} {shown}" if options.timestamps else shown)

    with Engine.open() as engine:
        records = engine.records
        for batch in read_log_batches(records, records.find(options.container), follow=options.follow):
            pieces = [piece for piece in batch if (since is None or piece[1] >= since) and (until is None or piece[1] <= until)]
            if tail is not None:  # of the first batch, which is all that there was
                pieces = [*join_lines(pieces, rest), *((stream, *begun) for stream, begun in rest.items())]
                pieces, tail = pieces[-tail:] if tail else [], None
                rest.clear()
            elif options.timestamps or options.details:
                pieces = list(join_lines(pieces, rest))
            show(pieces)
            if until is not None and time.time() > until:
                break
        show([(stream, *begun) for stream, begun in rest.items()])
    return 0


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


def parse_grace(options: argparse.Namespace) -> tuple[float | None, int | None]:
    """The grace time in seconds (below 0: no end; None: the container's own), and a signal or None."""
    from contain.container.request.resolve import parse_signal

    seconds = None if options.timeout is None else float(options.timeout)
    return seconds, None if options.signal is None else parse_signal(options.signal)


def add_stop_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    add_grace_arguments(parser)
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def stop(options: argparse.Namespace) -> int:
    """The stop signal, then SIGKILL."""
    from contain.container.lifecycle.verbs import stop_container
    from contain.engine import Engine

    seconds, number = parse_grace(options)
    with Engine.open() as engine:
        records = engine.records
        return each_name(
            options.containers,
            lambda name: stop_container(records, records.find(name), grace_seconds=seconds, number=number),
        )


def add_kill_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-s", "--signal", default="KILL", metavar="SIGNAL", help="name or number (default KILL)")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def kill(options: argparse.Namespace) -> int:
    """A signal to the first process."""
    from contain.container.lifecycle.verbs import signal_container
    from contain.container.request.resolve import parse_signal
    from contain.engine import Engine

    number = parse_signal(options.signal)
    with Engine.open() as engine:
        records = engine.records
        return each_name(options.containers, lambda name: signal_container(records.find(name), number, records))


def add_wait_arguments(parser: argparse.ArgumentParser) -> None:
    """Names."""
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def wait(options: argparse.Namespace) -> int:
    """Print each exit status when it has ended. 1 if one of them could not be told."""
    from contain.container.lifecycle.verbs import wait_for_status
    from contain.engine import Engine

    failed = 0
    with Engine.open() as engine:
        records = engine.records
        found = []
        for name in options.containers:
            try:
                found.append(records.find(name))
            except ContainError as error:
                sys.stderr.write(f"Error: {error}\n")
                failed = 1
        with ExitStack() as ends:  # of all of them at once: one that is waited for later may end, and go, before
            waiting = [ends.enter_context(wait_for_status(records, record)) for record in found]
            for read_status in waiting:
                sys.stdout.write(f"{read_status()}\n")
                sys.stdout.flush()
    return failed


def add_rm_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--force", action="store_true", help="kill it first if it runs")
    parser.add_argument("-v", "--volumes", action="store_true", help="its volumes without a name too")
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def rm(options: argparse.Namespace) -> int:
    """Record, log, and what it wrote."""
    from contain.container.lifecycle.verbs import remove_container
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records

        def remove(name: str) -> None:
            record = records.find(name)
            remove_container(records, record, force=options.force)
            if options.volumes:
                engine.volumes.remove_anonymous(record.details, engine.volume_users)

        return each_name(options.containers, remove)
