"""The table of commands, and the argument parser with Docker's manners. Light: imported by every command."""

from __future__ import annotations

import argparse
import os
import re

from contain.annotations import Any, NoReturn
from contain.errors import NotSupported, UsageError
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: where it is, what it is for, and its exit status for an error of ours."""

    module: str
    function: str
    summary: str
    group: str
    error_status: int = 1
    until_interrupted: bool = False  # Ctrl-C is the usual end of it, and nothing that needs a word
    needs_root: bool = True  # files of several owners, mounts: an ordinary user gets a user namespace first


_IMAGES, _CONTAINERS, _ENVIRONMENTS, _SYSTEM = "Images", "Containers", "Environments", "System"

COMMANDS = {
    "build": Command(module="build", function="build", summary="Build an image from a Dockerfile", group=_IMAGES),
    "images": Command(module="images", function="images", summary="List images", group=_IMAGES),
    "pull": Command(
        module="registry", function="pull", summary="Get an image from a registry or a base provider", group=_IMAGES
    ),
    "push": Command(module="registry", function="push", summary="Bring an image to a registry", group=_IMAGES),
    "login": Command(module="registry", function="login", summary="Log in to a registry", group=_IMAGES, needs_root=False),
    "logout": Command(module="registry", function="logout", summary="Log out of a registry", group=_IMAGES, needs_root=False),
    "import": Command(
        module="images", function="import_", summary="Make an image from a root file system archive", group=_IMAGES
    ),
    "save": Command(module="archives", function="save", summary="Write images to a file", group=_IMAGES),
    "load": Command(module="archives", function="load", summary="Read images from a file", group=_IMAGES),
    "history": Command(module="images", function="history", summary="The steps that made an image", group=_IMAGES),
    "manifest": Command(module="images", function="manifest", summary="Show an image's manifest", group=_IMAGES),
    "rollback": Command(module="images", function="rollback", summary="Make a name point at what it was before", group=_IMAGES),
    "tag": Command(module="images", function="tag", summary="Give an image one more name", group=_IMAGES),
    "rmi": Command(module="images", function="rmi", summary="Remove images", group=_IMAGES),
    "lock": Command(module="lock", function="lock", summary="Pin everything that an image is made of", group=_IMAGES),
    "sbom": Command(module="attestation", function="sbom", summary="What an image consists of (CycloneDX)", group=_IMAGES),
    "provenance": Command(
        module="attestation", function="provenance", summary="How an image was made (SLSA provenance)", group=_IMAGES
    ),
    "run": Command(
        module="run", function="run", summary="Run a program in a new container", group=_CONTAINERS, error_status=125
    ),
    "create": Command(module="run", function="create", summary="Make a container without starting it", group=_CONTAINERS),
    "start": Command(module="lifecycle", function="start", summary="Start containers that do not run", group=_CONTAINERS),
    "restart": Command(module="lifecycle", function="restart", summary="Stop containers and start them", group=_CONTAINERS),
    "exec": Command(module="run", function="exec_", summary="Run a program in a running container", group=_CONTAINERS),
    "ps": Command(module="containers", function="ps", summary="List containers", group=_CONTAINERS),
    "attach": Command(
        module="lifecycle", function="attach", summary="Join a terminal to a running container", group=_CONTAINERS
    ),
    "rename": Command(module="lifecycle", function="rename", summary="Give a container another name", group=_CONTAINERS),
    "port": Command(module="ports", function="port", summary="Show what a container publishes", group=_CONTAINERS),
    "container diff": Command(
        module="contents", function="container_diff", summary="What a container changed in its image", group=_CONTAINERS
    ),
    "cp": Command(
        module="contents", function="cp", summary="Copy files between a container and this machine", group=_CONTAINERS
    ),
    "export": Command(
        module="contents", function="export", summary="Write a container's root as an archive", group=_CONTAINERS
    ),
    "commit": Command(
        module="contents", function="commit", summary="Make an image of what a container wrote", group=_CONTAINERS
    ),
    "pause": Command(module="processes", function="pause", summary="Hold all processes of containers still", group=_CONTAINERS),
    "unpause": Command(module="processes", function="unpause", summary="Let paused containers go on", group=_CONTAINERS),
    "top": Command(module="processes", function="top", summary="The processes of a container", group=_CONTAINERS),
    "stats": Command(
        module="processes", function="stats", summary="What containers use", group=_CONTAINERS, until_interrupted=True
    ),
    "logs": Command(
        module="containers", function="logs", summary="Show what a container printed", group=_CONTAINERS, until_interrupted=True
    ),
    "inspect": Command(
        module="inspecting",
        function="inspect",
        summary="Everything known of containers, images, networks or volumes",
        group=_CONTAINERS,
    ),
    "stop": Command(module="containers", function="stop", summary="Stop containers", group=_CONTAINERS),
    "kill": Command(module="containers", function="kill", summary="Send a signal to containers", group=_CONTAINERS),
    "wait": Command(module="containers", function="wait", summary="Wait for containers to end", group=_CONTAINERS),
    "rm": Command(module="containers", function="rm", summary="Remove containers", group=_CONTAINERS),
    "update": Command(module="updating", function="update", summary="Other limits for containers", group=_CONTAINERS),
    "container prune": Command(
        module="pruning", function="container_prune", summary="Remove containers that do not run", group=_CONTAINERS
    ),
    "volume create": Command(module="volumes", function="volume_create", summary="Make a volume", group=_CONTAINERS),
    "volume ls": Command(module="volumes", function="volume_ls", summary="List volumes", group=_CONTAINERS),
    "volume inspect": Command(
        module="volumes", function="volume_inspect", summary="Everything known of volumes", group=_CONTAINERS
    ),
    "volume rm": Command(module="volumes", function="volume_rm", summary="Remove volumes", group=_CONTAINERS),
    "volume prune": Command(
        module="volumes", function="volume_prune", summary="Remove volumes that no container has", group=_CONTAINERS
    ),
    "network create": Command(module="networks", function="network_create", summary="Make a network", group=_CONTAINERS),
    "network connect": Command(
        module="networks", function="network_connect", summary="Put a container on a network", group=_CONTAINERS
    ),
    "network disconnect": Command(
        module="networks", function="network_disconnect", summary="Take a container off a network", group=_CONTAINERS
    ),
    "network ls": Command(module="networks", function="network_ls", summary="List networks", group=_CONTAINERS),
    "network inspect": Command(
        module="networks", function="network_inspect", summary="Everything known of networks", group=_CONTAINERS
    ),
    "network rm": Command(module="networks", function="network_rm", summary="Remove networks", group=_CONTAINERS),
    "network prune": Command(
        module="networks", function="network_prune", summary="Remove networks that no container is on", group=_CONTAINERS
    ),
    "diff": Command(
        module="environments",
        function="diff",
        summary="What differs between two environments",
        group=_ENVIRONMENTS,
        error_status=2,
    ),
    "capture": Command(
        module="environments",
        function="capture",
        summary="Write down the facts of an environment",
        group=_ENVIRONMENTS,
        error_status=2,
    ),
    "doctor": Command(
        module="doctor", function="doctor", summary="What this machine can do for containers", group=_SYSTEM, needs_root=False
    ),
    "unshare": Command(
        module="unshare", function="unshare", summary="Run a program where your containers are", group=_SYSTEM, error_status=127
    ),
    "system start": Command(
        module="lifecycle", function="system_start", summary="Start the containers that are always to run", group=_SYSTEM
    ),
    "events": Command(
        module="events",
        function="events",
        summary="What happens, as it happens",
        group=_SYSTEM,
        needs_root=False,
        until_interrupted=True,
    ),
    "system df": Command(module="disk_usage", function="df", summary="How much space all of it takes", group=_SYSTEM),
    "oci": Command(
        module="oci",
        function="oci",
        summary="An OCI runtime for Docker, podman and containerd",
        group=_SYSTEM,
        needs_root=False,
    ),
    "image prune": Command(module="pruning", function="image_prune", summary="Remove images without a name", group=_IMAGES),
    "info": Command(module="system_info", function="info", summary="This engine and this machine", group=_SYSTEM),
    "version": Command(
        module="system_info", function="version", summary="Which contain this is", group=_SYSTEM, needs_root=False
    ),
    "completion": Command(
        module="completion", function="completion", summary="Completion for a shell", group=_SYSTEM, needs_root=False
    ),
    "builder prune": Command(module="builder", function="builder_prune", summary="Remove build cache", group=_SYSTEM),
    "system prune": Command(module="pruning", function="system_prune", summary="Remove all that is not used", group=_SYSTEM),
    "prune": Command(module="images", function="prune", summary="Remove what nothing refers to", group=_SYSTEM),
}

NOUNS: dict[str, dict[str, tuple[str, ...]]] = {
    "builder": {"build": ("build",), "prune": ("builder prune",)},
    "buildx": {"build": ("build",), "prune": ("builder prune",), "du": ("system df",)},
    "container": {name: (name,) for name, row in COMMANDS.items() if row.group == _CONTAINERS and " " not in name}
    | {"ls": ("ps",), "list": ("ps",), "inspect": ("inspect", "--type=container"), "diff": ("container diff",)}
    | {"prune": ("container prune",), "ps": ("ps",), "remove": ("rm",)},
    "image": {name: (name,) for name in ("build", "import", "save", "load", "history", "rollback", "pull", "push", "tag")}
    | {"prune": ("image prune",), "remove": ("rmi",)}
    | {"ls": ("images",), "list": ("images",), "rm": ("rmi",), "inspect": ("inspect", "--type=image")},
    "volume": {
        **{verb: (f"volume {verb}",) for verb in ("create", "ls", "inspect", "rm", "prune")},
        "list": ("volume ls",),
        "remove": ("volume rm",),
    },
    "network": {
        **{verb: (f"network {verb}",) for verb in ("create", "connect", "disconnect", "ls", "inspect", "rm", "prune")},
        "list": ("network ls",),
        "remove": ("network rm",),
    },
    "system": {
        "prune": ("system prune",),
        "events": ("events",),
        "info": ("info",),
        "df": ("system df",),
        "start": ("system start",),
    },
}
"""``contain NOUN VERB``: the command that it is, and arguments that the noun stands for."""

REFUSED = {
    "context": "there is one engine, this one, and no daemon elsewhere",
    "swarm": "containers run on this machine",
    "service": "containers run on this machine",
    "stack": "containers run on this machine",
    "node": "containers run on this machine",
    "config": "it belongs to swarms",
    "secret": "it belongs to swarms; a build takes secrets with --secret",
    "plugin": "there are no plugins of Docker's kind",
    "trust": "signatures of that kind are not verified",
    "checkpoint": "processes cannot be frozen to disk",
    "search": "registries have no common way to search",
    "compose": "compose files are not read",
}
"""Docker's commands that there will not be, and why."""

