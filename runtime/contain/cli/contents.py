"""``contain container diff``, ``export``, ``commit``: what containers hold."""

from __future__ import annotations

import argparse
import os
import sys

from contain.errors import UsageError


def add_container_diff_arguments(parser: argparse.ArgumentParser) -> None:
    """A name."""
    parser.add_argument("container", metavar="CONTAINER")


def container_diff(options: argparse.Namespace) -> int:
    """``A``, ``C`` or ``D`` and a path, a line each."""
    from contain.container.contents import read_changes, trees_of
    from contain.engine import Engine

    with Engine.open() as engine:
        records = engine.records
        for kind, path in read_changes(trees_of(records, records.find(options.container))):
            sys.stdout.write(f"{kind} {os.fsdecode(path).encode('utf-8', 'backslashreplace').decode()}\n")
    return 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-o", "--output", metavar="FILE", help="instead of standard output")
    parser.add_argument("container", metavar="CONTAINER")


def export(options: argparse.Namespace) -> int:
    """A tar archive of the whole root."""
    from contain.container.contents import export_pieces, trees_of
    from contain.engine import Engine
    from contain.store.durable import replaced

    if options.output is None and os.isatty(1):
        raise UsageError(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect", code="bad-output", remedy="-o FILE"
        )
    with Engine.open() as engine:
        pieces = export_pieces(trees_of(engine.records, engine.records.find(options.container)))
        if options.output is None:
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.buffer.flush()
            return 0
        with replaced(options.output) as file:
            file.writelines(pieces)
    return 0


def add_commit_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="shown by `contain history`")
    parser.add_argument("-a", "--author", default="", metavar="NAME", help="for example 'Ann <ann@example.org>'")
    parser.add_argument(
        "-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="a Dockerfile's, for example 'CMD [\"sh\"]'"
    )
    parser.add_argument("-p", "--pause", action="store_true", default=True, help="hold the container meanwhile (default)")
    parser.add_argument("--no-pause", dest="pause", action="store_false", help=argparse.SUPPRESS)
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("name", nargs="?", metavar="NAME[:TAG]")


def commit(options: argparse.Namespace) -> int:
    """Print the new image's digest."""
    from contain.engine import Engine

    with Engine.open() as engine:
        image = engine.commit(
            engine.records.find(options.container),
            options.name,
            message=options.message,
            author=options.author,
            changes=options.change,
            pause=options.pause,
        )
        sys.stdout.write(f"{image.digest}\n")
    return 0
