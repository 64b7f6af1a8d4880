"""What a shell is told about the word at the cursor."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contain.cli.arguments import COMMANDS, NOUNS
from contain.cli.completion import Answer, Names, complete, open_parser, render_answer

CONTAINERS = {"web": "running", "db": "running", "old": "exited", "new": "created", "held": "paused"}


def _containers(states: Sequence[str]) -> list[str]:
    return [name for name, state in CONTAINERS.items() if not states or state in states]


NAMES = Names(
    containers=_containers,
    images=lambda: ["app:latest", "debian:bookworm"],
    volumes=lambda: ["data"],
    networks=lambda: ["bridge", "front"],
)


def values(*words: str) -> list[str]:
    return [value for value, _ in complete(words, NAMES).values]


def test_every_command_and_noun_is_offered_and_the_hidden_one_is_not() -> None:
    offered = values("")
    assert {name for name in COMMANDS if " " not in name} <= set(offered)
    assert set(NOUNS) <= set(offered)
    assert "__complete" not in offered


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_flag_that_the_help_shows_is_offered(name: str) -> None:
    if name in ("oci", "build"):
        return
    noun, _, verb = name.partition(" ")
    words = [noun, verb] if verb else [name]
    shown = {
        flag
        for action in open_parser(name)._actions
        if action.help != "==SUPPRESS=="
        for flag in action.option_strings
        if flag.startswith("--") and "=" not in flag
    }
    assert shown <= set(values(*words, "--"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("sto",), ["stop"]),
        (("container", "prun"), ["prune"]),
        (("volume", "ins"), ["inspect"]),
        (("stop", ""), ["web", "db", "held"]),
        (("stop", "web", ""), ["db", "held"]),
        (("stop", "-t", "3", "w"), ["web"]),
        (("stop", "--timeout", "3", "w"), ["web"]),
        (("start", ""), ["old", "new"]),
        (("unpause", ""), ["held"]),
        (("rm", "-f", "o"), ["old"]),
        (("container", "rm", "o"), ["old"]),
        (("exec", "-it", "w"), ["web"]),
        (("run", "--rm", "-it", "d"), ["debian:bookworm"]),
        (("run", "--network", "f"), ["front"]),
        (("run", "--network=f"), ["front"]),
        (("run", "--network", "=", "f"), ["front"]),
        (("run", "--pull", ""), ["always", "missing", "never"]),
        (("run", "-v", "d"), ["data:"]),
        (("kill", "-s", "TER"), ["TERM"]),
        (("rmi", "a"), ["app:latest"]),
        (("volume", "rm", ""), ["data"]),
        (("network", "inspect", ""), ["bridge", "front"]),
        (("inspect", "d"), ["db", "debian:bookworm", "data"]),
        (("inspect", "--type", "v"), ["volume"]),
        (("cp", "w"), ["web:"]),
        (("nope", ""), []),
        (("container", "nope", ""), []),
        (("rename", "web", "x", ""), []),
    ],
)
def test_what_fits_is_offered(words: tuple[str, ...], expected: list[str]) -> None:
    assert values(*words) == expected


def test_what_follows_a_program_is_left_to_paths() -> None:
    assert complete(("exec", "web", "l"), NAMES) == Answer(files=True)
    assert complete(("run", "app:latest", "--"), NAMES) == Answer(files=True)


def test_flags_of_files_ask_for_paths() -> None:
    assert complete(("run", "--env-file", ""), NAMES) == Answer(files=True)


def test_an_answer_is_a_line_for_each_value() -> None:
    answer = Answer(values=(("a", "one"), ("b\n", "never")), files=True, open_ended=True)
    assert render_answer(answer) == "a\tone\n:files\n:nospace\n"