_NOT_YET = (
    "a annotation attach attestation blkio-weight build-context builder c cache-from cache-to call cap-add cap-drop "
    "cgroup-parent cgroupns change check cidfile compress cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period "
    "cpu-rt-runtime cpu-shares cpuset-cpus cpuset-mems d debug detach-keys details device device-cgroup-rule device-read-bps "
    "device-read-iops device-write-bps device-write-iops digests disable-content-trust "
    "domainname env-file f filter force-rm format gpus group-add health-cmd health-interval health-retries "
    "health-start-interval health-start-period health-timeout init io-maxbandwidth io-maxiops ipc isolation kernel-memory "
    "l label-file last latest link-local-ip load log-driver log-opt memory-reservation memory-swap "
    "memory-swappiness message metadata-file mount n no-cache-filter no-healthcheck no-prune o "
    "oom-kill-disable oom-score-adj output pid platform privileged progress provenance push restart rm "
    "runtime s sbom secret security-opt shm-size sig-proxy signal since size squash ssh stop-signal stop-timeout storage-opt "
    "stream sysctl t tail timestamps tmpfs tree type ulimit until use-api-socket uts v volume-driver volumes volumes-from"
)
"""Flags that Docker has for some command and that are not built yet: refused by name."""

argparse._ = str  # type: ignore[attr-defined]  # scripts read these words: no translations, which would import `locale`

