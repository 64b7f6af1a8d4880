"""How checks are chosen, told and documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contain.dockerfile import parse_dockerfile
from contain.dockerfile.checks import RULES, BaseFacts, CheckOptions, Surroundings, check_dockerfile, parse_check_options
from contain.dockerfile.checks.render import findings_json, render_findings
from contain.dockerfile.checks.rules import Group
from contain.errors import UsageError

ROOT = Path(__file__).parents[3]


def _names(text: str, surroundings: Surroundings | None = None) -> list[str]:
    return [finding.rule.name for finding in check_dockerfile(parse_dockerfile(text), surroundings)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CheckOptions()),
        ("skip=A", CheckOptions(skip=frozenset({"A"}))),
        (" skip = A , B ; error = true ", CheckOptions(skip=frozenset({"A", "B"}), error=True)),
        ("error=1;experimental=all", CheckOptions(experimental=frozenset({"all"}), error=True)),
        ("error=false", CheckOptions()),
    ],
)
def test_options_are_read(text: str, expected: CheckOptions) -> None:
    assert parse_check_options(text) == expected


@pytest.mark.parametrize("text", ["skip", "waive=A", "error=maybe", "skip=A;error", "skip=A;;"])
def test_an_option_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_check_options(text)
    assert caught.value.code == "bad-check"


def test_a_bad_option_is_pointed_at() -> None:
    with pytest.raises(UsageError) as caught:
        _names("# syntax=docker/dockerfile:1\n#check = skip\nFROM scratch\n")
    assert caught.value.span is not None
    assert (caught.value.span.line, caught.value.span.text) == (2, "#check = skip")


def test_skip_all_leaves_an_experimental_rule_that_was_asked_for() -> None:
    options = parse_check_options("skip=all;experimental=InvalidDefinitionDescription")
    assert options.waives("JSONArgsRecommended")
    assert not options.waives("InvalidDefinitionDescription", experimental=True)
    assert CheckOptions().waives("InvalidDefinitionDescription", experimental=True)


def test_a_bad_option_above_an_instruction_waives_nothing() -> None:
    assert _names("FROM scratch\n# check=skip\nMAINTAINER a") == ["MaintainerDeprecated"]
    assert _names("FROM scratch\n# check=skip=MaintainerDeprecated because\nMAINTAINER a") == []
    assert _names("FROM scratch\n# check=skip=MaintainerDeprecated\n#\nMAINTAINER a") == ["MaintainerDeprecated"]


def test_comments_belong_to_the_instruction_below_and_directives_to_none() -> None:
    text = "# escape=`\n# a\nARG x\n# b\n\n  # c\nFROM scratch\n# d\n#\n# e\nRUN a `\n  # inside\n  b\nRUN c\n"
    dockerfile = parse_dockerfile(text)
    stage = dockerfile.stages[0]
    every = (*dockerfile.global_args, stage.start, *stage.instructions)
    assert [instruction.line.comments for instruction in every] == [("a",), ("b", "c"), ("e",), ()]


def test_what_the_base_sets_is_not_missed_and_not_guessed() -> None:
    text = "FROM app\nCOPY $SOURCE $MISSING /x\n"
    facts = BaseFacts(environment={"SOURCE": "a"}, platform="linux/amd64")
    known = check_dockerfile(parse_dockerfile(text), Surroundings(find_base=lambda _: facts))
    assert [finding.message for finding in known if finding.rule.name == "UndefinedVar"] == [
        "$MISSING is not set here, neither by ENV nor by ARG"
    ]
    assert "UndefinedVar" not in _names(text)


def test_unused_stages_are_looked_at() -> None:
    assert "MaintainerDeprecated" in _names("FROM scratch AS unused\nMAINTAINER a\nFROM scratch\n")


def test_findings_come_in_the_order_of_the_lines() -> None:
    lines = [
        finding.span.line
        for finding in check_dockerfile(parse_dockerfile("FROM a as B\nCMD x\nMAINTAINER y\nENV a b\nCMD z\n"))
    ]
    assert lines == sorted(lines)


def test_the_text_marks_the_lines_that_are_meant() -> None:
    text = "FROM scratch\nARG a\n\nCMD \\\n  a\nLABEL b=c\n\n"
    shown = render_findings(check_dockerfile(parse_dockerfile(text, file="D")), text)
    assert shown == (
        "WARNING: JSONArgsRecommended - docs/checks.md#jsonargsrecommended\n"
        "CMD is text for a shell, which receives the signals in its place\n"
        "D:4\n"
        "--------------------\n"
        "   3 |\n"
        "   4 | >>> CMD \\\n"
        "   5 | >>>   a\n"
        "   6 |     LABEL b=c\n"
        "--------------------\n"
        'hint: write ["program", "argument"], or set a SHELL on purpose\n'
    )


def test_a_rule_that_finds_much_is_shown_in_full_a_few_times() -> None:
    text = "FROM scratch\n" + "ENV a b\n" * 10
    shown = render_findings(check_dockerfile(parse_dockerfile(text, file="D")), text)
    assert shown.count("hint:") == 3
    assert "WARNING: LegacyKeyValueFormat, 7 more\nD:5: " in shown


def test_the_json_has_the_keys_of_buildkits_lint_result() -> None:
    findings = check_dockerfile(parse_dockerfile("FROM scratch\nCMD \\\n  a\n", file="D"))
    error = UsageError("wrong", code="bad-flag", span=findings[0].span)
    value = json.loads(findings_json("D", findings, (), error=error, unknown_bases=["x"]))
    assert value["sources"] == [{"filename": "D", "language": "Dockerfile"}]
    (warning,) = value["warnings"]
    assert warning["ruleName"] == "JSONArgsRecommended"
    assert warning["location"] == {"sourceIndex": 0, "ranges": [{"start": {"line": 2}, "end": {"line": 3}}]}
    assert {"description", "url", "detail"} <= warning.keys()
    assert value["buildError"]["message"] == "wrong"
    assert (value["notes"], value["unknownBases"]) == ([], ["x"])


def test_every_rule_is_documented_as_the_table_says() -> None:
    text = (ROOT / "docs/checks.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in sections] == [rule.name for rule in RULES]
    for rule, (_, body) in zip(RULES, sections, strict=True):
        assert rule.documentation == f"docs/checks.md#{rule.name.lower()}"
        said = " ".join(body.split())
        assert f"*{rule.severity.value}" in said
        assert rule.description in said
        assert " ".join(rule.remedy.split()) in said


def test_the_table_has_unique_names_and_whole_sentences() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {rule.group for rule in RULES} == set(Group)
    for rule in RULES:
        assert rule.description.endswith("."), rule.name
        assert not rule.remedy.endswith("."), rule.name


def test_a_build_that_carries_out_nothing_does_not_import_the_checks() -> None:
    program = "import sys, contain.build.execute, contain.cli.build; print('contain.dockerfile.checks' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "text",
    [
        "RUN '",
        'RUN "$(',
        "RUN `",
        "RUN $(((",
        "RUN a | | b ;; & (",
        "RUN ${",
        "RUN <",
        "RUN >",
        "RUN sh -c",
        "RUN env -u",
        "RUN " + "$(" * 3000,
        "RUN " + "sh -c " * 50 + "x",
        "RUN " + "(" * 3000,
        "RUN timeout",
        'RUN ["sh", "-c"]',
        "RUN case in",
    ],
)
def test_a_script_that_is_none_is_no_failure_of_the_checks(text: str) -> None:
    check_dockerfile(parse_dockerfile(f"FROM scratch\n{text}\n"))
