from __future__ import annotations

import pytest

from contain.dockerfile import Copy, Heredoc, OnBuild, Run, parse_dockerfile
from contain.dockerfile.heredocs import heredoc_word
from contain.dockerfile.syntax import Lexer, Node
from contain.errors import UsageError


def nodes(text: str) -> list[Node]:
    return list(Lexer(text, file="Dockerfile").nodes())


def arguments(text: str) -> tuple[str, ...]:
    return tuple(word.text for word in nodes(text)[0].arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN a \\\n b", "a  b"),
        ("RUN a\\\nb", "ab"),
        ("RUN a \\  \n b", "a  b"),
        ("RUN a \\\n# comment\n   # another\n b", "a  b"),
        ("RUN a \\\n\n \t\n b", "a  b"),
        ("RUN a \\\r\n b\r\n", "a  b"),
        ("RUN a # b", "a # b"),
        ("RUN a \\", "a"),
        ("  run   a", "a"),
        ("\ufeffRUN a", "a"),
        ("# escape=`\nRUN a `\n  \\b\\\n", "a   \\b\\"),
        ("#EsCaPe = `\r\nRUN a `\n b", "a  b"),
        ("# a comment\n# escape=`\nRUN a `", "a `"),
        ("\n# escape=`\nRUN a `", "a `"),
        ("# unknown=1\n# escape=`\nRUN a `", "a `"),
        ("RUN [ \"$(uname)\" == 'a' ]", "[ \"$(uname)\" == 'a' ]"),
        ("RUN ['a']", "['a']"),
        ('RUN ["a", NaN]', '["a", NaN]'),
        ("RUN " + "[" * 100_000, "[" * 100_000),
    ],
)
def test_one_command_is_read_as_text(text: str, expected: str) -> None:
    assert arguments(text) == (expected,)


def test_escaped_backslash_at_the_end_is_no_continuation() -> None:
    assert [node.text for node in nodes("ENV C a\\\\\nENV D b")] == ["ENV C a\\\\", "ENV D b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CMD []", ()),
        ('CMD [ "a" ,\t"b c" ]', ("a", "b c")),
        ('CMD ["\\u2665", "\\" \\\\ \\/ \\n"]', ("\u2665", '" \\ / \n')),
        ('CMD ["\\ud800"]', ("\ufffd",)),
        ("COPY a  b\tc", ("a", "b", "c")),
        ('COPY ["a b", "c"]', ("a b", "c")),
        ('ENV a="b c" d=e\\ f', ("a", '"b c"', "=", "d", "e\\ f", "=")),
        ("ENV a b  c=d", ("a", "b  c=d", "")),
        ("ENV ONE TWO= THREE=x", ("ONE", "TWO= THREE=x", "")),
        ("ENV a=b=c", ("a", "b=c", "=")),
        ("ARG a 'b c'=d", ("a", "'b c'=d")),
        ("LABEL föo=bàr", ("föo", "bàr", "=")),
        ("USER a b", ("a b",)),
    ],
)
def test_arguments_are_cut_up_by_the_instructions_shape(text: str, expected: tuple[str, ...]) -> None:
    assert arguments(text) == expected


@pytest.mark.parametrize("value", ["42", "1.5", "{}", '{"c": "d"}', '["c"]', "true", "null"])
def test_json_with_anything_but_strings_is_an_error(value: str) -> None:
    with pytest.raises(UsageError, match="only strings"):
        nodes(f'CMD ["a", {value}, "b"]')


