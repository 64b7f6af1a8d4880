"""``contain container diff``, ``cp``, ``export``, ``commit``: what containers hold."""

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
    from contain.container.files.contents import read_changes, trees_of
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
    from contain.container.files.contents import export_pieces, trees_of
    from contain.engine import Engine
    from contain.store.durable import replaced

    if options.output is None and os.isatty(1):
        raise UsageError(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect", code="bad-output", remedy="-o FILE"
        )
    with Engine.open() as engine:
        record = engine.records.find(options.container)
        pieces = export_pieces(trees_of(engine.records, record))
        engine.records.tell(record, "export")
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


def add_cp_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.usage = (
        "contain cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       contain cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
    )
    parser.add_argument("-a", "--archive", action="store_true", help="owners too, and set-id bits")
    parser.add_argument("-L", "--follow-link", action="store_true", help="what a link at the end of SRC_PATH leads to")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of it")
    parser.add_argument("source", metavar="SRC_PATH", help="CONTAINER:PATH, PATH, or - for a tar archive from standard input")
    parser.add_argument("target", metavar="DEST_PATH", help="CONTAINER:PATH, PATH, or - for a tar archive to standard output")


def cp(options: argparse.Namespace) -> int:
    """Says how much it was, on a terminal."""
    from contain.cli.output import render_size
    from contain.container.files.copy_root import open_root
    from contain.container.files.copy_rules import check_addresses, parse_address
    from contain.container.files.copying import copy_in, copy_out
    from contain.engine import Engine

    source, target = parse_address(options.source), parse_address(options.target)
    check_addresses(source, target)
    name = source.container if source.container is not None else target.container
    how = {"follow": options.follow_link, "archive": options.archive}

    def warn(text: str) -> None:
        sys.stderr.write(f"warning: {text}\n")

    with Engine.open() as engine:
        record = engine.records.find(name or "")
        out = source.container is not None
        if out and target.path == "-" and os.isatty(1):
            raise UsageError(
                "refusing to write an archive to a terminal", code="bad-output", remedy="redirect it, or name a path"
            )
        with open_root(engine.records, record, home=engine.run_home, writing=not out) as root:
            if out:
                to = sys.stdout.buffer if target.path == "-" else target.path
                size = copy_out(root, record.name, source.path, to, warn=warn, **how)
            else:
                given = sys.stdin.buffer if source.path == "-" else source.path
                size = copy_in(root, record.name, given, target.path, warn=warn, **how)
        engine.records.tell(record, "archive-path" if out else "extract-to-dir")
    if not options.quiet and os.isatty(1) and target.path != "-":
        where = options.target if target.container is not None else os.path.abspath(target.path)
        sys.stderr.write(f"Successfully copied {render_size(size)} to {where}\n")
    return 0
