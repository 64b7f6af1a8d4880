"""The command line of OCI runtimes, as engines write it: options before and after the command, with one dash or two. Pure.

A parser of its own: engines call a runtime several times for each container, and this takes no import.
"""

from __future__ import annotations

from contain.errors import NotSupported, UsageError

FLAG, TEXT, MANY = "flag", "text", "many"

GLOBAL: dict[str, str] = {
    "root": TEXT,
    "log": TEXT,
    "log-format": TEXT,
    "log-level": TEXT,
    "cgroup-manager": TEXT,
    "debug": FLAG,
    "systemd-cgroup": FLAG,
    "help": FLAG,
    "version": FLAG,
}
_LAUNCH = {
    "bundle": TEXT,
    "pid-file": TEXT,
    "console-socket": TEXT,
    "no-pivot": FLAG,
    "no-new-keyring": FLAG,
    "preserve-fds": TEXT,
}
_UPDATE = (
    "blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime cpu-idle cpuset-cpus cpuset-mems memory "
    "memory-reservation memory-swap pids-limit"
)
COMMANDS: dict[str, dict[str, str]] = {
    "create": _LAUNCH,
    "run": {**_LAUNCH, "detach": FLAG, "keep": FLAG},
    "start": {},
    "state": {},
    "kill": {"all": FLAG},
    "delete": {"force": FLAG},
    "exec": {
        "process": TEXT,
        "detach": FLAG,
        "tty": FLAG,
        "env": MANY,
        "cwd": TEXT,
        "user": TEXT,
        "additional-gids": MANY,
        "cap": MANY,
        "no-new-privs": FLAG,
        "pid-file": TEXT,
        "console-socket": TEXT,
        "preserve-fds": TEXT,
    },
    "ps": {"format": TEXT},
    "list": {"format": TEXT, "quiet": FLAG},
    "pause": {},
    "resume": {},
    "update": {"resources": TEXT, **dict.fromkeys(_UPDATE.split(), TEXT)},
    "events": {"stats": FLAG, "interval": TEXT},
    "spec": {"bundle": TEXT, "rootless": FLAG},
    "features": {},
}
_SHORT: dict[str, dict[str, str]] = {
    "": {"h": "help", "v": "version"},
    "create": {"b": "bundle"},
    "run": {"b": "bundle", "d": "detach"},
    "kill": {"a": "all"},
    "delete": {"f": "force"},
    "exec": {"p": "process", "d": "detach", "t": "tty", "e": "env", "u": "user", "g": "additional-gids", "c": "cap"},
    "ps": {"f": "format"},
    "list": {"f": "format", "q": "quiet"},
    "update": {"r": "resources"},
    "spec": {"b": "bundle"},
}
_ELSEWHERE = {
    "checkpoint": "containers are not saved to files",
    "restore": "containers are not saved to files",
    "init": "the first process is no program of its own",
}


class Options:
    """What was given: by long name."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """One more."""
        self._given.setdefault(name, []).append(value)

    def flag(self, name: str) -> bool:
        """Whether it was given (and not as ``=false``)."""
        return self._given.get(name, ["false"])[-1] == "true"

    def text(self, name: str, default: str = "") -> str:
        """The last one."""
        return self._given.get(name, [default])[-1]

    def many(self, name: str) -> tuple[str, ...]:
        """All."""
        return tuple(self._given.get(name, ()))

    def number(self, name: str, default: int = 0) -> int:
        """The last one as a whole number that is not negative. Raises `UsageError`."""
        text = self.text(name, str(default))
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise UsageError(f"--{name} takes a whole number, not {text!r}", code="bad-arguments")
        return int(text)


def _take(words: list[str], known: dict[str, str], short: dict[str, str], options: Options, where: str) -> list[str]:
    """Options from the front of ``words``; what remains begins with the first word that is none."""
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            return rest
        name, equals, value = word.lstrip("-").partition("=")
        name = short.get(name, name)
        if name in ("help", "h") and "help" not in known:
            options.add("help", "true")
            continue
        if name not in known:
            raise UsageError(f"{where}: unknown flag: {word.partition('=')[0]}", code="unknown-flag")
        if known[name] == FLAG:
            if equals and value not in ("true", "false"):
                raise UsageError(f"{where}: --{name} takes true or false, not {value!r}", code="bad-arguments")
            options.add(name, value if equals else "true")
        elif equals:
            options.add(name, value)
        elif rest:
            options.add(name, rest.pop(0))
        else:
            raise UsageError(f"{where}: flag needs an argument: --{name}", code="bad-arguments")
    return rest


def parse_arguments(words: list[str]) -> tuple[Options, str, Options, list[str]]:
    """Global options, the command ("" for none), its options and its operands. Raises `UsageError`, `NotSupported`."""
    common, own = Options(), Options()
    rest = _take(words, GLOBAL, _SHORT[""], common, "contain oci")
    if not rest:
        return common, "", own, []
    command, *rest = rest
    if command == "help":
        common.add("help", "true")
        return common, "", own, []
    if command in _ELSEWHERE:
        raise NotSupported(f"contain oci {command} is not supported: {_ELSEWHERE[command]}", code="bundle-not-supported")
    if command not in COMMANDS:
        raise UsageError(
            f"contain oci: {command!r} is no command", code="unknown-command", remedy=f"there are {', '.join(COMMANDS)}"
        )
    where = f"contain oci {command}"
    short, known = _SHORT.get(command, {}), COMMANDS[command]
    operands: list[str] = []
    rest = _take(rest, known, short, own, where)
    while rest:
        operands.append(rest.pop(0))
        if command != "exec":  # there, what follows the container is the program's
            rest = _take(rest, known, short, own, where)
        elif rest and rest[0] == "--":
            rest.pop(0)
            operands += rest
            break
        else:
            operands += rest
            break
    return common, command, own, operands
