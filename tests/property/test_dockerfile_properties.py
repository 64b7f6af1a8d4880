from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from hypothesis import example, given
from hypothesis import strategies as st

from contain.dockerfile import (
    IgnorePatterns,
    clean_path,
    expand,
    match_wildcard,
    parse_chmod,
    parse_dockerfile,
    parse_dockerignore,
    parse_duration_nanoseconds,
    parse_port_spec,
    parse_signal,
    parse_trigger,
    render_dockerfile,
    split_words,
)
from contain.dockerfile.syntax import KEYWORDS
from contain.errors import ContainError

UNSET: dict[str, str] = {}
T = TypeVar("T")

# Fragments which the grammar gives a meaning, so that random text reaches more than "unknown instruction".
FRAGMENTS = [
    *KEYWORDS, "from", "Run", "AS", "scratch", "NONE", "CMD", "a", "b=c", "é", "\ufeff", "\x00", "\ud800", "=", ",",
    "[", "]", '["a", "b"]',
    " ", "  ", "\t", "\n", "\r\n", "\r", "\v", "\xa0", "\n\n", "\\", "\\\n", "`", "`\n", "# escape=`\n", "#", "\n#c\n", '"', "'",
    "<<EOF", "<<-EOF", "<<'E'", "<< EOF", "\nEOF\n", "EOF", "\nE\n", "--", "--from=", "--mount=", "--chown=a", "--interval=1s",
    "type=cache,target=/x", "$x", "${x}", "${x:-", "}",
]  # fmt: skip

dockerfiles = st.one_of(
    st.text(),
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(lambda parts: "FROM a\n" + "".join(parts)),
    st.lists(
        st.tuples(st.sampled_from(KEYWORDS), st.lists(st.sampled_from(FRAGMENTS), max_size=6)).map(
            lambda line: line[0] + " " + "".join(line[1])
        ),
        max_size=5,
    ).map(lambda lines: "FROM a\n" + "\n".join(lines)),
)
segments = st.text(alphabet="ab.*?", min_size=1, max_size=4) | st.just("**")
patterns = st.lists(segments, min_size=1, max_size=3).map("/".join)
negatable = st.tuples(st.sampled_from(["", "!"]), patterns).map("".join)
paths = st.lists(
    st.text(alphabet="ab.", min_size=1, max_size=3).filter(lambda part: part not in (".", "..")), min_size=1, max_size=4
)


def attempt(function: Callable[..., T], *arguments: object, **options: object) -> tuple[T | None, ContainError | None]:
    """What the function returns or raises; any other exception than ours fails the test."""
    try:
        return function(*arguments, **options), None
    except ContainError as error:
        return None, error


@given(dockerfiles)
@example("FROM a\nONBUILD " * 3)
@example("FROM a\nRUN " + "[" * 3000)
@example("\\\n\\")
def test_any_text_is_a_dockerfile_or_an_error_with_a_place(text: str) -> None:
    _, error = attempt(parse_dockerfile, text)
    assert error is None or (error.span is not None and str(error))


@given(dockerfiles)
@example("FROM a\nRUN x\\\v")
@example("FROM a\nRUN <<E x\\\v\nbody\nE")
def test_a_rendered_dockerfile_parses_to_the_same(text: str) -> None:
    dockerfile, _ = attempt(parse_dockerfile, text)
    if dockerfile is not None:
        assert parse_dockerfile(render_dockerfile(dockerfile)) == dockerfile


@given(dockerfiles)
def test_spans_lie_inside_the_file(text: str) -> None:
    lines = text.removeprefix("\ufeff").split("\n")
    dockerfile, error = attempt(parse_dockerfile, text)
    spans = [error.span] if error and error.span else []
    if dockerfile is not None:
        spans = [instruction.span for stage in dockerfile.stages for instruction in (stage.start, *stage.instructions)]
    assert spans
    for span in spans:
        assert 1 <= span.line <= span.end_line <= max(1, len(lines))
        assert span.text == "" or lines[span.line - 1].rstrip("\r") == span.text.rstrip("\r")
        assert 1 <= span.column <= len(span.text) + 1