_FEWEST_COLUMNS = 24

_TRUE, _FALSE = ("true", "True", "TRUE", "t", "T", "1"), ("false", "False", "FALSE", "f", "F", "0")
"""Spellings of Go's ``strconv.ParseBool``, which Docker's flags take."""


def suggest_command(name: str) -> str | None:
    """The command that a misspelt one was probably meant to be."""
    from difflib import get_close_matches

    close = get_close_matches(name, [*COMMANDS, *NOUNS], n=1)
    return close[0] if close else None


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal. argparse makes one for each argument; it would import `shutil`, and with that three compressors."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_columns() - 2)


def _terminal_columns() -> int:
    """``COLUMNS``, else the terminal's, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > _FEWEST_COLUMNS:
        return int(given)
    try:
        return max(os.get_terminal_size(1).columns, _FEWEST_COLUMNS)
    except OSError:
        return 80


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; errors are `UsageError`, with Docker's words and a hint."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, conflict_handler="resolve", formatter_class=_Help, **options
        )  # resolve: `run -h` is the host name, as in Docker
        self._switches: set[str] = set()
        self._given: list[str] = []

    def add_switch(self, flag: str, *, metavar: str, help: str) -> None:  # noqa: A002 - argparse's name
        """A flag that may stand alone, or with a value behind ``=``: never takes the next word. None, ``""`` or the value."""
        self._switches.add(flag)
        self.add_argument(flag, metavar=metavar, help=f"{help}; a value only as {flag}={metavar}")

    def make_optional(self, name: str, *, default: str) -> None:
        """A positional argument that another command requires may be left out."""
        for action in self._actions:
            if action.dest == name:
                action.nargs, action.default, action.required = "?", default, False

    def hide(self, *names: str) -> None:
        """Leave out of the help what another command takes and this one refuses."""
        for action in self._actions:
            if action.dest in names:
                action.help = argparse.SUPPRESS

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; a switch without a value gets an empty one, a flag without values may be ``=true`` or ``=false``."""
        given = list(args or ())
        end = given.index("--") if "--" in given else len(given)
        if any(action.nargs == argparse.REMAINDER for action in self._actions):
            end = self._count_own(given[:end])
        words: list[str] = []
        for text in given[:end]:
            read = self._read_word(text)
            if not read:  # what is said last counts: `--rm --rm=false`
                taken_back = self._option_string_actions[text.partition("=")[0]].option_strings
                words = [word for word in words if word not in taken_back]
            words += read
        given[:end] = words
        self._given = words
        return super().parse_known_args(given, namespace)

    def _refuse_unknown(self) -> None:
        """A flag that is none is told before what is missing, as Docker does."""
        waiting = False
        for word in self._given:
            flag = word.partition("=")[0]
            if waiting or not word.startswith("-") or word == "-":
                waiting = False
                continue
            action = self._option_string_actions.get(word) or self._option_string_actions.get(flag)
            if action is None and word.startswith("--"):
                self.error(f"unrecognized arguments: {word}")
            waiting = action is not None and action.nargs is None and flag == word

    def _count_own(self, words: list[str]) -> int:
        """How many words stand before the first positional one: what follows is another program's."""
        place = 0
        while place < len(words) and words[place].startswith("-"):
            action = self._option_string_actions.get(words[place])
            place += 2 if action is not None and action.nargs is None else 1
        return min(place, len(words))

    def _read_word(self, word: str) -> list[str]:
        if word in self._switches:
            return [f"{word}="]
        flag, equals, value = word.partition("=")
        known = self._option_string_actions
        if not equals or word in known or flag not in known or known[flag].nargs != 0:
            return [word]
        if value in _TRUE:
            return [flag]
        if value in _FALSE:
            opposite = f"--no-{flag.removeprefix('--')}"
            return [opposite] if opposite in known else []
        raise UsageError(f"invalid argument {value!r} for {flag}: it is true or false", code="bad-arguments")

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving."""
        unknown = re.search(r"unrecognized arguments: (.*)", message)
        if unknown:
            flag = unknown[1].split()[0].split("=", 1)[0]
            if flag.startswith("-") and flag.lstrip("-") in _NOT_YET.split():
                raise NotSupported(f"{self.prog} {flag} is not supported yet", code="flag-not-supported")
            if flag.startswith("-"):
                raise UsageError(f"unknown flag: {flag}", code="unknown-flag", remedy=f"see `{self.prog} --help`")
            raise UsageError(
                f"{self.prog} takes no argument {flag!r}", code="bad-arguments", remedy=f"see `{self.prog} --help`"
            )
        missing = re.search(r"the following arguments are required: (.*)", message)
        if missing:
            self._refuse_unknown()
            optional = {action.metavar for action in self._actions if action.nargs == argparse.REMAINDER}
            names = [name for name in missing[1].split(", ") if name not in optional]
            message = f'"{self.prog}" requires {" and ".join(names)}'
            raise UsageError(message, code="bad-arguments", remedy=f"see `{self.prog} --help`")
        raise UsageError(f"{self.prog}: {message}", code="bad-arguments", remedy=f"see `{self.prog} --help`")


def parse_pairs(values: list[str], *, flag: str) -> tuple[tuple[str, str], ...]:
    """``K=V`` values of a repeated flag; `UsageError` for one without ``=``."""
    pairs = []
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise UsageError(f"invalid argument {value!r} for {flag}: write NAME=VALUE", code="bad-arguments")
        pairs.append((name, text))
    return tuple(pairs)


def parse_labels(values: list[str], *, flag: str = "--label") -> tuple[tuple[str, str], ...]:
    """``K=V``, or ``K`` for a label without a value. `UsageError` in Docker's words for one without a name, or with blanks in it."""
    for value in values:
        name = value.partition("=")[0].lstrip()
        if not name:
            raise _invalid(value, flag, f"invalid label '{value}': empty name")
        if any(character.isspace() for character in name):
            raise _invalid(value, flag, f"label '{name}' contains whitespaces")
    return tuple((name, text) for name, _, text in (value.partition("=") for value in values))


def parse_variables(values: list[str], *, flag: str) -> tuple[tuple[str, str], ...]:
    """``K=V``, or ``K`` for the caller's value where it has one. `UsageError` in Docker's words for one without a name."""
    pairs = []
    for value in values:
        name, equals, text = value.partition("=")
        if not name:
            raise _invalid(value, flag, f"invalid environment variable: {value}")
        if equals:
            pairs.append((name, text))
        elif name in os.environ:
            pairs.append((name, os.environ[name]))
    return tuple(pairs)


def _invalid(value: str, flag: str, why: str) -> UsageError:
    return UsageError(f'invalid argument "{value}" for "{flag}" flag: {why}', code="bad-arguments", remedy="write NAME=VALUE")
