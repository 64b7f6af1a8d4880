"""Shell completion: what may stand where the cursor is, from the table of commands and their own parsers, and scripts that ask for it.

`complete` decides on words; live names come through functions that it is given. ``contain completion SHELL`` prints a script which asks
``contain __complete WORD...`` at each press of the key: a value for each line, behind a tab what it is; ``:files`` asks the shell to
complete paths, ``:nospace`` to go on in the same word. Never prints an error: nobody could read it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from contain.cli.arguments import COMMANDS, NOUNS, Parser
from contain.errors import ContainError, UsageError
from contain.values import dataclass, field

SHELLS = ("bash", "fish", "zsh")
_ENDED = ("exited", "created", "dead")
_STATES: Mapping[str, tuple[str, ...]] = {
    "start": _ENDED,
    **dict.fromkeys(("attach", "exec", "kill", "pause", "port", "stop", "top", "stats"), ("running", "paused", "restarting")),
    "unpause": ("paused",),
}
_FLAG_NAMES = {
    "--network": "network",
    "--net": "network",
    "--volumes-from": "container",
    "--link": "container",
    "--from": "image",
}
_PATH_FLAGS = ("--env-file", "--label-file", "--cidfile", "--iidfile", "--file", "--output", "--input", "--metadata-file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``values``: what may stand there, each with a few words. ``files``: paths too. ``open_ended``: the word goes on behind it."""

    values: tuple[tuple[str, str], ...] = ()
    files: bool = False
    open_ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Where live names come from. ``containers``: those in one of the states, or with none all of them."""

    containers: Callable[[Sequence[str]], Sequence[str]]
    images: Callable[[], Sequence[str]]
    volumes: Callable[[], Sequence[str]]
    networks: Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the cursor is, among a command's arguments."""

    flag: argparse.Action | None = None  # whose value it is
    before: tuple[str, ...] = field(default_factory=tuple)  # positional words before it


def complete(words: Sequence[str], names: Names) -> Answer:
    """What may stand in place of the last word, which may be empty. ``words``: without the program's name."""
    words = _join_split(words)
    *before, current = words or [""]
    if not before:
        verbs = {name: command.summary for name, command in COMMANDS.items() if " " not in name}
        return _matching(current, {**verbs, **{noun: f"{noun} commands" for noun in NOUNS}, "--help": "", "--version": ""})
    first = before[0]
    if first in NOUNS and len(before) == 1:
        return _matching(current, {verb: COMMANDS[target[0]].summary for verb, target in NOUNS[first].items()})
    if first in NOUNS:
        target = NOUNS[first].get(before[1])
        name, rest = (target[0], before[2:]) if target else ("", [])
    else:
        name, rest = first, before[1:]
    if name not in COMMANDS:
        return Answer()
    return _complete_argument(name, rest, current, names)


def _join_split(words: Sequence[str]) -> list[str]:
    """bash divides words at ``=``."""
    joined: list[str] = []
    for word in words:
        if joined and word == "=" and joined[-1].startswith("--"):
            joined[-1] += "="
        elif joined and joined[-1].startswith("--") and joined[-1].endswith("="):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _matching(current: str, values: Mapping[str, str]) -> Answer:
    return Answer(values=tuple((value, text) for value, text in values.items() if value.startswith(current)))


def open_parser(name: str) -> Parser:
    """A command's own parser."""
    command = COMMANDS[name]
    module = importlib.import_module(f"contain.cli.{command.module}")
    parser = Parser(prog=f"contain {name}", description=command.summary)
    getattr(module, f"add_{command.function.rstrip('_')}_arguments")(parser)
    return parser


def _find_place(parser: Parser, rest: Sequence[str]) -> _Place:
    known = parser._option_string_actions  # noqa: SLF001 - argparse has no other way to ask
    positional: list[str] = []
    waiting: argparse.Action | None = None
    for word in rest:
        if waiting is not None:
            waiting = None
        elif word.startswith("-") and word != "-" and "=" not in word:
            action = known.get(word)
            if action is None and not word.startswith("--"):
                action = known.get(f"-{word[-1]}")  # several short flags in one word
            waiting = action if action is not None and action.nargs is None else None
        elif not word.startswith("-") or word == "-":
            positional.append(word)
    return _Place(flag=waiting, before=tuple(positional))