@given(st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join), st.sampled_from("\\`"))
def test_any_word_expands_or_is_an_error(word: str, escape: str) -> None:
    for function in (expand, split_words):
        attempt(function, word, {"x": "a  b"}.get, escape=escape)


@given(st.text(alphabet=st.characters(exclude_characters="'")))
def test_a_single_quoted_word_is_itself(text: str) -> None:
    assert expand(f"'{text}'", UNSET.get) == text


@given(st.text(alphabet="ab*?"), st.text(alphabet="ab"), st.sampled_from(["#", "##", "%", "%%"]))
def test_what_a_pattern_removes_is_the_shortest_or_longest_match(pattern: str, value: str, operator: str) -> None:
    expression = re.compile(
        pattern.replace("?", ".").replace("*", ".*") if "**" not in pattern else re.sub(r"\*+", ".*", pattern.replace("?", "."))
    )
    pieces = [(value[:cut], value[cut:]) for cut in range(len(value) + 1)]
    if operator[0] == "#":
        fitting = [(len(head), tail) for head, tail in pieces if expression.fullmatch(head)]
    else:
        fitting = [(len(tail), head) for head, tail in pieces if expression.fullmatch(tail)]
    choose = max if len(operator) == 2 else min
    assert expand(f"${{v{operator}$p}}", {"v": value, "p": pattern}.get) == (choose(fitting)[1] if fitting else value)


@given(st.text(alphabet="ab*?[]^-\\/"), st.text(alphabet="ab/-"))
def test_any_wildcard_matches_or_not_or_is_an_error(pattern: str, name: str) -> None:
    _, error = attempt(match_wildcard, pattern, name)
    assert error is None or error.code == "bad-pattern"
    assert (error is None) == (attempt(match_wildcard, pattern, "")[1] is None)


def naive_match(pattern: str, name: str) -> bool:
    """Wildcards without classes, by trying every length for each star."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(naive_match(pattern[1:], name[cut:]) for cut in range(len(name) + 1) if "/" not in name[:cut])
    return (
        bool(name) and (name[0] == pattern[0] or (pattern[0] == "?" and name[0] != "/")) and naive_match(pattern[1:], name[1:])
    )


@given(st.text(alphabet="ab*?/", max_size=7), st.text(alphabet="ab/", max_size=7))
def test_wildcards_agree_with_trying_everything(pattern: str, name: str) -> None:
    assert match_wildcard(pattern, name) == naive_match(pattern, name)


@given(st.text())
def test_any_text_is_a_dockerignore_or_an_error_with_a_place(text: str) -> None:
    ignore, error = attempt(parse_dockerignore, text)
    if ignore is not None:
        ignore.ignores("a/b")
    assert error is None or error.span is not None


@given(st.lists(negatable, max_size=5), paths)
def test_what_is_below_a_pruned_directory_is_ignored(rules: list[str], path: list[str]) -> None:
    ignore = IgnorePatterns.of(rules)
    if any(ignore.prunes("/".join(path[:depth])) for depth in range(1, len(path))):
        assert ignore.ignores("/".join(path))


@given(st.lists(negatable, max_size=5), st.lists(paths, min_size=2, max_size=6))
def test_the_answer_does_not_depend_on_what_was_asked_before(rules: list[str], asked: list[list[str]]) -> None:
    used = IgnorePatterns.of(rules)
    for path in asked:
        assert used.ignores("/".join(path)) == IgnorePatterns.of(rules).ignores("/".join(path))


@given(st.text(alphabet="ab./"))
def test_cleaning_a_path_twice_changes_nothing(path: str) -> None:
    assert clean_path(clean_path(path)) == clean_path(path)


@given(st.text() | st.text(alphabet="0123456789.smh-+:/ugorwxX=,tcp"))
def test_any_text_is_a_small_notation_or_an_error(text: str) -> None:
    parsers: list[Callable[[str], object]] = [
        parse_duration_nanoseconds,
        parse_port_spec,
        parse_chmod,
        parse_signal,
        parse_trigger,
    ]
    for parse in parsers:
        attempt(parse, text)
