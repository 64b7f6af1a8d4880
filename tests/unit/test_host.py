from __future__ import annotations

import argparse

import pytest

import contain.container.abilities
from contain.cli.doctor import doctor
from contain.cli.output import render_age, render_size, render_table
from contain.host import Finding, parse_kernel_release, probe_host


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-13-amd64", (6, 1)),
        ("6.18.44-fc-v595", (6, 18)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15)),
        ("4.18.0-553.el8_10.x86_64", (4, 18)),
        ("6.12-rc1", (6, 12)),
        ("6", (0, 0)),
        ("", (0, 0)),
        ("next-20250101", (0, 0)),
    ],
)
def test_kernel_releases_are_read(release: str, version: tuple[int, int]) -> None:
    assert parse_kernel_release(release) == version


def test_whatever_is_not_good_says_what_to_do() -> None:
    findings = probe_host()
    assert len({finding.name for finding in findings}) == len(findings)
    for finding in findings:
        assert finding.state in ("good", "limited", "missing")
        assert finding.found
        assert bool(finding.remedy) == (finding.state != "good"), finding


def test_the_basics_come_first() -> None:
    assert [finding.name for finding in probe_host()[:3]] == ["kernel", "architecture", "user"]


@pytest.mark.parametrize(
    ("state", "needed", "status"), [("good", True, 0), ("limited", True, 0), ("missing", True, 1), ("missing", False, 0)]
)
def test_doctor_fails_only_for_what_nothing_runs_without(
    state: str, needed: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(name="thing", state=state, found="this", needed=needed, remedy="" if state == "good" else "do that")
    monkeypatch.setattr(contain.container.abilities, "probe_abilities", lambda _: (finding,))
    assert doctor(argparse.Namespace()) == status
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["ABILITY", "STATE", "WHAT", "WAS", "FOUND"]
    assert ("thing: do that" in shown) == (state != "good")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (12_345, "12.3kB"),
        (999_999, "1MB"),
        (1_500_000, "1.5MB"),
        (2 * 10**15, "2000TB"),
    ],
)
def test_sizes_are_decimal_as_dockers(size_bytes: int, text: str) -> None:
    assert render_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "Less than a second"),
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400, "24 hours"),
        (172800, "2 days"),
        (15 * 86400, "2 weeks"),
    ],
)
def test_ages_are_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert render_age(seconds) == text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert render_table(("A", "LONG"), [("xx", "y"), ("z", "")]) == "A    LONG\nxx   y\nz\n"
