"""Runs the test suites of projects that nobody here wrote, twice each, and compares the outcome of every single test.

For each suite: its source distribution is downloaded and unpacked, an image is built from the Dockerfile beside this file, then the
suite runs with plain ``pytest`` in one container of that image, and with ``pytest --in-container`` and the same options. Everything
happens in a work directory outside of the checkout. Exit status 0: no test differs, apart from those in `EXPLAINED`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One project. ``quick``: the options that choose a part of its tests for ``--quick``; none where all of them are quick."""

    name: str
    version: str
    sha256: str
    quick: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """What its source distribution unpacks to."""
        return f"{self.name.replace('-', '_')}-{self.version}"


SUITES = (
    Suite(name="iniconfig", version="2.3.1", sha256="67f4b9c50da0dedf52af349e7749a80a9057a5031199791b906c3bb3ae878960"),
    Suite(name="pluggy", version="1.7.0", sha256="d1eaa46ebb595891b860ab086b4d09c8588af65ebd4361b8e8f4bb8920b90ba8"),
    Suite(name="itsdangerous", version="2.2.0", sha256="e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173"),
    Suite(name="markupsafe", version="3.0.4", sha256="2e9ad7dd851bf45fab9f75cbff4cb493fee9979e8d8c7c9c3ee119022518edd6"),
    Suite(name="more-itertools", version="11.2.1", sha256="cbf08fd0af284dc69718b9b76a8e6203df624d70209ea511e4219d350c856f63"),
    Suite(
        name="packaging",
        version="26.3",
        sha256="94edc256424af38762eb31306eed28beb9f0efc50a8837492c9d6fd6004aed79",
        quick=("-k", "test_tags or test_metadata or test_elffile or test_manylinux or test_musllinux"),
    ),
)

EXPLAINED: Mapping[str, Mapping[str, str]] = {}
"""Tests whose outcome cannot be the same in a container of their own: suite, then the beginning of node ids, then why."""

Event = tuple[str, str]
"""A test's node id, and what one report said about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one run of a suite told."""

    events: Counter[Event]
    cases: Counter[Event]  # from its JUnit file
    tests: int
    subtests: int
    installed: Mapping[str, Mapping[str, str | None]]
    status: int
    seconds: float


def parse_recording(text: str, junit: bytes, *, status: int, seconds: float) -> Recording:
    """What `record.py` and ``--junitxml`` wrote."""
    events: Counter[Event] = Counter()
    installed: Mapping[str, Mapping[str, str | None]] = {}
    tests = subtests = 0
    told = None
    for line in text.splitlines():
        record: dict[str, Any] = json.loads(line)
        kind = record.pop("kind")
        if kind == "installed":
            installed = record
        elif kind == "end":
            told = record["status"]
        else:
            nodeid = str(record.pop("nodeid", f"({kind})"))
            tests += kind == "test" and record["when"] == "setup"
            subtests += kind == "test" and record["subtest"] is not None
            events[nodeid, json.dumps(record, sort_keys=True)] += 1
    if told != status:
        raise SystemExit(f"pytest's status was {told}, the program's {status}")
    cases: Counter[Event] = Counter()
    for case in ET.fromstring(junit).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        cases[name, " ".join(sorted(child.tag for child in case))] += 1
    return Recording(
        events=events, cases=cases, tests=tests, subtests=subtests, installed=installed, status=status, seconds=seconds
    )


def differing(one: Counter[Event], other: Counter[Event]) -> list[str]:
    """Names with anything that is not equally often in both."""
    return sorted({name for name, _ in (one - other) + (other - one)})


def describe(events: Counter[Event], name: str) -> str:
    """All that one recording says about one test."""
    return "; ".join(f"{count} x {what}" for (of, what), count in sorted(events.items()) if of == name) or "nothing"


def explain(suite: str, name: str) -> str | None:
    """Why a test may differ."""
    return next((why for start, why in EXPLAINED.get(suite, {}).items() if name.startswith(start)), None)


class Place:
    """Where everything of this run lives; the commands that it runs."""

    def __init__(self, work: Path, *, verbose: bool) -> None:
        self.work = work
        self.verbose = verbose

    def call(
        self, command: Sequence[str], *, log: Path, cwd: Path | None = None, good: Sequence[int] = (0,)
    ) -> tuple[int, float]:
        """The exit status and seconds of a command whose output goes to a file. Stops everything if the status is not ``good``."""
        started = time.monotonic()
        with log.open("wb") as out:
            status = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_SECONDS,
                check=False,
            ).returncode
        seconds = time.monotonic() - started
        text = log.read_text(encoding="utf-8", errors="replace")
        if self.verbose:
            sys.stdout.write(text)
        if status not in good:
            raise SystemExit(f"{' '.join(command)}\nended with status {status}:\n{text[-6000:]}")
        return status, seconds

    def prepare(self, suite: Suite) -> Path:
        """A directory with ``context`` for the build and ``project`` to test, both holding the unpacked source distribution."""
        place = self.work / suite.name
        shutil.rmtree(place, ignore_errors=True)
        (place / "context").mkdir(parents=True)
        archive = self.work / "downloads" / f"{suite.folder}.tar.gz"
        if not archive.exists():
            archive.parent.mkdir(exist_ok=True)
            pip = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--dest", str(archive.parent)]
            self.call([*pip, f"{suite.name}=={suite.version}"], log=place / "download.log")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != suite.sha256:
            raise SystemExit(f"{archive} is not the archive that was meant")
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="data")
        shutil.copytree(place / suite.folder, place / "context" / "sdist")
        (place / suite.folder).rename(place / "project")
        for file in ("Dockerfile", "requirements.txt"):
            shutil.copy(HERE / suite.name / file, place / "context")
        return place

    def plain(self, suite: Suite, place: Path, options: Sequence[str]) -> Recording:
        """Plain pytest in one container, on a copy of the project at the same absolute path as in the other run."""
        out = place / "plain"
        out.mkdir()
        script = 'mkdir -p "$1" && cp -a /source/. "$1" && cd "$1" && shift && exec python3 /record.py /out/record "$@"'
        status, seconds = self.call(
            [
                *("contain", "run", "--rm", "--network", "none", "-v", f"{place / 'project'}:/source:ro", "-v", f"{out}:/out"),
                *("-v", f"{HERE / 'record.py'}:/record.py:ro", image_name(suite), "sh", "-c", script, "sh"),
                *(str(place / "project"), "--junitxml=/out/junit.xml", *options),
            ],
            log=out / "log",
            good=(0, 1),
        )
        return read_recording(out, status, seconds)

    def contained(self, suite: Suite, place: Path, options: Sequence[str], processes: int) -> Recording:
        """The same with a container per test."""
        out = place / "contained"
        out.mkdir()
        ours = ("--in-container", "--contain-image", image_name(suite), "-n", str(processes))
        status, seconds = self.call(
            [sys.executable, str(HERE / "record.py"), str(out / "record"), *ours, f"--junitxml={out / 'junit.xml'}", *options],
            log=out / "log",
            cwd=place / "project",
            good=(0, 1),
        )
        return read_recording(out, status, seconds)


