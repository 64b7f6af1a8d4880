"""Reads the small notations inside Dockerfile arguments: durations, sizes, ports, file modes, signals.

Pure: text to value. Each function takes text whose variables are already expanded, and raises `UsageError` (``bad-value``) that shows
the text and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
import signal

from contain.errors import SourceSpan, UsageError
from contain.values import dataclass

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign
    "\u03bcs": 1_000,  # the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_MAX_NANOSECONDS = 2**63 - 1
MIN_INTERVAL_NANOSECONDS = 1_000_000
"""The shortest interval that a health check may have, other than 0."""

_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?) ?([kmgtp]?)(i?)(b?)", re.IGNORECASE)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def _bad(what: str, text: str, remedy: str, span: SourceSpan | None) -> UsageError:
    return UsageError(f"invalid {what} {text!r}", code="bad-value", remedy=remedy, span=span)


def _fraction(digits: str, unit: int) -> int:
    """The part of ``unit`` that the digits behind a decimal point mean, rounded down."""
    return int(digits[:18].ljust(18, "0")) * unit // 10**18


def parse_duration_nanoseconds(text: str, *, span: SourceSpan | None = None) -> int:
    """A duration as Go's ``time.ParseDuration`` reads it: ``1h30m``, ``1.5s``, ``300ms``, ``0``. Never more than about 292 years."""
    remedy = "write a number and a unit: 30s, 1m30s, 500ms"
    sign, digits = (-1 if text.startswith("-") else 1), text[1:] if text[:1] in ("+", "-") else text
    if digits == "0":
        return 0
    total, position = 0, 0
    while position < len(digits):
        match = _DURATION_PART.match(digits, position)
        if match is None or not (match[1] or match[3]) or len(match[1]) > 19:
            raise _bad("duration", text, remedy, span)
        unit = _NANOSECONDS[match[4]]
        total += int(match[1] or "0") * unit + _fraction(match[3] or "", unit)
        position = match.end()
    if not digits or total > _MAX_NANOSECONDS:
        raise _bad("duration", text, remedy, span)
    return sign * total


def parse_interval_nanoseconds(text: str, *, span: SourceSpan | None = None) -> int:
    """A duration of ``HEALTHCHECK``: 0 (the default is meant) or at least one millisecond."""
    duration = parse_duration_nanoseconds(text, span=span)
    if duration and duration < MIN_INTERVAL_NANOSECONDS:
        raise _bad("interval", text, "it is 0, or at least 1ms", span)
    return duration


def parse_size_bytes(text: str, *, span: SourceSpan | None = None) -> int:
    """A size such as ``64m``, ``1.5GiB``, ``4096``; the units are powers of 1024, as everywhere in Docker."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise _bad("size", text, "write a number of bytes, or one with a unit: 64m, 1g", span)
    unit = 1024 ** ("kmgtp".find(match[2].lower()) + 1) if match[2] else 1
    whole, _, fraction = match[1].partition(".")
    return int(whole) * unit + _fraction(fraction, unit)


def parse_boolean(text: str, *, span: SourceSpan | None = None) -> bool:
    """As Go's ``strconv.ParseBool``: ``1 t T TRUE true True`` and their opposites."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _bad("boolean", text, "write true or false", span)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSpec:
    """What one argument of ``EXPOSE`` means.

    ``published``: an address and host port, which ``EXPOSE`` cannot honour; normally empty.
    """

    ports: tuple[str, ...]  # "80/tcp"
    published: str = ""


def parse_port_spec(text: str, *, span: SourceSpan | None = None) -> PortSpec:
    """One argument of ``EXPOSE``: ``80``, ``80/udp``, ``8000-8010/tcp``; ``[address:]host:container`` is understood and reported."""
    remedy = "write PORT, PORT/tcp, PORT/udp, PORT/sctp or FIRST-LAST"
    host, _, container = text.rpartition(":")
    numbers, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise _bad("port", text, remedy, span)
    first, last = _port_range(numbers, text, remedy, span)
    address, _, host_port = host.rpartition(":")
    if address:
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise _bad("port", text, remedy, span) from None
    if host_port:
        host_first, host_last = _port_range(host_port, text, remedy, span)
        if first != last and host_last - host_first != last - first:
            raise _bad("port", text, "both ranges must have the same length", span)
    return PortSpec(ports=tuple(f"{port}/{protocol}" for port in range(first, last + 1)), published=host)


