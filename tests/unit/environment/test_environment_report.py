from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from contain.environment import Environment, FailureEvidence, Identity, Package, compare, explain, render_json, render_terminal
from contain.environment.difference import EnvironmentDiff
from contain.environment.facts import frozen, hide_secret

Change = Callable[..., Environment]
SITE = "/usr/local/lib/python3.11/site-packages"


@pytest.fixture
def small(place: Environment, change: Change) -> EnvironmentDiff:
    openssl = replace(place.files["/usr/bin/openssl"], digest="sha256:new")
    return compare(
        place,
        change(
            place,
            packages={
                "dpkg/openssl": Package(version="3.0.16-1", place="amd64"),
                "python/gunicorn": Package(version="21.2", place=SITE),
            },
            facts={"locale/LANG": None, "environment/LANG": None, "image-config/user": "root", "limits/memory": "536870912"},
            files={
                "/usr/bin/openssl": openssl,
                "/usr/local/bin/tool": replace(place.files["/usr/local/bin/tool"], mode=0o600),
                "/etc/machine-id": None,
            },
            missing=frozen({"rpm": "not read yet"}),
        ),
    )


@pytest.fixture
def huge(place: Environment, change: Change) -> EnvironmentDiff:
    tool = place.files["/usr/local/bin/tool"]
    return compare(
        place,
        change(
            place,
            packages={f"python/p{index}": Package(version="1", place=SITE) for index in range(200)},
            facts={f"environment/V{index}": "x" * 300 for index in range(200)}
            | {f"image-config/label {n}": "x" for n in range(50)},
            files={f"/opt/f{index}": tool for index in range(500)},
            missing=frozen({f"cpu/k{index}": f"reason {index}" for index in range(30)}),
        ),
    )


SMALL = """\
DIFFERENT  ci and deployment: 6 differences = 2 packages + 1 config field + 2 runtime facts + 1 file
  outside packages; 1 of known noise
  grade: none (not G3: 3 declared facts differ; 1 file outside packages differs; not comparable: rpm
  packages); running: facts differ (not G4)
  ci: image, sha256:aaaaaaaaaaaa…
  deployment: image, sha256:dddddddddddd…
Most likely causes of tests/test_a.py::test_umlauts
  1.  locale LANG  C.UTF-8 -> (none)
      why: UnicodeDecodeError: the locale decides how text is decoded and encoded
Packages (2)
  dpkg    openssl   3.0.15-1 -> 3.0.16-1   1 file
  python  gunicorn  (none)   -> 21.2
Image config (1)
    user  app -> root
Runtime (2)
  locale  LANG    C.UTF-8   -> (none)   also in process
  limits  memory  unlimited -> 512 MiB
Files (3)
  3 paths differ: 1 in 1 package listed above, 1 outside packages, 1 known noise
  ~ /usr/local/bin/tool  mode 0755 -> 0600
Noise: machine id 1
Not compared: rpm packages: deployment: not read yet
more: --all shows every line, --format json every value
"""


def test_a_page_says_verdict_counts_causes_sections_noise_and_gaps(small: EnvironmentDiff) -> None:
    evidence = FailureEvidence(exception="UnicodeDecodeError", message="'ascii'", test="tests/test_a.py::test_umlauts")
    page = render_terminal(small, width=100, causes=explain(small, evidence), test=evidence.test)
    assert "\n".join(line.rstrip() for line in page.split("\n")) == SMALL


def test_identical_places_need_few_lines(place: Environment) -> None:
    page = render_terminal(compare(place, replace(place, name="deployment")), width=100)
    assert page.startswith("IDENTICAL  ci and deployment\n  grade G0: same manifest digest; running: same facts (G4)\n")
    assert len(page.splitlines()) == 4


