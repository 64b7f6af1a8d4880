from __future__ import annotations

import pytest

from contain.dockerfile import expand, expand_heredoc, split_words
from contain.errors import SourceSpan, UsageError

UNSET: dict[str, str] = {}
FULL = {"FOO": "xxx", "BAR": ""}


@pytest.mark.parametrize(
    ("word", "variables", "expected"),
    [
        ("x", {}, "x"),
        ("x ${UNUSED}", {}, "x "),
        ("x ${FOO}", {"FOO": "y"}, "x y"),
        ("${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}", FULL, "xxx  ccc"),
        ("${FOO:-aaa} ${BAR:-bbb} ${BAZ:-ccc}", FULL, "xxx bbb ccc"),
        ("${FOO:-}", FULL, "xxx"),
        ("${FOO:-}", {}, ""),
        ("${FOO+aaa} ${BAR+bbb} ${BAZ+ccc}", FULL, "aaa bbb "),
        ("${FOO:+aaa} ${BAR:+bbb} ${BAZ:+ccc}", FULL, "aaa  "),
        ("${FOO?aaa}", FULL, "xxx"),
        ("${BAR?bbb}", FULL, ""),
        ("${FOO:?aaa}", FULL, "xxx"),
        # Every character that regular expressions know is text in a pattern; "}" is escaped for the substitution's sake.
        ("${FOO#()[]{\\}^$.\\*\\?|\\\\}", {"FOO": "()[]{}^$.*?|\\x"}, "x"),
        ("${FOO%%\\**}", {"FOO": "xx**"}, "xx"),
        ("${FOO#*x*y}", {"FOO": "xxyy"}, "y"),
        ("${FOO#*}", {"FOO": "xxyy"}, "xxyy"),
        ("${FOO#$BAR}", {"FOO": "xxyy", "BAR": "x"}, "xyy"),
        ("${FOO#$BAR}", {"FOO": "xxyy", "BAR": ""}, "xxyy"),
        ("${FOO#}", {"FOO": "xxyy"}, "xxyy"),
        ("${FOO##*x}", {"FOO": "xxyy"}, "yy"),
        ("${FOO##}", {"FOO": "xxyy"}, "xxyy"),
        ("${FOO#?\\?}", {"FOO": "???y"}, "?y"),
        ("${ABC:-.}${FOO%x}${ABC:-.}", {"FOO": "xxyy"}, ".xxyy."),
        ("${FOO%%\\**\\*}", {"FOO": "a***yy*"}, "a"),
        ("${FOO%/*}", {"FOO": "linux/arm/v7"}, "linux/arm"),
        ("${FOO%%/*}", {"FOO": "linux/arm/v7"}, "linux"),
        ("${FOO#*/}", {"FOO": "linux/arm/v7"}, "arm/v7"),
        ("${FOO##*/}", {"FOO": "linux/arm/v7"}, "v7"),
        ("${FOO%}", {"FOO": "xxyy"}, "xxyy"),
        ("${FOO/$N/.} - ${FOO//$N/.}", {"FOO": "/foo*/*/*.txt", "N": "\\*/"}, "/foo.*/*.txt - /foo..*.txt"),
        ("${FOO/$N/} - ${FOO//$N/}", {"FOO": "/tmp/tmp/bar.txt", "N": "/tmp"}, "/tmp/bar.txt - /bar.txt"),
        ("${FOO/$N/$R} - ${FOO//$N/$R}", {"FOO": "/a/foo/b/c.txt", "N": "/?/", "R": "/"}, "/foo/b/c.txt - /foo/c.txt"),
        ("${FOO/$N/$R}", {"FOO": "http://google.de", "N": "http://", "R": "https://"}, "https://google.de"),
        ("${FOO//\\//\\/}", {"FOO": "/tmp/foo.txt"}, "\\/tmp\\/foo.txt"),
        ("${FOO/$BAR/ww}", {"FOO": "xxyy", "BAR": ""}, "wwxxyy"),
        ("${FOO///}", {"FOO": "xxyy"}, "xxyy"),
        ("${FOO///}", {}, ""),
        ("${FOO//a/$R}", {"FOO": "aba", "R": "\\1$1"}, "\\1$1b\\1$1"),
        (
            "v${V}.${OS}-${ARCH}${VARIANT:+-${VARIANT}}",
            {"V": "1", "OS": "linux", "ARCH": "arm", "VARIANT": "v7"},
            "v1.linux-arm-v7",
        ),
        ("v${V}.${OS}-${ARCH}${VARIANT:+-${VARIANT}}", {"V": "1", "OS": "linux", "ARCH": "amd64"}, "v1.linux-amd64"),
        ("<<EOF", {}, "<<EOF"),
        ("a<b", {}, "a<b"),
    ],
)
def test_a_word_expands_to_its_value(word: str, variables: dict[str, str], expected: str) -> None:
    assert expand(word, variables.get) == expected


@pytest.mark.parametrize(
    "word",
    [
        "${BAZ?ccc}",
        "${BAR:?bbb}",
        "${BAZ:?ccc}",
        "${BAZ:?}",
        "${FOO=aaa}",
        "${FOO:=aaa}",
        "${FOO=}",
        "${FOO:#}",
        "${FOO:##}",
        "${FOO:%}",
        "${FOO:%%}",
        "${FOO//ww}",
        "${FOO//}",
        "${FOO#\\x}",
        "${FOO",
        "${FOO:",
        "${",
        "${FOO@U}",
        '"a',
        "'a",
    ],
)
def test_what_has_no_meaning_is_an_error_with_the_given_place(word: str) -> None:
    span = SourceSpan(file="Dockerfile", line=3, end_line=3, text="ENV A=...")
    with pytest.raises(UsageError) as caught:
        expand(word, FULL.get, span=span)
    assert caught.value.span == span


def test_a_required_variable_says_its_own_message() -> None:
    with pytest.raises(UsageError, match=r"VERSION: set it to 3\.11") as caught:
        expand("${VERSION:?set it to $WHAT}", {"WHAT": "3.11"}.get)
    assert caught.value.code == "variable-required"


def test_the_escape_character_can_be_the_backquote() -> None:
    assert expand("C:\\dir`$x", {"x": "1"}.get, escape="`") == "C:\\dir$x"
    assert expand('"a`"b"', UNSET.get, escape="`") == 'a"b'


def test_lookups_go_to_the_given_function_only() -> None:
    asked: list[str] = []

    def lookup(name: str) -> str | None:
        asked.append(name)
        return None

    assert expand("$A ${B:-$C} '$D' \\$E", lookup) == "  $D $E"
    assert asked == ["A", "C", "B"]


def test_quotes_in_a_heredoc_are_text_and_variables_are_not() -> None:
    assert expand_heredoc("say \"$A\" and '$A' or \\$A\n", {"A": "1"}.get) == "say \"1\" and '1' or $A\n"


def test_words_split_at_blanks_of_unquoted_values() -> None:
    lookup = {"PORTS": "80 443/tcp ", "NAME": "a b"}.get
    assert split_words('$PORTS 53/udp "$NAME" x\\ y', lookup) == ("80", "443/tcp", "53/udp", "a b", "x y")
    assert split_words("abc${X:-def}", lookup) == ("abcdef",)
    assert split_words("  ", lookup) == ()


def test_substitutions_nested_too_deep_are_an_error_not_a_crash() -> None:
    with pytest.raises(UsageError, match="inside each other"):
        expand("${a:-" * 5000 + "x" + "}" * 5000, UNSET.get)