def _port_range(numbers: str, text: str, remedy: str, span: SourceSpan | None) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", numbers)
    if match is None:
        raise _bad("port", text, remedy, span)
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if not first <= last <= 65535:
        raise _bad("port", text, "ports go from 0 to 65535, the first of a range is not above the last", span)
    return first, last


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeClause:
    """One step of a symbolic mode: for the classes in ``who``, ``+``, ``-`` or ``=`` of ``what``.

    ``what`` is some of ``rwxXst``, or one of ``ugo`` to copy from that class.
    """

    who: str
    operator: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChange:
    """What ``--chmod`` does to a file's permission bits: sets them (``absolute``), or changes them step by step."""

    absolute: int | None = None
    clauses: tuple[ModeClause, ...] = ()

    def apply(self, mode: int, *, is_directory: bool) -> int:
        """The new permission bits (12 of them) for a file that has ``mode``."""
        if self.absolute is not None:
            return self.absolute
        mode &= 0o7777
        for clause in self.clauses:
            mode = _changed(mode, clause, is_directory)
        return mode


_SHIFTS = {"u": 6, "g": 3, "o": 0}
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")


def parse_chmod(text: str, *, span: SourceSpan | None = None) -> ModeChange:
    """The value of ``--chmod``: octal up to 7777, or symbolic as in chmod(1), ``u=rwX,go=rX``.

    Without ``ugoa`` a clause is for all; there is no umask in it, which would make the image depend on the machine.
    """
    if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return ModeChange(absolute=int(text, 8))
    clauses = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise _bad("mode", text, "write it in octal (0755) or as for chmod (u=rwX,go=rX)", span)
        who = "ugo" if "a" in match[1] or not match[1] else match[1]
        clauses += [
            ModeClause(who=who, operator=action[0], what=action[1:]) for action in re.findall(r"[-+=][^-+=]*", match[2])
        ]
    return ModeChange(clauses=tuple(clauses))


def _changed(mode: int, clause: ModeClause, is_directory: bool) -> int:
    bits = affected = 0
    for who in "ugo":
        if who not in clause.who:
            continue
        shift = _SHIFTS[who]
        affected |= 0o7 << shift
        if clause.what in _SHIFTS:
            bits |= ((mode >> _SHIFTS[clause.what]) & 0o7) << shift
            continue
        for letter in clause.what:
            # X: execute, but only where it makes sense: a directory, or a file that somebody may execute already.
            if letter in "rwx" or (letter == "X" and (is_directory or mode & 0o111)):
                bits |= {"r": 4, "w": 2, "x": 1, "X": 1}[letter] << shift
            elif letter == "s" and who != "o":
                bits |= 0o4000 if who == "u" else 0o2000
    if "t" in clause.what:
        bits |= 0o1000
    if clause.operator == "+":
        return mode | bits
    if clause.operator == "-":
        return mode & ~bits
    # "=" replaces the classes' bits, and the set-id and sticky bits that belong to the classes named.
    special = (0o4000 if "u" in clause.who else 0) | (0o2000 if "g" in clause.who else 0) | (0o1000 if "o" in clause.who else 0)
    return (mode & ~(affected | special)) | bits


def parse_signal(text: str, *, span: SourceSpan | None = None) -> int:
    """A signal by number or name, with or without ``SIG``, in any case; ``RTMIN+3`` and ``RTMAX-1`` too."""
    remedy = "write a name or a number: SIGTERM, TERM, 15"
    if re.fullmatch(r"[0-9]{1,3}", text):
        number = int(text)
        if not 1 <= number <= 64:
            raise _bad("signal", text, "signals go from 1 to 64", span)
        return number
    name = text.upper().removeprefix("SIG")
    realtime = re.fullmatch(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", name)
    if realtime:
        # Docker numbers them as glibc shows them to programs: the kernel's 32 and 33 are taken by the thread library.
        offset = int(realtime[3] or "0") * (-1 if realtime[2] == "-" else 1)
        number = (34 if realtime[1] == "MIN" else 64) + offset
        if not 34 <= number <= 64:
            raise _bad("signal", text, remedy, span)
        return number
    found = signal.Signals.__members__.get("SIG" + name)
    if found is None:
        raise _bad("signal", text, remedy, span)
    return int(found)
