from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from contain.environment import Environment, FailureEvidence, FileFact, Package, compare, explain
from contain.environment.difference import EnvironmentDiff
from contain.environment.evidence import RULES

Change = Callable[..., Environment]
SITE = "/usr/local/lib/python3.11/site-packages"


@pytest.fixture
def diff(place: Environment, change: Change) -> EnvironmentDiff:
    """Two places that differ in something of nearly every kind, so that a ranking has to choose."""
    tool = place.files["/usr/local/bin/tool"]
    other = change(
        place,
        packages={
            "dpkg/openssl": Package(version="3.0.16-1", place="amd64"),
            "dpkg/git": Package(version="2.39", place="amd64"),
            "python/requests": Package(version="2.28.0", place=SITE),
            "python/pyyaml": None,
        },
        facts={
            "locale/LANG": None,
            "locale/effective": "C",
            "locale/preferred encoding": "ANSI_X3.4-1968",
            "environment/LANG": None,
            "time-zone/TZ": "Europe/Berlin",
            "time-zone/UTC offset in July": "+02:00",
            "environment/FEATURE_X": "on",
            "process/user id": "0",
            "process/umask": "0077",
            "limits/memory": "536870912",
            "ulimits/nofile": "1024 (hard 1024)",
            "cpu/count": "1",
            "cpu/features": ("sse4_2",),
            "kernel/release": "5.4.0",
            "mounts/size of /dev/shm": "1 MiB",
            "dns/name servers": ("8.8.8.8",),
            "sys-path/sys.path": ("/usr/lib/python311.zip", "/usr/lib/python3.11"),
            "interpreter/OpenSSL": "OpenSSL 3.3.0",
        },
        files={"/usr/local/bin/tool": replace(tool, mode=0o644), "/srv/data.json": replace(tool, digest="sha256:2")},
    )
    return compare(place, other)


def first(diff: EnvironmentDiff, **evidence: object) -> str:
    causes = explain(diff, FailureEvidence(**evidence))  # type: ignore[arg-type]
    assert causes
    assert causes[0].evident
    assert causes[0].why
    assert "\n" not in causes[0].why
    return causes[0].title