def test_flags_lose_their_quotes_and_escapes() -> None:
    node = nodes('RUN --a=\'x y\' --b="1\\"2" --c=3\\ 4 -- --d')[0]
    assert [flag.text for flag in node.flags] == ["--a=x y", '--b=1"2', "--c=3 4"]
    assert [word.text for word in node.arguments] == ["--d"]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("<<EOF", "EOF"),
        ("<<'EOF'", "EOF"),
        ('<<"EOF"', "EOF"),
        ("<<-EOF", "EOF"),
        ('<<EO"F"', "EOF"),
        ("<< EOF", "EOF"),
        ("<<- EOF", "EOF"),
        ("<< -EOF", "-EOF"),
        ("12<<EOF", "EOF"),
        ("<<$EOF", "$EOF"),
        ("<<eo\\'f", "eo'f"),
        ("<<'one two'", "one two"),
        ("", None),
        ("EOF", None),
        ("<<", None),
        ("<<-", None),
        ("<EOF", None),
        ("<<<EOF", None),
        ("<<EOF sh", None),
        ("a<<EOF", None),
        ("<<''", None),
    ],
)
def test_heredoc_words(word: str, name: str | None) -> None:
    heredoc = heredoc_word(word)
    assert (heredoc and heredoc.name) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN <<EMPTY\nEMPTY\n", [Heredoc(name="EMPTY", content="")]),
        ("RUN 3<<E\nE", [Heredoc(name="E", content="", descriptor=3)]),
        ('RUN "<<NO"', []),
        ("RUN '<<NO'", []),
        ('RUN ["<<NO"]', []),
        ("USER <<NO", []),
        ("RUN <<-E\n\ta\n\t\tb\n\tE\n", [Heredoc(name="E", content="\ta\n\t\tb\n", strip_tabs=True)]),
        ("RUN <<E\n\ta\n \n# not a comment \\\nb\nE\n", [Heredoc(name="E", content="\ta\n \n# not a comment \\\nb\n")]),
        ("RUN <<-'E'\n\t$a\nE\n", [Heredoc(name="E", content="\t$a\n", strip_tabs=True, expand=False)]),
        ("RUN <<eo'f'\neof\n", [Heredoc(name="eof", content="", expand=False)]),
        ("RUN <<eo\\'f\neo'f\n", [Heredoc(name="eo'f", content="")]),
        ("RUN --mount=type=cache,target=/f <<M\nx\nM\n", [Heredoc(name="M", content="x\n")]),
        ("COPY <<X <<Y /dest\nY\nX\nX\nY\n", [Heredoc(name="X", content="Y\n"), Heredoc(name="Y", content="X\n")]),
        ("RUN << E > foo\nE", [Heredoc(name="E", content="")]),
        ("RUN <<E \\\n  cat\nx\r\nE\r\n", [Heredoc(name="E", content="x\r\n")]),
        ("RUN echo 'no end <<E", []),
    ],
)
def test_heredocs_of_an_instruction(text: str, expected: list[Heredoc]) -> None:
    assert list(nodes(text)[0].heredocs) == expected


def test_an_onbuild_instruction_keeps_its_heredocs_in_the_trigger() -> None:
    (onbuild,) = parse_dockerfile("FROM a\nONBUILD COPY <<E /x\n$y\nE\n").stages[0].instructions
    assert isinstance(onbuild, OnBuild)
    assert isinstance(onbuild.instruction, Copy)
    assert onbuild.instruction.heredocs == (Heredoc(name="E", content="$y\n"),)
    assert onbuild.trigger == "COPY <<E /x\n$y\nE"
    assert onbuild.source == "ONBUILD COPY <<E /x\n$y\nE"


def test_an_instruction_and_its_parts_know_their_places() -> None:
    text = "FROM a\n\n  COPY --from=b \\\n# comment\n\n    src \\\n  <<E /dst\nx\nE\nRUN y"
    copy, run = parse_dockerfile(text, file="D").stages[0].instructions
    assert (copy.span.file, copy.span.line, copy.span.end_line, copy.span.column) == ("D", 3, 9, 3)
    assert copy.span.text == "  COPY --from=b \\"
    source = copy.span_of("src")
    assert (source.line, source.column, source.length, source.text) == (6, 5, 3, "    src \\")
    destination = copy.span_of("/dst")
    assert (destination.line, destination.column) == (7, 7)
    assert copy.span_of("not there") == copy.span
    assert isinstance(run, Run)
    assert run.span.line == 10


def test_directives_are_recorded() -> None:
    text = "# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\nFROM a"
    directives = parse_dockerfile(text).directives
    assert (directives.syntax, directives.check, directives.escape) == ("docker/dockerfile:1", "skip=all", "`")


def test_an_empty_line_inside_an_instruction_is_remembered() -> None:
    dockerfile = parse_dockerfile("FROM a\nRUN a \\\n\n  b\nRUN c \\\n  # comment\n  d\n")
    first, second = dockerfile.stages[0].instructions
    assert first.line.empty_line is not None
    assert (first.line.empty_line.line, second.line.empty_line) == (3, None)


def test_the_caret_stands_under_its_word_behind_tabs() -> None:
    with pytest.raises(UsageError) as caught:
        parse_dockerfile("FROM a\n\tCOPY\t--chwon=1 a b")
    assert caught.value.span is not None
    assert caught.value.span.render().split("\n")[1:] == [" 2 | \tCOPY\t--chwon=1 a b", "   | \t    \t^^^^^^^^^"]