def read_recording(out: Path, status: int, seconds: float) -> Recording:
    """The files of one run."""
    text = (out / "record").read_text(encoding="utf-8")
    return parse_recording(text, (out / "junit.xml").read_bytes(), status=status, seconds=seconds)


def image_name(suite: Suite) -> str:
    """The tag of its image."""
    return f"suite-{suite.name}:{suite.version}"


def compare(suite: Suite, place: Place, *, quick: bool, processes: int) -> tuple[tuple[str, ...], list[str]]:
    """Run one suite both ways: its row of the table, and what is wrong."""
    folder = place.prepare(suite)
    place.call(["contain", "build", "-t", image_name(suite), str(folder / "context")], log=folder / "build.log")
    options = ("-p", "no:cacheprovider", *(suite.quick if quick else ()))
    before = listing(folder / "project")
    plain = place.plain(suite, folder, options)
    contained = place.contained(suite, folder, options, processes)

    problems = []
    under_test = plain.installed[suite.name]
    if under_test["version"] != suite.version or under_test["from"] != "file:///opt/sdist":
        problems.append(f"{suite.name}: the image would test {under_test}, not the source distribution")
    if plain.tests == 0:
        problems.append(f"{suite.name}: no test ran")
    if plain.status != contained.status:
        problems.append(f"{suite.name}: exit status {plain.status} plain, {contained.status} in containers")
    if listing(folder / "project") != before:
        problems.append(f"{suite.name}: the run in containers changed the project's directory")
    names = differing(plain.events, contained.events)
    for name in names:
        why = explain(suite.name, name)
        told = f"{suite.name}: {name}\n    plain:     {describe(plain.events, name)}\n    container: {describe(contained.events, name)}"
        if why is None:
            problems.append(told)
        else:
            sys.stdout.write(f"{told}\n    explained: {why}\n")
    if not names:
        for name in differing(plain.cases, contained.cases):
            case = f"plain: {describe(plain.cases, name)}, containers: {describe(contained.cases, name)}"
            problems.append(f"{suite.name}: JUnit case {name}: {case}")
    row = (
        f"{suite.name} {suite.version}{' (a part)' if quick and suite.quick else ''}",
        f"{plain.tests:,}",
        f"{plain.subtests:,}",
        f"{plain.tests - len(names):,}",
        f"{len(names):,}",
        f"{plain.seconds:.1f}",
        f"{contained.seconds:.1f}",
        f"{(contained.seconds - plain.seconds) / max(1, plain.tests) * 1000:+.1f}",
    )
    return row, problems


def listing(folder: Path) -> list[tuple[str, int]]:
    """Every path below a directory, with its size."""
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the outcome of every test under pytest and pytest --in-container.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(suite.name for suite in SUITES)} (all)")
    parser.add_argument("--quick", action="store_true", help="only a part of packaging's 62,423 tests, chosen with -k")
    parser.add_argument(
        "-n", "--processes", type=int, default=len(os.sched_getaffinity(0)), help="tests at one time in containers"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp/pytest-contain-suites"), help="where everything is unpacked"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the output of every command")
    options = parser.parse_args()
    unknown = set(options.suites) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options.work.mkdir(parents=True, exist_ok=True)
    place = Place(options.work.resolve(), verbose=options.verbose)
    rows: list[tuple[str, ...]] = [
        (
            "suite",
            "tests",
            "subtests",
            "same",
            "differing",
            "plain s",
            f"containers s (-n {options.processes})",
            "added ms per test",
        )
    ]
    problems: list[str] = []
    for suite in SUITES:
        if options.suites and suite.name not in options.suites:
            continue
        sys.stdout.write(f"{suite.name} ...\n")
        sys.stdout.flush()
        row, wrong = compare(suite, place, quick=options.quick, processes=options.processes)
        rows.append(row)
        problems += wrong
    if options.quick:
        for suite in SUITES:
            if suite.quick:
                sys.stdout.write(f"--quick: of {suite.name} only {' '.join(suite.quick)}\n")
    sys.stdout.write("\n" + render_table(rows))
    for problem in problems[:40]:
        sys.stdout.write(f"\n{problem}\n")
    if len(problems) > 40:
        sys.stdout.write(f"\n... and {len(problems) - 40} more\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
