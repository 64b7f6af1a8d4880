"""``contain unshare``: a program inside the user namespace of an ordinary user's containers, where the store's files have owners."""

from __future__ import annotations

import argparse
import os
import signal

from contain.errors import NotFound


def add_unshare_arguments(parser: argparse.ArgumentParser) -> None:
    """podman's, as far as they go (podman-unshare(1))."""
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM [ARGUMENT ...]", help="default: your shell")


def unshare(options: argparse.Namespace) -> int:
    """Become the program. As root there is nothing to enter."""
    arguments = options.program[1:] if options.program[:1] == ["--"] else options.program
    arguments = arguments or [os.environ.get("SHELL") or "/bin/sh"]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        raise NotFound(f"{arguments[0]}: {os.strerror(error.errno or 0)}", code="no-such-program") from error