# exception, message, what must rank first
FAILURES = {
    "decoding": (
        "UnicodeDecodeError",
        "'ascii' codec can't decode byte 0xc3 in position 3: ordinal not in range(128)",
        "locale LANG",
    ),
    "encoding": ("UnicodeEncodeError", "'ascii' codec can't encode character '\\xfc'", "locale LANG"),
    "another order": ("AssertionError", "assert ['B', 'a', 'ä'] == ['a', 'ä', 'B']", "locale LANG"),
    "shifted clock": ("AssertionError", "assert '2024-07-01 12:00' == '2024-07-01 14:00'", "time-zone TZ"),
    "shifted datetime": (
        "AssertionError",
        "assert datetime.datetime(2024, 7, 1, 12, 0) == datetime.datetime(2024, 7, 1, 14, 0)",
        "time-zone TZ",
    ),
    "shifted epoch": ("AssertionError", "assert 1719828000 == 1719835200", "time-zone TZ"),
    "missing module": ("ModuleNotFoundError", "No module named 'yaml'", "Python package pyyaml"),
    "another interface": ("ImportError", "cannot import name 'x' from 'requests.adapters' (/x)", "Python package requests"),
    "a module's attribute": ("AttributeError", "module 'requests' has no attribute 'x'", "Python package requests"),
    "missing variable": ("KeyError", "'FEATURE_X'", "variable FEATURE_X"),
    "variable in the text": ("AssertionError", "FEATURE_X must not be set", "variable FEATURE_X"),
    "memory": ("MemoryError", "", "limits memory"),
    "killed": ("WorkerLost", "the test was killed by SIGKILL: out of memory", "limits memory"),
    "files": ("OSError", "[Errno 24] Too many open files: 'x'", "ulimits nofile"),
    "instruction": ("WorkerLost", "killed by SIGILL", "cpu features"),
    "names": ("gaierror", "[Errno -2] Name or service not known", "dns name servers"),
    "shared memory": ("OSError", "[Errno 28] No space left on device", "mounts size of /dev/shm"),
    "system call": ("OSError", "[Errno 38] Function not implemented", "kernel release"),
    "tls": ("SSLError", "[SSL: TLSV1_ALERT] tlsv1 alert", "interpreter OpenSSL"),
    "mode of a new file": ("AssertionError", "assert '0o100600' == '0o100644'", "process umask"),
    "a file's mode": ("PermissionError", "[Errno 13] Permission denied: '/usr/local/bin/tool'", "file /usr/local/bin/tool"),
    "processors": ("AssertionError", "assert 1 == 8\n +  where 1 = cpu_count()", "cpu count"),
    "a program": ("FileNotFoundError", "[Errno 2] No such file or directory: 'git'", "package git"),
    "a file": ("FileNotFoundError", "[Errno 2] No such file or directory: '/srv/data.json'", "file /srv/data.json"),
    "both versions": ("AssertionError", "assert '2.28.0' == '2.31.0'", "Python package requests"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_difference_that_a_failure_points_to_ranks_first(failure: str, diff: EnvironmentDiff) -> None:
    exception, message, expected = FAILURES[failure]
    assert first(diff, exception=exception, message=message) == expected


def test_a_package_in_the_traceback_ranks_first(diff: EnvironmentDiff) -> None:
    paths = ("/app/tests/test_a.py", f"{SITE}/requests/sessions.py")
    assert first(diff, exception="TypeError", message="bad", traceback_paths=paths) == "Python package requests"


def test_an_altered_file_in_the_traceback_ranks_first(place: Environment, change: Change) -> None:
    path = f"{SITE}/requests/api.py"
    altered = compare(
        place, change(place, files={path: replace(place.files[path], digest="sha256:x")}, facts={"locale/LANG": "C"})
    )
    assert first(altered, exception="TypeError", traceback_paths=(path,)) == "altered files of python:requests"


def test_the_assertion_lines_of_the_report_are_read_when_there_is_no_message(diff: EnvironmentDiff) -> None:
    text = "    def test_noon():\n>       assert noon() == '14:00'\nE       AssertionError: assert '12:00' == '14:00'\n"
    assert first(diff, text=text) == "time-zone TZ"


def test_facts_of_one_cause_are_one_cause_led_by_the_setting(diff: EnvironmentDiff) -> None:
    causes = explain(diff, FailureEvidence(exception="UnicodeDecodeError", message="x"))
    assert [cause.title for cause in causes] == ["locale LANG"]
    assert (causes[0].before, causes[0].after) == ("C.UTF-8", "(none), so C")
    assert len(causes[0].differences) == 3


def test_the_time_zone_of_an_image_that_did_not_run_is_found_in_its_files(place: Environment, change: Change) -> None:
    def link(target: str) -> FileFact:
        return FileFact(kind="symlink", mode=0o777, uid=0, gid=0, target=target)

    here = change(place, files={"/etc/localtime": link("/usr/share/zoneinfo/Etc/UTC")}, identity=place.identity)
    there = change(place, files={"/etc/localtime": link("/usr/share/zoneinfo/Asia/Tokyo")})
    assert (
        first(compare(here, there), exception="AssertionError", message="assert 3 == 12 where hour=3 and hour=12")
        == "file /etc/localtime"
    )


def test_a_failure_that_points_nowhere_says_so(diff: EnvironmentDiff) -> None:
    causes = explain(diff, FailureEvidence(exception="AssertionError", message="assert 1 == 2"))
    assert 0 < len(causes) <= 3
    assert not any(cause.evident for cause in causes)
    assert "nothing in the failure" in causes[0].why


def test_no_difference_has_no_cause(place: Environment) -> None:
    assert explain(compare(place, place), FailureEvidence(exception="UnicodeDecodeError")) == ()


def test_every_rule_names_its_match_or_is_a_plain_sentence() -> None:
    for rule in RULES:
        assert rule.why.format(match="x")
        assert 0 < rule.weight <= 10
