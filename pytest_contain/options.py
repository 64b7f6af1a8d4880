"""Where each option of pytest is obeyed when tests run in containers: a table, and the splitting of a command line by it.

Decides only. An option that is in no table belongs to a plugin or to a conftest file: it goes to the worker, and if the host knows
it too (a plugin that is installed on both sides, or only here), the worker may not know it and leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from contain.errors import NotSupported, UsageError


class Place(Enum):
    """Who obeys an option."""

    HOST = "host"  # the controller: reporting, caches, choosing, stopping
    WORKER = "worker"  # the pytest inside: collecting and running; the host's parser may see it, and does not act
    BOTH = "both"
    REFUSED = "refused"


PLACES: Mapping[str, Place] = {
    # choosing: the worker sees the values, because conftest files read them, and leaves the deciding to the host
    "-k": Place.BOTH,
    "-m": Place.BOTH,
    "--deselect": Place.HOST,
    "--lf": Place.HOST,
    "--last-failed": Place.HOST,
    "--ff": Place.HOST,
    "--failed-first": Place.HOST,
    "--nf": Place.HOST,
    "--new-first": Place.HOST,
    "--lfnf": Place.HOST,
    "--last-failed-no-failures": Place.HOST,
    "--sw": Place.HOST,
    "--stepwise": Place.HOST,
    "--sw-skip": Place.HOST,
    "--stepwise-skip": Place.HOST,
    "--sw-reset": Place.HOST,
    "--stepwise-reset": Place.HOST,
    "--cache-show": Place.HOST,
    "--cache-clear": Place.HOST,
    # stopping: subtests look at maxfail inside a test
    "-x": Place.BOTH,
    "--exitfirst": Place.BOTH,
    "--maxfail": Place.BOTH,
    # collecting
    "--collect-only": Place.BOTH,
    "--collectonly": Place.BOTH,
    "--co": Place.BOTH,
    "--pyargs": Place.WORKER,
    "--ignore": Place.WORKER,
    "--ignore-glob": Place.WORKER,
    "--confcutdir": Place.WORKER,
    "--noconftest": Place.WORKER,
    "--keep-duplicates": Place.WORKER,
    "--keepduplicates": Place.WORKER,
    "--collect-in-virtualenv": Place.WORKER,
    "--continue-on-collection-errors": Place.BOTH,
    "--import-mode": Place.WORKER,
    "--doctest-modules": Place.WORKER,
    "--doctest-report": Place.WORKER,
    "--doctest-glob": Place.WORKER,
    "--doctest-ignore-import-errors": Place.WORKER,
    "--doctest-continue-on-failure": Place.WORKER,
    # running
    "--runxfail": Place.WORKER,
    "--capture": Place.WORKER,
    "-s": Place.WORKER,
    "--basetemp": Place.WORKER,
    "--lsof": Place.WORKER,
    "--runpytest": Place.WORKER,
    "--assert": Place.WORKER,
    "-W": Place.WORKER,
    "--pythonwarnings": Place.WORKER,
    "--log-level": Place.WORKER,
    "--log-format": Place.WORKER,
    "--log-date-format": Place.WORKER,
    "--log-cli-level": Place.WORKER,
    "--log-cli-format": Place.WORKER,
    "--log-cli-date-format": Place.WORKER,
    "--log-auto-indent": Place.WORKER,
    "--log-disable": Place.WORKER,
    "--log-file": Place.REFUSED,
    "--log-file-mode": Place.REFUSED,
    "--log-file-level": Place.WORKER,
    "--log-file-format": Place.WORKER,
    "--log-file-date-format": Place.WORKER,
    # configuration
    "-c": Place.BOTH,
    "--config-file": Place.BOTH,
    "--rootdir": Place.BOTH,
    "-o": Place.BOTH,
    "--override-ini": Place.BOTH,
    "-p": Place.BOTH,
    "--disable-plugin-autoload": Place.BOTH,
    "--strict": Place.BOTH,
    "--strict-config": Place.BOTH,
    "--strict-markers": Place.BOTH,
    # tracebacks are made inside, where the frames are
    "--tb": Place.BOTH,
    "-l": Place.BOTH,
    "--showlocals": Place.BOTH,
    "--no-showlocals": Place.BOTH,
    "--full-trace": Place.BOTH,
    "--fulltrace": Place.BOTH,
    "-v": Place.BOTH,
    "--verbose": Place.BOTH,
    "-q": Place.BOTH,
    "--quiet": Place.BOTH,
    "--verbosity": Place.BOTH,
    # reporting
    "--color": Place.HOST,
    "--code-highlight": Place.HOST,
    "-r": Place.HOST,
    "--report-chars": Place.HOST,
    "--no-header": Place.HOST,
    "--no-summary": Place.HOST,
    "--no-fold-skipped": Place.HOST,
    "--force-short-summary": Place.HOST,
    "--disable-warnings": Place.HOST,
    "--disable-pytest-warnings": Place.HOST,
    "--max-warnings": Place.HOST,
    "--xfail-tb": Place.HOST,
    "--show-capture": Place.HOST,
    "--pastebin": Place.HOST,
    "--junit-xml": Place.HOST,
    "--junitxml": Place.HOST,
    "--junit-prefix": Place.HOST,
    "--junitprefix": Place.HOST,
    "--durations": Place.HOST,
    "--durations-min": Place.HOST,
    "--debug": Place.HOST,
    "--trace-config": Place.HOST,
    "--traceconfig": Place.HOST,
    "-h": Place.HOST,
    "--help": Place.HOST,
    "-V": Place.HOST,
    "--version": Place.HOST,
    # not yet
    "--pdb": Place.REFUSED,
    "--pdbcls": Place.REFUSED,
    "--trace": Place.REFUSED,
    "--setup-only": Place.REFUSED,
    "--setuponly": Place.REFUSED,
    "--setup-show": Place.REFUSED,
    "--setupshow": Place.REFUSED,
    "--setup-plan": Place.REFUSED,
    "--setupplan": Place.REFUSED,
    "--fixtures": Place.REFUSED,
    "--funcargs": Place.REFUSED,
    "--fixtures-per-test": Place.REFUSED,
    "--markers": Place.REFUSED,
    # coverage is measured in the process that runs a test, and would be lost with its container
    "--cov": Place.REFUSED,
    "--no-cov": Place.HOST,
    "--cov-report": Place.HOST,
    "--cov-config": Place.HOST,
    "--cov-append": Place.HOST,
    "--cov-branch": Place.HOST,
    "--cov-context": Place.HOST,
    "--cov-fail-under": Place.HOST,
    "--no-cov-on-fail": Place.HOST,
    "--cov-precision": Place.HOST,
    "--cov-reset": Place.HOST,
    # pytest-xdist: ``-n`` is ours here, and nothing is distributed
    "-n": Place.HOST,
    "--numprocesses": Place.HOST,
    "--maxprocesses": Place.HOST,
    "--max-worker-restart": Place.HOST,
    "--dist": Place.HOST,
    "--loadscope-reorder": Place.HOST,
    "--no-loadscope-reorder": Place.HOST,
    "--testrunuid": Place.HOST,
    "--maxschedchunk": Place.HOST,
    "--tx": Place.REFUSED,
    "--px": Place.REFUSED,
    "-d": Place.HOST,
    "--distload": Place.HOST,
    "--rsyncdir": Place.REFUSED,
    "--rsyncignore": Place.REFUSED,
    "-f": Place.REFUSED,
    "--looponfail": Place.REFUSED,
    # report writers that read what the terminal reads
    "--html": Place.HOST,
    "--self-contained-html": Place.HOST,
    "--css": Place.HOST,
    "--json-report": Place.HOST,
    "--json-report-file": Place.HOST,
    "--report-log": Place.HOST,
}
"""Every option of pytest itself and of the plugins that need a decision, by each of its names."""

REASONS: Mapping[str, str] = {
    "--pdb": "a debugger needs the container's terminal; run the test with plain pytest, or 'contain run -it'",
    "--trace": "a debugger needs the container's terminal",
    "--log-file": "a file written in a container goes away with it",
    "--cov": "add --no-cov to run without it",
    "--tx": "tests run in containers of this machine",
    "--looponfail": "each test runs in its own container",
}

XDIST_OPTIONS = frozenset({
    "-n", "--numprocesses", "--maxprocesses", "--max-worker-restart", "--dist", "--loadscope-reorder", "--no-loadscope-reorder",
    "--testrunuid", "--maxschedchunk", "-d", "--distload",
})  # fmt: skip
"""Taken out of what the host's parser sees, so that an installed pytest-xdist stays idle."""

