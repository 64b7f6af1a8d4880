"""The command line of the OCI runtime, as other engines write it."""

from __future__ import annotations

import pytest

from contain.errors import NotSupported, UsageError
from contain.oci_runtime.arguments import parse_arguments


def test_what_containerds_shim_writes() -> None:
    line = "--root /run/r --log /l.json --log-format json create --bundle /b --pid-file /p --console-socket /c abc"
    words = line.split(" ")
    common, command, own, operands = parse_arguments(words)
    assert (common.text("root"), common.text("log-format"), command, operands) == ("/run/r", "json", "create", ["abc"])
    assert (own.text("bundle"), own.text("pid-file"), own.text("console-socket")) == ("/b", "/p", "/c")


def test_options_after_the_id_count_too() -> None:
    _, _, own, operands = parse_arguments(["kill", "abc", "KILL", "--all"])
    assert own.flag("all")
    assert operands == ["abc", "KILL"]


def test_the_words_after_a_container_of_exec_are_the_programs() -> None:
    _, _, own, operands = parse_arguments(["exec", "-t", "-e", "A=b", "abc", "ls", "-l", "--all"])
    assert own.flag("tty")
    assert own.many("env") == ("A=b",)
    assert operands == ["abc", "ls", "-l", "--all"]
    assert parse_arguments(["exec", "abc", "--", "-x"])[3] == ["abc", "-x"]


def test_one_dash_or_two_with_or_without_an_equals_sign() -> None:
    for words in (["-root", "/r"], ["--root=/r"], ["-root=/r"]):
        assert parse_arguments([*words, "list"])[0].text("root") == "/r"
    assert parse_arguments(["delete", "-f", "x"])[2].flag("force")
    assert not parse_arguments(["delete", "--force=false", "x"])[2].flag("force")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "no command"),
        (["create", "--nonsense", "x"], "unknown flag: --nonsense"),
        (["create", "--bundle"], "needs an argument: --bundle"),
        (["delete", "--force=perhaps", "x"], "true or false"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_arguments(words)


def test_checkpoints_are_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="checkpoint"):
        parse_arguments(["checkpoint", "x"])
