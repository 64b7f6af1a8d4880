"""Tell the story of a test that passes in CI and fails where the service runs, and check that it went as told.

Runs the tests of this directory in a container each, in both environments that ``pyproject.toml`` declares, and asks what differs
between the two. Exit status: 0 if one test failed, in the deployment, and the time zone was named as its cause; 1 otherwise.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

HERE = Path(__file__).resolve().parent
BOTH = ("ci", "deployment")
CULPRIT = "test_a_payment_after_midnight_is_booked_on_the_new_day"


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(arguments: Sequence[str], *, shown: str) -> tuple[int, str]:
    """Run a program here; its exit status, and what it printed, which is shown as it comes."""
    say(f"$ {shown}")
    printed = []
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            print(line, end="", flush=True)
    return process.returncode, "".join(printed)


def failed_tests(report: Path) -> dict[str, list[str]] | None:
    """From a JUnit report: the names of the tests that failed in each environment; None if not all tests ran in both."""
    failed: dict[str, list[str]] = {name: [] for name in BOTH}
    ran = dict.fromkeys(BOTH, 0)
    for case in ET.parse(report).iter("testcase"):
        match = re.fullmatch(r"(.+)@(ci|deployment)\]?", case.get("name", ""))
        if match is None:
            return None
        ran[match[2]] += 1
        if case.find("failure") is not None or case.find("error") is not None:
            failed[match[2]].append(match[1])
    return failed if len(set(ran.values())) == 1 and ran[BOTH[0]] else None


def main() -> int:
    wrong: list[str] = []

    say(f'Two environments, {" and ".join(BOTH)}. Both call themselves "Debian 12 + Python 3.11". Do the tests pass in both?')
    print("(The first time, a Debian is made from the packages of a mirror. That takes about half a minute.)", flush=True)
    with tempfile.TemporaryDirectory() as place:
        report = Path(place, "report.xml")
        arguments = ["--in-container", "--contain-env", "ci", "--contain-env", "deployment"]
        status, printed = run(
            [
                "pytest",
                *arguments,
                f"--color={'yes' if sys.stdout.isatty() else 'no'}",
                "-p",
                "no:cacheprovider",
                "-o",
                "junit_family=xunit2",
                f"--junitxml={report}",
            ],
            shown=f"pytest {' '.join(arguments)}",
        )
        failed = failed_tests(report) if report.exists() else None
    if status != 1:
        wrong.append(f"pytest ended with exit status {status}, not 1 (some tests failed)")
    if failed is None:
        wrong.append("the tests did not run in both environments")
    else:
        if failed["ci"]:
            wrong.append(f"these failed in ci, where all should pass: {', '.join(failed['ci'])}")
        if failed["deployment"] != [CULPRIT]:
            wrong.append(f"{CULPRIT} alone should fail in deployment; failed: {', '.join(failed['deployment']) or 'none'}")
    cause = re.search(rf"{CULPRIT} failed in deployment:\n(.*)", printed)
    if cause is None or "TZ" not in cause[1]:
        wrong.append(f"the time zone should come first among the causes; there came: {cause[1].strip() if cause else 'none'}")

    say("And without any test: what differs between the two?")
    status, printed = run(["contain.cli.start", "diff", *BOTH], shown=f"contain diff {' '.join(BOTH)}")
    if status != 1:
        wrong.append(f"contain diff ended with exit status {status}, not 1 (they differ)")
    if not re.search(r"\bTZ\b.*Europe/Berlin", printed):
        wrong.append("contain diff did not show that the time zones differ")

    if wrong:
        say("The story did not go as told:")
        for line in wrong:
            print(f"  - {line}")
        return 1
    say("As told: every test passes in ci, one fails in deployment, and what explains it has a name: the variable TZ.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