def test_a_comparison_with_gaps_is_never_called_identical(place: Environment, change: Change) -> None:
    page = render_terminal(compare(place, change(place, missing=frozen({"ulimits/nofile": "refused"}))), width=100)
    assert page.startswith("NOT FULLY COMPARABLE")
    assert "Not compared: ulimits nofile: deployment: refused" in page


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("with_causes", [False, True])
def test_a_page_has_at_most_40_lines_of_the_width(width: int, with_causes: bool, huge: EnvironmentDiff) -> None:
    causes = explain(huge, FailureEvidence(exception="KeyError", message="'V1' 'V2' 'V3' 'V4'")) if with_causes else ()
    lines = render_terminal(huge, width=width, causes=causes, test="t" * 300).splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= max(60, width)
    assert lines[-1].startswith("more: --all")


def test_what_does_not_fit_is_counted(huge: EnvironmentDiff) -> None:
    page = render_terminal(huge, width=100)
    for title, number in (("Packages", 200), ("Environment variables", 200), ("Image config", 50)):
        section = page.split(f"{title} ({number})\n")[1]
        shown = re.split(r"\n(?=\S)|  … ", section)[0]
        hidden = re.search(r"… (\d+) more", section)
        assert hidden is not None
        assert len(shown.splitlines()) + int(hidden.group(1)) == number


def test_all_shows_every_line(huge: EnvironmentDiff) -> None:
    page = render_terminal(huge, width=100, all=True)
    assert len(re.findall(r"^  python +p\d+ ", page, re.MULTILINE)) == 200
    assert len(re.findall(r"^  \+ /opt/f\d+ ", page, re.MULTILINE)) == 500
    assert "more" not in page


def test_the_counts_of_the_verdict_add_up(small: EnvironmentDiff, huge: EnvironmentDiff) -> None:
    for diff in (small, huge):
        verdict = " ".join(render_terminal(diff, width=200).split("grade")[0].split())
        match = re.search(r": (\d+) differences = ([^;]*)", verdict)
        assert match is not None
        assert int(match.group(1)) == sum(int(number) for number in re.findall(r"(\d+) ", match.group(2)))


def test_color_changes_no_text(small: EnvironmentDiff) -> None:
    colored = render_terminal(small, width=100, color=True)
    assert "\033[" in colored
    assert re.sub(r"\033\[\d+m", "", colored) == render_terminal(small, width=100)


def test_control_characters_of_a_place_never_reach_the_terminal(place: Environment, change: Change) -> None:
    evil = "\033]0;owned\a\n\udce9"
    other = change(
        place,
        packages={f"python/{evil}": Package(version=evil, place=evil)},
        facts={f"environment/{evil}": evil, "os-release/ID": evil},
        files={f"/opt/{evil}": place.files["/usr/local/bin/tool"]},
        name=evil,
        identity=Identity(),
    )
    for show_all in (False, True):
        page = render_terminal(compare(place, other), width=100, all=show_all)
        assert "\033" not in page
        assert "\a" not in page
        page.encode()


def test_secret_values_are_shown_as_differing_without_the_value(place: Environment, change: Change) -> None:
    a = change(place, facts={"environment/API_TOKEN": hide_secret("one", b"k")})
    b = change(place, facts={"environment/API_TOKEN": hide_secret("two", b"k")})
    page = render_terminal(compare(a, b), width=120)
    assert "API_TOKEN  (secret, hash " in page


def test_json_holds_both_values_of_every_difference(small: EnvironmentDiff) -> None:
    value = json.loads(render_json(small, causes=explain(small, FailureEvidence(exception="UnicodeError"))))
    assert (value["format"], value["schema"], value["exit_status"]) == ("contain-diff", 1, 1)
    found = {(row["dimension"], row["key"]): (row["before"], row["after"]) for row in value["differences"]}
    assert found["dpkg", "openssl"] == ("3.0.15-1", "3.0.16-1")
    assert found["python", "gunicorn"] == (None, "21.2")
    assert found["limits", "memory"] == ("unlimited", "536870912")
    assert value["files"][0]["before"]["mode"] == "0755"
    assert value["files"][0]["after"]["mode"] == "0600"
    assert value["packages_files"][0]["package"] == "dpkg:openssl"
    assert value["noise"] == [{"keys": ["/etc/machine-id"], "name": "machine id", "reason": "random on each machine"}]
    assert value["not_comparable"] == [{"reason": "deployment: not read yet", "what": "rpm packages"}]
    assert value["causes"][0]["title"] == "locale LANG"
