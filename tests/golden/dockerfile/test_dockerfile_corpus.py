"""BuildKit's own test data for its Dockerfile frontend, taken from a folder that an option names."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.dockerfile import expand, parse_dockerfile, split_words
from contain.dockerfile.syntax import Lexer, Node
from contain.errors import UsageError

FRONTEND = "frontend/dockerfile"
MINIMUM_EXPANSIONS = 200  # a truncated or moved table must not pass for a tested one
MINIMUM_WORDS = 20

_GO_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def go_quote(text: str) -> str:
    """Go's strconv.Quote, in which the golden files are written."""
    return '"' + "".join(_GO_ESCAPES.get(c) or (c if c.isprintable() else f"\\x{ord(c):02x}") for c in text) + '"'


def dump(node: Node) -> str:
    """A node in the Lisp form of the golden files."""
    parts = [node.keyword.lower()]
    if node.flags:
        parts.append("[" + " ".join(go_quote(flag.text) for flag in node.flags) + "]")
    if node.child:
        parts.append(dump(node.child))
    parts += [go_quote(argument.text) for argument in node.arguments]
    return "(" + " ".join(parts) + ")"


def corpus_path(config: pytest.Config) -> Path | None:
    given = config.getoption("--buildkit-corpus")
    return Path(given) / FRONTEND if given else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    corpus = corpus_path(metafunc.config)
    for name, folder in (("positive_case", "testfiles"), ("negative_case", "testfiles-negative")):
        if name in metafunc.fixturenames:
            cases = sorted(path.parent for path in (corpus / "parser" / folder).glob("*/Dockerfile")) if corpus else []
            metafunc.parametrize(name, cases or [None], ids=[case.name for case in cases] or ["none"])


@pytest.fixture
def corpus(pytestconfig: pytest.Config) -> Path:
    path = corpus_path(pytestconfig)
    if path is None:
        pytest.skip("no --buildkit-corpus PATH (or CONTAIN_BUILDKIT_CORPUS) given")
    assert path.is_dir(), f"{path} is no part of moby/buildkit"
    return path


def read(path: Path) -> str:
    return path.read_bytes().decode()


def test_a_dockerfile_of_the_corpus_is_cut_up_as_buildkit_does_it(corpus: Path, positive_case: Path | None) -> None:
    assert positive_case is not None, "the corpus has no positive cases"
    nodes = Lexer(read(positive_case / "Dockerfile"), file="Dockerfile").nodes()
    assert "".join(dump(node) + "\n" for node in nodes) == read(positive_case / "result")


def test_a_dockerfile_that_buildkit_refuses_is_refused(corpus: Path, negative_case: Path | None) -> None:
    assert negative_case is not None, "the corpus has no negative cases"
    with pytest.raises(UsageError) as caught:
        parse_dockerfile(read(negative_case / "Dockerfile"))
    assert caught.value.span is not None


def test_instructions_know_their_lines(corpus: Path) -> None:
    text = read(corpus / "parser/testfile-line/Dockerfile")
    spans = [node.span for node in Lexer(text, file="Dockerfile").nodes()]
    assert [(span.line, span.end_line) for span in spans] == [(5, 5), (11, 12), (17, 31)]


def test_every_expansion_of_the_table_gives_its_result(corpus: Path) -> None:
    variables = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
    wrong, tried = [], 0
    for number, line in enumerate(read(corpus / "shell/envVarTest").split("\n"), 1):
        if line.startswith("#") or not line.strip():
            continue
        platform, source, expected = (part.strip() for part in line.split("|"))
        if platform == "W":
            continue
        tried += 1
        try:
            result = expand(source, variables.get)
        except UsageError:
            result = "error"
        if result != expected:
            wrong.append((number, source, expected, result))
    assert wrong == []
    assert tried >= MINIMUM_EXPANSIONS


def test_every_line_of_words_is_split_as_the_table_says(corpus: Path) -> None:
    variables: dict[str, str] = {}
    wrong, tried = [], 0
    for number, line in enumerate(read(corpus / "shell/wordsTest").split("\n"), 1):
        if line.startswith("#") or not line:
            continue
        if line.startswith("ENV "):
            name, _, value = line.removeprefix("ENV ").lstrip(" ").partition("=")
            variables[name] = value
            continue
        source, expected = line.split("|")
        tried += 1
        try:
            result = split_words(source.strip(), variables.get)
        except UsageError:
            result = ("error",)
        if result != tuple(expected.lstrip(" ").split(",")):
            wrong.append((number, source, expected, result))
    assert wrong == []
    assert tried >= MINIMUM_WORDS
