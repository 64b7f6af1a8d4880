"""The console script. Answers at once what can be answered at once, before anything heavy is imported; else starts the command line."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # `typing` takes a few milliseconds to import
if TYPE_CHECKING:
    from typing import NoReturn  # noqa: TID251 - nothing is imported for this


def program() -> NoReturn:
    """`contain.cli.main.main`, and then the end at once: to take a Python apart takes longer than to start a container."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_closed_streams()
    gc.set_threshold(100_000, 20, 50)  # what modules make at their import is no garbage, and one look at all of it takes 4 ms
    status = _answer_at_once(sys.argv[1:])
    if status is None:
        from contain.cli.main import main

        status = main()
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib is not imported yet
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


def _open_closed_streams() -> None:
    """A caller's ``>&-``: the null device takes the place, or the next file that is opened would get what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115 - it stays open


def _answer_at_once(arguments: list[str]) -> int | None:
    """The exit status, or None where it takes more."""
    if arguments in (["--version"], ["-v"], ["version"]):
        from contain import __version__

        sys.stdout.write(f"contain {__version__}\n")
        return 0
    if arguments[:1] == ["oci"]:
        from contain.oci_runtime.program import run_oci

        return run_oci(arguments[1:])
    command = arguments[1:] if arguments[:1] == ["image"] else arguments
    if command[:1] == ["build"]:
        from contain.build.cache.replay import replay

        if replay(command[1:]):
            return 0
    return None


if __name__ == "__main__":
    program()
