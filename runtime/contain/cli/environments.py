"""``contain diff`` and ``contain capture``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from contain.cli.output import TerminalProgress, replace_file
from contain.errors import ContainError

_PLACES = "an environment of pyproject.toml, an image, `host`, or a file that `contain capture` wrote"


def add_diff_arguments(parser: argparse.ArgumentParser) -> None:
    """Two places, or as Docker has it, a container."""
    parser.add_argument("a", metavar="A", help=_PLACES)
    parser.add_argument(
        "b", nargs="?", metavar="B", help="the other one; without it, A is a container: what it changed in its image"
    )
    parser.add_argument("--format", choices=("terminal", "json"), default="terminal", help="how to show it (default terminal)")
    parser.add_argument("--all", action="store_true", help="everything, however long")


def diff(options: argparse.Namespace) -> int:
    """Exit status: 0 identical, 1 different, 2 usage or collection error, 3 not fully comparable."""
    from contain.engine import Engine
    from contain.environment import render_json, render_terminal

    if options.b is None:
        from contain.cli.contents import container_diff

        return container_diff(argparse.Namespace(container=options.a))
    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            found = engine.diff(options.a, options.b)
        finally:
            progress.close()
    if options.format == "json":
        sys.stdout.write(render_json(found))
    else:
        width = shutil.get_terminal_size((120, 40)).columns
        sys.stdout.write(
            render_terminal(found, width=width, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ, all=options.all)
        )
    return found.exit_status


def add_capture_arguments(parser: argparse.ArgumentParser) -> None:
    """A place and a file."""
    parser.add_argument("place", metavar="X", help=_PLACES)
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write (default: standard output)")


def capture(options: argparse.Namespace) -> int:
    """The facts as JSON, for a later `contain diff` anywhere."""
    from contain.engine import Engine
    from contain.environment import dump_environment

    progress = TerminalProgress()
    with Engine.open(progress=progress) as engine:
        try:
            data = dump_environment(engine.capture(options.place))
        finally:
            progress.close()
    if options.output is None:
        sys.stdout.buffer.write(data)
        return 0
    try:
        replace_file(options.output, data)
    except OSError as error:
        raise ContainError(f"cannot write {options.output}: {error.strerror}", code="cannot-write") from error
    return 0