def _complete_argument(name: str, rest: Sequence[str], current: str, names: Names) -> Answer:
    parser = open_parser(name)
    known = parser._option_string_actions  # noqa: SLF001
    places = [action for action in parser._actions if not action.option_strings]  # noqa: SLF001
    place = _find_place(parser, rest)
    if place.flag is not None:
        return _value_of(place.flag, current, names)
    index = len(place.before)
    programs = [number for number, action in enumerate(places) if action.nargs == argparse.REMAINDER]
    behind_program = any(index >= max(number, 1) for number in programs)
    if current.startswith("--") and "=" in current and not behind_program:
        flag, _, value = current.partition("=")
        return _value_of(known[flag], value, names) if flag in known else Answer()
    if current.startswith("-") and not behind_program:
        flags = {
            flag: str(action.help or "").partition(";")[0]
            for flag, action in known.items()
            if action.help != argparse.SUPPRESS and "=" not in flag
        }
        return _matching(current, flags if current.startswith("--") else {**flags})
    if not places:
        return Answer()
    action = places[min(index, len(places) - 1)]
    if index >= len(places) and action.nargs not in ("+", "*", argparse.REMAINDER):
        return Answer()
    return _positional(name, action, current, place.before, names)


def _positional(name: str, action: argparse.Action, current: str, before: Sequence[str], names: Names) -> Answer:
    label = str(action.metavar or action.dest).upper()
    if action.choices:
        return _matching(current, dict.fromkeys(map(str, action.choices), ""))
    if name == "cp":
        places = [f"{each}:" for each in names.containers(())]
        return Answer(values=_matching(current, dict.fromkeys(places, "container")).values, files=True, open_ended=True)
    if action.nargs == argparse.REMAINDER:
        return Answer(files=True)
    if name == "inspect":
        every = [*names.containers(()), *names.images(), *names.volumes(), *names.networks()]
        return _matching(current, {each: "" for each in every if each not in before})
    for word, kind in (("CONTAINER", "container"), ("IMAGE", "image"), ("VOLUME", "volume"), ("NETWORK", "network")):
        if label.startswith(word) or (label == "NAME" and word == "IMAGE" and name in ("push", "rollback", "rmi")):
            return _live(kind, current, names, states=_STATES.get(name, ()), without=before)
    return Answer(files=True)


def _live(kind: str, current: str, names: Names, *, states: Sequence[str] = (), without: Sequence[str] = ()) -> Answer:
    found = {
        "container": lambda: names.containers(states),
        "image": names.images,
        "volume": names.volumes,
        "network": names.networks,
    }[kind]()
    return _matching(current, {each: kind for each in found if each not in without})


def _value_of(action: argparse.Action, current: str, names: Names) -> Answer:
    flags = action.option_strings
    if action.choices:
        return _matching(current, dict.fromkeys(map(str, action.choices), ""))
    for flag in flags:
        if flag in _FLAG_NAMES:
            return _live(_FLAG_NAMES[flag], current, names)
        if flag in _PATH_FLAGS:
            return Answer(files=True)
    if "--volume" in flags:
        volumes = [f"{each}:" for each in names.volumes()]
        return Answer(values=_matching(current, dict.fromkeys(volumes, "volume")).values, files=True, open_ended=True)
    if "--signal" in flags or "--stop-signal" in flags:
        import signal

        return _matching(current, {each.name.removeprefix("SIG"): "" for each in signal.Signals})
    if "|" in str(action.metavar or "") and str(action.metavar).replace("|", "").replace("-", "").isalpha():
        return _matching(current, dict.fromkeys(str(action.metavar).split("|"), ""))
    if "--pull" in flags:
        return _matching(current, dict.fromkeys(("always", "missing", "never"), ""))
    if "--restart" in flags:
        return _matching(current, dict.fromkeys(("no", "on-failure", "always", "unless-stopped"), ""))
    return Answer(files=str(action.metavar or "").upper() in ("FILE", "PATH", "DIR", "DIRECTORY"))


