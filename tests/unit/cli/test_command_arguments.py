from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from contain.cli.arguments import Parser
from contain.cli.build import add_build_arguments
from contain.cli.build_runs import run_options as parse_run_options
from contain.cli.contents import add_cp_arguments
from contain.cli.images import add_history_arguments
from contain.cli.main import main, run_command
from contain.cli.run import add_run_arguments
from contain.errors import UsageError


def build_options(*words: str) -> argparse.Namespace:
    parser = Parser(prog="contain build")
    add_build_arguments(parser)
    return parser.parse_args(words)


def run_options(*words: str) -> argparse.Namespace:
    parser = Parser(prog="contain run")
    add_run_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("legacy", ["--rm", "--force-rm", "--rm=true", "--rm=false", "--force-rm=true"])
def test_flags_of_old_scripts_do_not_take_the_context_for_their_value(legacy: str) -> None:
    assert build_options(legacy, ".").context == "."


@pytest.mark.parametrize(("said", "meant"), [("=true", True), ("=1", True), ("=T", True), ("=false", False), ("=0", False)])
def test_a_flag_without_a_value_may_be_given_true_or_false(said: str, meant: bool) -> None:
    options = build_options(f"--no-cache{said}", f"-q{said}", ".")
    assert (options.no_cache, options.quiet) == (meant, meant)


@pytest.mark.parametrize("word", ["d", "platform"])
def test_a_word_too_many_is_no_flag_whatever_its_name(word: str) -> None:
    parser = Parser(prog="contain cp")
    add_cp_arguments(parser)
    with pytest.raises(UsageError, match=f"contain cp takes no argument '{word}'"):
        parser.parse_args(["a", "b", word])


def test_of_true_and_false_the_last_one_counts() -> None:
    assert [run_options(*words, "x").rm for words in (("--rm", "--rm=false"), ("--rm=false", "--rm"))] == [False, True]
    assert not run_options("-d", "--detach=false", "x").detach


def test_false_of_a_flag_that_has_an_opposite_is_the_opposite() -> None:
    assert build_options("--reproducible=false", ".").no_reproducible
    assert not build_options("--no-reproducible=false", ".").no_reproducible
    parser = Parser(prog="contain history")
    add_history_arguments(parser)
    assert [parser.parse_args([flag, "x"]).human for flag in ("-H=false", "-H=true", "--human=false")] == [False, True, False]


def test_a_flag_without_a_value_takes_nothing_but_true_and_false() -> None:
    with pytest.raises(UsageError, match="invalid argument 'always' for --pull: it is true or false"):
        build_options("--pull=always", ".")


def test_words_of_the_program_to_run_are_left_as_they_are() -> None:
    options = run_options("--name", "x", "--rm=false", "-it", "image", "make", "--rm=false", "-q=true")
    assert (options.rm, options.image, options.arguments) == (False, "image", ["make", "--rm=false", "-q=true"])
    assert run_options("--rm=true", "image").rm


def test_no_word_of_the_help_is_longer_than_its_line() -> None:
    parser = Parser(prog="contain build")
    add_build_arguments(parser)
    longest = {max(len(word) for word in (action.help or "x").split()) for action in parser._actions}
    assert max(longest) <= 54  # of 80 columns, argparse keeps 24 for the flags


def test_a_secret_whose_file_is_not_there_is_said_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    assert parse_run_options(build_options("--secret", f"id=a,src={tmp_path}/token", ".")).secrets
    with pytest.raises(UsageError, match="the secret 'a' cannot be read from") as caught:
        parse_run_options(build_options("--secret", f"id=a,src={tmp_path}/tokn", "."))
    assert caught.value.code == "secret-unreadable"


def test_each_group_of_commands_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == 0
    headings = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Images:", "Containers:", "Environments:", "System:"]


@pytest.mark.parametrize("words", [(), ("volume",), ("container", "--help")])
def test_help_of_a_word_is_that_words_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*words[:1], "--help"]) == 0
    asked = capsys.readouterr().out
    assert run_command(["help", *words]) == 0
    assert capsys.readouterr().out == asked


def test_help_of_a_command_is_that_commands_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(["help", "completion"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: contain completion")


@pytest.mark.parametrize(
    ("words", "said"), [(["container", "logs", "-f", "x"], "\n"), (["events"], "\n"), (["pull", "x"], "\ninterrupted\n")]
)
def test_ctrl_c_is_no_interruption_of_what_has_no_other_end(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("contain.cli.main.run_command", interrupted)
    assert main(words) == 130
    assert capsys.readouterr().err == said
