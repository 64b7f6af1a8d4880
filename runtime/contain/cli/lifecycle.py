"""``contain start``, ``restart``, ``rename``, ``attach``: containers that are on record already."""

from __future__ import annotations

import argparse
import os
import sys

from contain.cli.attachment import add_detach_keys_argument, add_signal_argument, parse_joined, tell_detached
from contain.cli.names import each_name
from contain.errors import UsageError


def add_start_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-a", "--attach", action="store_true", help="show its output, and end with its exit status")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on, and show its output")
    add_detach_keys_argument(parser)
    add_signal_argument(parser)
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def start(options: argparse.Namespace) -> int:
    """As it was made, with what it wrote before."""
    from contain.container.lifecycle.verbs import start_detached, start_foreground
    from contain.engine import Engine

    attached = options.attach or options.interactive
    if attached and len(options.containers) > 1:
        raise UsageError("you cannot start and attach multiple containers at once", code="bad-arguments")
    with Engine.open() as engine:
        records = engine.records
        if attached:
            record = records.find(options.containers[0])
            options.attach = []
            joined = parse_joined(options, stdin=options.interactive)
            state = start_foreground(records, record, home=engine.run_home, joined=joined)
            return tell_detached() if state is None else state.status
        return each_name(options.containers, lambda name: start_detached(records, records.find(name), home=engine.run_home))


def add_restart_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    from contain.cli.containers import add_grace_arguments

    add_grace_arguments(parser)
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")


def restart(options: argparse.Namespace) -> int:
    """Stop it if it runs, and start it."""
    from contain.cli.containers import parse_grace
    from contain.container.lifecycle.verbs import restart_container
    from contain.engine import Engine

    seconds, number = parse_grace(options)
    with Engine.open() as engine:
        records, home = engine.records, engine.run_home
        return each_name(
            options.containers,
            lambda name: restart_container(records, records.find(name), home=home, grace_seconds=seconds, number=number),
        )


def add_rename_arguments(parser: argparse.ArgumentParser) -> None:
    """Two names."""
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("name", metavar="NEW_NAME")


def rename(options: argparse.Namespace) -> int:
    """Its host name and id stay."""
    from contain.container.request.resolve import check_name
    from contain.engine import Engine

    if not options.name:
        raise UsageError("neither old nor new names may be empty", code="bad-container-name")
    with Engine.open() as engine:
        record = engine.records.find(options.container)
        engine.records.rename(record, check_name(options.name))
        if record.state == "running":
            from contain.container.network.connecting import rename as rename_on_networks

            rename_on_networks(record.container_id, options.name, home=engine.run_home)
    return 0


def add_attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("--no-stdin", action="store_true", help="do not pass standard input on")
    add_detach_keys_argument(parser)
    add_signal_argument(parser)
    parser.add_argument("container", metavar="CONTAINER")


def attach(options: argparse.Namespace) -> int:
    """What it prints from now on, and what is typed; ends with its exit status."""
    from contain.container.lifecycle.states import Event
    from contain.container.processes import decide_for
    from contain.container.terminal.foreground import attach_to
    from contain.engine import Engine

    joined = parse_joined(options, stdin=not options.no_stdin)
    with Engine.open() as engine:
        records = engine.records
        record = records.find(options.container)
        decide_for(record, Event.ATTACH)
        takes_input = joined.stdin and record.details.get("interactive") and record.details.get("terminal")
        if takes_input and not os.isatty(0):
            raise UsageError(
                "the input device is not a TTY",
                code="no-terminal",
                remedy="give --no-stdin",
            )
        state = attach_to(records, record, joined=joined)
    return tell_detached() if state is None else state.status


def add_system_start_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing but the help."""
    parser.description = (
        "Start each container with --restart always, and with unless-stopped if nobody stopped it: after a boot."
    )


def system_start(options: argparse.Namespace) -> int:
    """Print the name of each container that was started. 1 if one of them could not be."""
    from contain.container.lifecycle.verbs import come_back
    from contain.engine import Engine

    del options
    failed = 0
    with Engine.open() as engine:
        for name, error in come_back(engine.records, home=engine.run_home):
            if error is None:
                sys.stdout.write(f"{name}\n")
            else:
                sys.stderr.write(f"Error: {name}: {error}\n")
                failed = 1
    return failed
