"""The way in: find the command, parse its arguments, call it, and turn errors into messages and exit statuses.

Only the chosen command's module is imported, so that ``contain --version`` and ``contain ps`` answer at once.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from contain import __version__
from contain.cli.arguments import COMMANDS, NOUNS, REFUSED, Parser, suggest_command
from contain.errors import ContainError, NotSupported, UsageError
from contain.home import needs_door

_INTERRUPTED = 130


def _usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = ["Usage: contain COMMAND [OPTIONS]", "", "A daemonless container engine, and the environments of your tests.", ""]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items() if command.group == group]
        lines += [f"{group}:", *rows, ""]
    lines += [
        "Run 'contain COMMAND --help' for what a command takes.",
        f"Docker's groups work too: {', '.join(NOUNS)}.",
        "",
    ]
    return "\n".join(lines)


def _noun_usage(noun: str) -> str:
    width = max(map(len, NOUNS[noun]))
    rows = [f"  {verb:<{width}}  {COMMANDS[target[0]].summary}" for verb, target in sorted(NOUNS[noun].items())]
    return "\n".join([f"Usage: contain {noun} COMMAND [OPTIONS]", "", "Commands:", *rows, ""])


def _resolve(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name and its arguments; ``contain container ls`` is ``contain ps``."""
    first, rest = arguments[0], list(arguments[1:])
    if first in NOUNS:
        verbs = NOUNS[first]
        if not rest:
            raise UsageError(f"contain {first} needs one of: {', '.join(sorted(verbs))}", code="no-command")
        if rest[0] not in verbs:
            raise UsageError(
                f"contain {first}: no command {rest[0]!r}; there are {', '.join(sorted(verbs))}", code="unknown-command"
            )
        name, *more = verbs[rest[0]]
        return name, [*more, *rest[1:]]
    if first in REFUSED:
        raise NotSupported(f"contain {first} is not supported: {REFUSED[first]}", code="command-not-supported")
    if first not in COMMANDS:
        close = suggest_command(first)
        raise UsageError(
            f"contain: {first!r} is not a contain command",
            code="unknown-command",
            remedy=f"did you mean {close!r}?" if close else "`contain --help` lists them",
        )
    return first, rest


def run_command(arguments: Sequence[str]) -> int:
    """Carry out one command line; the exit status. Errors of ours propagate."""
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if arguments[0] == "__complete":
        from contain.cli.completion import answer

        return answer(arguments[1:])
    if arguments[0] in ("-v", "--version") or list(arguments) == ["version"]:
        sys.stdout.write(f"contain {__version__}\n")
        return 0
    if arguments[0] in NOUNS and arguments[1:2] in (["-h"], ["--help"]):
        sys.stdout.write(_noun_usage(arguments[0]))
        return 0
    name, rest = _resolve(arguments)
    command = COMMANDS[name]
    if sys.platform != "linux":
        from contain.host import refuse_other_systems

        refuse_other_systems()
    module = importlib.import_module(f"contain.cli.{command.module}")
    parser = Parser(prog=f"contain {name}", description=command.summary)
    getattr(module, f"add_{command.function.rstrip('_')}_arguments")(parser)
    options = parser.parse_args(rest)
    options.command_line = rest
    if command.needs_root and needs_door():
        from contain.container.door import enter_store

        enter_store()
    status: int = getattr(module, command.function)(options)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Exit statuses: the command's own; 125 and 1 for errors of ours as in Docker, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup(1) is obeyed
        signal.signal(signal.SIGHUP, _terminate)
    try:
        status = run_command(arguments)
        sys.stdout.flush()
    except ContainError as error:
        sys.stdout.flush()
        sys.stderr.write(f"Error: {error}\n")
        return _error_status(arguments) if error.exit_status == ContainError.exit_status else error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("\n" if _ends_so(arguments) else "\ninterrupted\n")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader went away: say nothing at exit either
        return 141
    except OSError as error:
        sys.stderr.write(f"Error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}\n")
        return _error_status(arguments)
    except Exception as error:
        if os.environ.get("CONTAIN_DEBUG"):
            raise
        sys.stderr.write(f"Error: a fault of contain itself: {type(error).__name__}: {error}\n")
        sys.stderr.write("hint: CONTAIN_DEBUG=1 shows where; please report it\n")
        return _error_status(arguments)
    return status


def _ends_so(arguments: Sequence[str]) -> bool:
    """Whether the command is one that somebody ends with Ctrl-C."""
    try:
        return COMMANDS[_resolve(arguments)[0]].until_interrupted
    except (IndexError, ContainError):
        return False


def _error_status(arguments: Sequence[str]) -> int:
    """The exit status for an error before the command could decide one."""
    try:
        return COMMANDS[_resolve(arguments)[0]].error_status
    except (IndexError, ContainError):
        return 1


def _terminate(number: int, _: object) -> None:
    """SIGTERM, and SIGHUP of a terminal that is closed, unwind like Ctrl-C does, so that everything is cleaned up."""
    raise SystemExit(128 + number)