PLUGINS_OF_THE_HOST = frozenset(
    {"contain", "no:contain", "pytest_contain", "pytest_contain.plugin", "xdist", "no:xdist", "xdist.plugin"}
)
"""Arguments of ``-p`` that mean nothing inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionShape:
    """How many arguments an option takes: 0, 1, or ``?``, ``*``, ``+`` as argparse has them."""

    arity: str
    from_core: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTokens:
    """Neighbouring tokens of a command line that belong together. ``optional_name``: the worker may leave them out if it does not
    know an option of that name."""

    tokens: tuple[str, ...]
    optional_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitArguments:
    """A command line, split."""

    host: tuple[str, ...]
    worker: tuple[WorkerTokens, ...]
    processes: str | None  # the argument of ``-n``


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    name: str | None  # None: a positional argument
    tokens: tuple[str, ...]
    value: str | None = None


def _pieces(arguments: Sequence[str], shapes: Mapping[str, OptionShape]) -> Iterable[_Piece]:
    """Group tokens as argparse would: an option with its arguments, a cluster of short options taken apart."""
    position = 0
    while position < len(arguments):
        token = arguments[position]
        position += 1
        if token == "--":  # noqa: S105
            yield from (_Piece(name=None, tokens=(rest,)) for rest in arguments[position:])
            return
        if len(token) < 2 or not token.startswith("-"):
            yield _Piece(name=None, tokens=(token,))
            continue
        name, equals, value = token.partition("=")
        if name in shapes or token.startswith("--"):
            shape = shapes.get(name)
            if equals or shape is None or shape.arity == "0":
                yield _Piece(name=name, tokens=(token,), value=value if equals else None)
                continue
            taken = _taken(arguments[position:], shape.arity)
            position += taken
            following = tuple(arguments[position - taken : position])
            yield _Piece(name=name, tokens=(token, *following), value=following[0] if following else None)
            continue
        letters = token[1:]
        while letters:
            name = f"-{letters[0]}"
            shape = shapes.get(name)
            if shape is not None and shape.arity == "0":
                yield _Piece(name=name, tokens=(name,))
                letters = letters[1:]
            elif letters[1:]:
                yield _Piece(name=name, tokens=(f"-{letters}",), value=letters[1:].removeprefix("="))
                break
            else:
                taken = _taken(arguments[position:], shape.arity if shape else "0")
                position += taken
                following = tuple(arguments[position - taken : position])
                yield _Piece(name=name, tokens=(name, *following), value=following[0] if following else None)
                break


def _taken(following: Sequence[str], arity: str) -> int:
    if arity == "0":
        return 0
    if arity == "1":
        return min(1, len(following))
    count = 0
    for token in following:
        if token.startswith("-") or (arity == "?" and count):
            break
        count += 1
    return count


def split_arguments(arguments: Sequence[str], shapes: Mapping[str, OptionShape]) -> SplitArguments:
    """Who gets which part of a full command line (ini ``addopts`` included).

    ``shapes``: the options that the host's parser knows. Raises `NotSupported` for a refused option, `UsageError` for a bad ``-n``.
    """
    host: list[str] = []
    worker: list[WorkerTokens] = []
    processes: str | None = None
    for piece in _pieces(arguments, shapes):
        if piece.name is None:
            worker.append(WorkerTokens(tokens=piece.tokens))
            host.extend(piece.tokens)
            continue
        shape = shapes.get(piece.name)
        place = PLACES.get(piece.name)
        ours = piece.name == "--in-container" or piece.name.startswith("--contain-")
        if piece.name == "--cov" and "--no-cov" in arguments:
            continue
        if place is Place.REFUSED:
            raise NotSupported(
                f"{piece.name} does not work with --in-container yet",
                code="option-not-supported",
                remedy=REASONS.get(piece.name, ""),
            )
        if piece.name in ("-n", "--numprocesses"):
            processes = piece.value or ""
        if shape is not None and piece.name not in XDIST_OPTIONS:
            host.extend(piece.tokens)
        if ours or place is Place.HOST:
            continue
        if piece.name == "-p" and piece.value in PLUGINS_OF_THE_HOST:
            continue
        optional = piece.name if place is None and shape is not None else None
        worker.append(WorkerTokens(tokens=piece.tokens, optional_name=optional))
    return SplitArguments(host=tuple(host), worker=tuple(worker), processes=processes)


def parse_processes(text: str | None, *, available: int) -> int:
    """How many tests run at one time: the argument of ``-n``; ``auto`` and ``logical`` are the processors that we may use."""
    if text is None:
        return 1
    if text in ("auto", "logical"):
        return max(1, available)
    if not text.isdigit():
        raise UsageError(f"-n {text}: not a number", code="bad-processes", remedy="write a number, or 'auto'")
    return max(1, int(text))
