"""Flags of ``run``, ``start``, ``exec`` and ``attach`` that say how the caller's terminal and signals are joined to a container."""

from __future__ import annotations

import argparse
import sys

from contain.annotations import TYPE_CHECKING
from contain.errors import UsageError

if TYPE_CHECKING:
    from contain.container.terminal.joined import Joined

_STREAMS = ("stdin", "stdout", "stderr")


def add_detach_keys_argument(parser: argparse.ArgumentParser) -> None:
    """``--detach-keys``."""
    parser.add_argument(
        "--detach-keys", default="", metavar="KEYS", help="let go of its terminal and leave it running (default ctrl-p,ctrl-q)"
    )


def add_signal_argument(parser: argparse.ArgumentParser) -> None:
    """``--sig-proxy``."""
    parser.add_argument("--sig-proxy", action="store_true", default=True, help="pass signals on (default)")
    parser.add_argument("--no-sig-proxy", dest="sig_proxy", action="store_false", help=argparse.SUPPRESS)


def add_attachment_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them, for ``run``."""
    parser.add_argument(
        "-a", "--attach", action="append", default=[], metavar="STREAM", help="only this one of stdin, stdout and stderr"
    )
    add_detach_keys_argument(parser)
    add_signal_argument(parser)


def parse_joined(options: argparse.Namespace, *, stdin: bool) -> Joined:
    """``--attach``, ``--detach-keys``, ``--sig-proxy``. Raises `UsageError`."""
    from contain.container.terminal.detach_keys import parse_detach_keys
    from contain.container.terminal.joined import Joined

    streams = [str(name).lower() for name in getattr(options, "attach", None) or ()]
    for name in streams:
        if name not in _STREAMS:
            raise UsageError(
                f'invalid argument "{name}" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR',
                code="bad-arguments",
            )
    if streams and getattr(options, "detach", False):
        raise UsageError("Conflicting options: -a and -d", code="bad-arguments")
    return Joined(
        stdin=("stdin" in streams if streams else stdin),
        stdout=not streams or "stdout" in streams,
        stderr=not streams or "stderr" in streams,
        keys=parse_detach_keys(options.detach_keys),
        signals=getattr(options, "sig_proxy", True),
    )


def tell_detached() -> int:
    """What Docker says when somebody lets go of a container; the exit status."""
    sys.stderr.write("read escape sequence\n")
    return 0