def render_answer(answer: Answer) -> str:
    """Lines for the scripts."""
    lines = [f"{value}\t{text}" for value, text in answer.values if "\n" not in value and "\t" not in value]
    lines += [":files"] if answer.files else []
    lines += [":nospace"] if answer.open_ended and answer.values else []
    return "".join(f"{line}\n" for line in lines)


def live_names() -> Names:
    """From the store. What cannot be read has no names."""
    from contain.paths import store_home

    home = store_home()

    def containers(states: Sequence[str]) -> Sequence[str]:
        from contain.container.lifecycle.records import Records
        from contain.container.processes import is_paused

        records = Records(home).all()
        return [
            record.name for record in records if not states or ("paused" if is_paused(record) else str(record.state)) in states
        ]

    def images() -> Sequence[str]:
        from contain.reference import parse_reference
        from contain.store import Store

        if not (home / "state.sqlite3").exists():
            return []
        with Store.open(home) as store:
            return sorted(parse_reference(name).familiar for row in store.images() for name in row.names)

    def volumes() -> Sequence[str]:
        from contain.container.files.volumes import Volumes

        return [record.name for record in Volumes(home).all() if not record.anonymous]

    def networks() -> Sequence[str]:
        from contain.container.network.networks import Networks

        return ["bridge", "host", "none", *(network.name for network in Networks(home).all())]

    return Names(containers=containers, images=images, volumes=volumes, networks=networks)


def answer(words: Sequence[str]) -> int:
    """``contain __complete``."""
    try:
        sys.stdout.write(render_answer(complete(words, live_names())))
        sys.stdout.flush()
    except (ContainError, OSError, ValueError, KeyError):
        pass
    return 0


# -- scripts -------------------------------------------------------------------------------------------------------------------

SCRIPTS: Mapping[str, str] = {
    "bash": """\
# bash completion of contain: put this into ~/.bashrc:  source <(contain completion bash)
_contain() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default -o filenames 2>/dev/null ;;
            :nospace) compopt -o nospace 2>/dev/null ;;
            *) COMPREPLY+=("${line%%$'\\t'*}") ;;
        esac
    done < <(contain __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _contain contain
""",
    "zsh": """\
#compdef contain
# zsh completion of contain: put this into ~/.zshrc, behind compinit:  source <(contain completion zsh)
_contain() {
    local line suffix=" "
    local -a values shown
    local -i files=0
    while IFS= read -r line; do
        case $line in
            :files) files=1 ;;
            :nospace) suffix="" ;;
            *) values+=("${line%%$'\\t'*}"); shown+=("${line%%$'\\t'*}  ${line#*$'\\t'}") ;;
        esac
    done < <(contain __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#values} )) && compadd -l -S "$suffix" -d shown -a values
    (( files )) && _files
}
if [[ "${funcstack[1]}" == _contain ]]; then _contain "$@"; else compdef _contain contain; fi
""",
    "fish": """\
# fish completion of contain: contain completion fish > ~/.config/fish/completions/contain.fish
function __contain_complete
    set -l words (commandline -opc)
    set -a words (commandline -ct)
    for line in (contain __complete $words[2..-1] 2>/dev/null)
        switch $line
            case ':files'
                __fish_complete_path (commandline -ct)
            case ':nospace'
            case '*'
                echo $line
        end
    end
end
complete -c contain -f -a '(__contain_complete)'
""",
}


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    """A shell."""
    parser.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def completion(options: argparse.Namespace) -> int:
    """Print the script."""
    if options.shell not in SCRIPTS:
        raise UsageError(
            f"there is no completion for {options.shell!r}",
            code="bad-arguments",
            remedy=f"there is one for {', '.join(SHELLS)}",
        )
    sys.stdout.write(SCRIPTS[options.shell])
    return 0
