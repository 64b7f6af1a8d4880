"""Measures what containers cost here, beside other engines, in one run on one machine, and writes ``docs/benchmarks.md``.

Four questions: what a container per test adds to a test; how long a container takes to start; how long a build takes that is all in
the cache; and a cold one. Runs of different engines take turns, so that whatever else the machine does hits all of them. A peer that
is not installed, or that refuses this machine, is left out and named. Needs root, a Debian mirror and PyPI; makes its own store.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers import make_bundle, open_docker, run, unmount_below, versions

HERE = Path(__file__).resolve().parent
TESTS = 200
BASE, PYTHON, CACHED = "bench-base", "bench-python", "bench-cached"
PATH = "/opt/tests/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSTALL_PYTHON = "apt-get update && apt-get install --yes --no-install-recommends python3"

TRIVIAL = """\
import pytest


@pytest.mark.parametrize("number", range({count}))
def test_trivial(number):
    assert number >= 0
"""

CACHED_DOCKERFILE = f"""\
FROM {BASE}
ENV MODE=production
WORKDIR /srv/app
COPY requirements.txt ./
RUN cp requirements.txt /etc/app-requirements
COPY source ./source
RUN ls source > /etc/app-files && useradd --system app
USER app
CMD ["true"]
"""

PER_TEST = """\
Milliseconds per test in pytest's test loop: start-up and collection are left out, everything else is in. The first two ran
in one container of the same image. *Bare fork*: each test in a child of the process that collected, its reports back through a pipe."""

STARTING = """\
`contain`, `docker` and `podman` mount the image's layers and keep a record. `runc`, `crun` and `bwrap` run on a directory
that is already there, without layers; `bwrap` has no control group. The Docker daemon runs already, and makes no packet
filter rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: milliseconds of each run; or why there are none."""

    name: str
    milliseconds: tuple[float, ...] = ()
    missing: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.milliseconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A promise, and what came of it."""

    promise: str
    measured: str
    met: bool | None


Action = Callable[[], float]
"""Does it once; the seconds."""


def command(*words: str, **environment: str) -> Action:
    """Run a command to its end, and take the time."""

    def once() -> float:
        started = time.perf_counter()
        run(*words, directory=None, **environment)
        return time.perf_counter() - started

    return once


def take_turns(actions: Mapping[str, Action], rounds: int) -> dict[str, Row]:
    """Each action once to warm up, then ``rounds`` times each, in turns. One that fails the first time is left out."""
    seconds: dict[str, list[float]] = {}
    rows: dict[str, Row] = {}
    for name, action in actions.items():
        try:
            action()
            seconds[name] = []
        except SystemExit as error:
            rows[name] = Row(name=name, missing=str(error).strip().splitlines()[-1][:160])
    for _ in range(rounds):
        for name, taken in seconds.items():
            taken.append(actions[name]())
    for name, taken in seconds.items():
        rows[name] = Row(name=name, milliseconds=tuple(value * 1000 for value in taken))
    return {name: rows[name] for name in actions}


class Bench:
    """Everything of one run: a work directory with stores and images, and the numbers of rounds."""

    def __init__(self, work: Path, docker: Sequence[str] | None, *, scale: float) -> None:
        self.work = work
        self.docker = docker
        self.scale = scale
        self.contain = str(Path(sys.executable).with_name("contain"))
        self.root = work / "root"
        self.project = work / "project"

    def rounds(self, number: int) -> int:
        """So many rounds, or fewer for a quick look."""
        return max(1, round(number * self.scale))

    def say(self, text: str) -> None:
        """Progress."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    # -- images ---------------------------------------------------------------------------------------------------------

    def context(self, name: str, dockerfile: str) -> str:
        """A build context with only a Dockerfile."""
        place = self.work / name
        place.mkdir(exist_ok=True)
        (place / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        return str(place)

    def prepare(self) -> None:
        """The images that both engines use, exchanged as root file systems; the tests; an unpacked root for the runtimes."""
        self.say("images ...")
        base = self.context("base", "FROM debian:bookworm\n")
        run(self.contain, "build", "-t", BASE, base)
        install = f"RUN {INSTALL_PYTHON} python3-venv && rm -rf /var/lib/apt/lists/*\n"
        venv = "RUN python3 -m venv /opt/tests && /opt/tests/bin/pip install --no-cache-dir pytest==9.2.0\n"
        run(self.contain, "build", "-t", PYTHON, self.context("python", f"FROM {BASE}\n{install}{venv}ENV PATH={PATH}\n"))
        out = self.work / "out"
        out.mkdir()
        for name in (BASE, PYTHON):
            archive = f"/out/{name}.tar"
            tar = ("tar", "-C", "/", "--one-file-system", "-cf", archive, ".")
            run(self.contain, "run", "--rm", "--network", "none", "-v", f"{out}:/out", name, *tar)
            if self.docker:
                run(*self.docker, "import", "--change", f"ENV PATH={PATH}", str(out / f"{name}.tar"), name)
        if shutil.which("podman"):
            with contextlib.suppress(SystemExit):  # then its row says why
                run(*self.podman(), "import", str(out / f"{BASE}.tar"), BASE)
        self.root.mkdir()
        run("tar", "-xf", str(out / f"{BASE}.tar"), "-C", str(self.root))
        for count, folder in ((TESTS, "many"), (1, "one")):
            (self.project / folder).mkdir(parents=True)
            (self.project / folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
            (self.project / folder / "test_trivial.py").write_text(TRIVIAL.format(count=count), encoding="utf-8")

    def podman(self) -> list[str]:
        """Podman with a store of its own."""
        place = self.work / "podman"
        return [
            "podman",
            "--runtime",
            "runc",
            "--root",
            str(place / "root"),
            "--runroot",
            str(place / "run"),
            "--tmpdir",
            str(place),
        ]

    # -- a container per test -------------------------------------------------------------------------------------------

    def per_test(self) -> dict[str, Row]:
        """Milliseconds per test, once pytest has started and collected."""
        self.say("a container per test ...")
        out = self.work / "out" / "loop.json"
        folder = self.project / "many"
        quiet = ("-q", "-p", "no:cacheprovider")

        def told() -> float:
            record = json.loads(out.read_text(encoding="utf-8"))
            if record["tests"] != TESTS or record["failed"]:
                raise SystemExit(f"the tests did not run as they should: {record}")
            return float(record["seconds"]) / TESTS

        def inside(mode: str) -> Action:
            mounts = ("-v", f"{HERE}:/bench:ro", "-v", f"{out.parent}:/out", "-v", f"{folder}:/project", "-w", "/project")
            words = ("python3", "/bench/timed_pytest.py", "/out/loop.json", mode, *quiet)

            def once() -> float:
                run(self.contain, "run", "--rm", "--network", "none", *mounts, PYTHON, *words)
                return told()

            return once

        def contained(processes: int) -> Action:
            ours = ("--in-container", "--contain-image", PYTHON, "-n", str(processes))

            def once() -> float:
                run(sys.executable, str(HERE / "timed_pytest.py"), str(out), "plain", *quiet, *ours, directory=folder)
                return told()

            return once

        actions = {
            "plain pytest": inside("plain"),
            "pytest, a bare `fork()` per test": inside("fork"),
            "`pytest --in-container`": contained(1),
            "`pytest --in-container -n 2`": contained(2),
        }
        return take_turns(actions | self.container_per_pytest(), self.rounds(7))

    def container_per_pytest(self) -> dict[str, Action]:
        """One test in a new container with a new pytest in it: what each test would take that way."""
        mount = ("-v", f"{self.project / 'one'}:/project:ro", "-w", "/project")
        words = (PYTHON, "pytest", "-q", "-p", "no:cacheprovider", "test_trivial.py")
        actions: dict[str, Action] = {}
        if self.docker:
            actions["`docker run ... pytest` for each test"] = command(*self.docker, "run", "--rm", *mount, *words)
        actions["`contain run ... pytest` for each test"] = command(self.contain, "run", "--rm", *mount, *words)
        return actions

    # -- starting a container -------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Row]:
        """Milliseconds from command to prompt."""
        self.say("starting a container ...")
        actions: dict[str, Action] = {}
        for network in ("none", "bridge"):
            actions[f"`contain run --network {network}`"] = command(
                self.contain, "run", "--rm", "--network", network, BASE, "true"
            )
        if self.docker:
            for network in ("none", "bridge"):
                words = (*self.docker, "run", "--rm", "--network", network, BASE, "true")
                actions[f"`docker run --network {network}`"] = command(*words)
        missing = {name: "not installed" for name in ("podman", "runc", "crun", "bwrap") if shutil.which(name) is None}
        if not self.docker:
            missing["docker"] = "no daemon"
        if "podman" not in missing:
            limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
            words = (*self.podman(), "run", "--rm", *limits, "--network", "none", BASE, "true")
            actions["`podman run --network none` (runc)"] = command(*words)
        for runtime, options in (("runc", ()), ("crun", ("--cgroup-manager=disabled",))):
            if runtime not in missing:
                bundle = self.work / f"{runtime}-bundle"
                make_bundle(bundle, self.root, runtime)
                state = ("--root", str(self.work / f"{runtime}-state"))
                words = (runtime, *state, *options, "run", "--bundle", str(bundle), f"bench-{runtime}")
                actions[f"`{runtime} run`"] = command(*words)
        if "bwrap" not in missing:
            root = ("--bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev")
            actions["`bwrap --unshare-all`"] = command("bwrap", *root, "--unshare-all", "--die-with-parent", "true")
        rows = take_turns(actions, self.rounds(21))
        return rows | {name: Row(name=f"`{name}`", missing=why) for name, why in missing.items()}

    # -- building -------------------------------------------------------------------------------------------------------

    def cached_build(self) -> dict[str, Row]:
        """Milliseconds of a build in which every step is known."""
        self.say("a build from the cache ...")
        place = Path(self.context("cached", CACHED_DOCKERFILE))
        (place / "requirements.txt").write_text("flask==3.1.0\n", encoding="utf-8")
        (place / "source").mkdir()
        for number in range(200):
            (place / "source" / f"module_{number}.py").write_text(f"NUMBER = {number}\n" * 50, encoding="utf-8")
        actions = {"`contain build`": command(self.contain, "build", "-t", CACHED, str(place))}
        if self.docker:
            for kit, name in (("0", "`docker build` (classic builder)"), ("1", "`docker build` (BuildKit)")):
                actions[name] = command(*self.docker, "build", "-q", "-t", CACHED, str(place), DOCKER_BUILDKIT=kit)
        return take_turns(actions, self.rounds(15))

    def cold_build(self) -> dict[str, Row]:
        """Milliseconds of a build in which nothing is known: one step that installs Python."""
        self.say("cold builds ...")
        place = self.context("cold", f"FROM {BASE}\nRUN {INSTALL_PYTHON}\n")
        bootstrapped = self.context("bootstrapped", f"FROM debian:bookworm\nRUN {INSTALL_PYTHON}\n")

        def from_nothing() -> float:
            store = self.work / "empty-store"
            shutil.rmtree(store, ignore_errors=True)
            return command(self.contain, "build", "-t", "cold", bootstrapped, CONTAIN_HOME=str(store))()

        actions = {
            "`contain build --no-cache`": command(self.contain, "build", "--no-cache", "-t", "cold", place),
            "`contain build`, empty store, base bootstrapped from the Debian archive": from_nothing,
        }
        if self.docker:
            words = (*self.docker, "build", "-q", "--no-cache", "--network", "host", "-t", "cold", place)
            actions["`docker build --no-cache` (classic builder)"] = command(*words, DOCKER_BUILDKIT="0")
        return take_turns(actions, self.rounds(3))


# -- the page -----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], unit: str, against: Mapping[str, Row], *, digits: int = 1) -> list[str]:
    """Median, spread, and how many times each reference row."""
    references = {title: row for title, row in against.items() if row.milliseconds}
    lines = [
        f"| | median {unit} | lowest to highest | runs |{''.join(f' {title} |' for title in references)}",
        f"|---|---:|---:|---:|{'---:|' * len(references)}",
    ]
    for row in rows:
        if not row.milliseconds:
            lines.append(f"| {row.name} | not measured: {row.missing} | | |{' |' * len(references)}")
            continue
        spread = f"{min(row.milliseconds):.{digits}f} to {max(row.milliseconds):.{digits}f}"
        ratios = "".join(f" {row.median / reference.median:.2f} |" for reference in references.values())
        lines.append(f"| {row.name} | {row.median:.{digits}f} | {spread} | {len(row.milliseconds)} |{ratios}")
    return lines


def ratio(one: Row | None, other: Row | None) -> float | None:
    """How many times as long ``one`` takes."""
    if one is None or other is None or not one.milliseconds or not other.milliseconds:
        return None
    return one.median / other.median


def judge(promise: str, value: float | None, good: Callable[[float], bool], text: str) -> Target:
    """A promise against a measured ratio."""
    if value is None:
        return Target(promise=promise, measured="not measured", met=None)
    return Target(promise=promise, measured=text.format(value), met=good(value))


def describe_machine() -> list[str]:
    """The machine, as far as it decides how fast things are; nothing that names it."""
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    memory = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    peers = ", ".join(f"{name} {version}" for name, version in versions()) or "none installed"
    return [
        f"- Processor: {cpu}, {os.cpu_count()} cores; memory: {memory / (1 << 20):.0f} GiB",
        f"- Kernel: Linux {platform.release().split('-')[0]}, {platform.machine()}; host's Python {platform.python_version()}",
        f"- Peers: {peers}",
        f"- Load when the run began: {os.getloadavg()[0]:.1f} (runs take turns; the ratios mean more than the numbers)",
    ]


def render(machine: list[str], results: Mapping[str, Mapping[str, Row]]) -> tuple[str, list[Target]]:
    """The page, and the promises."""
    tests, starts, builds, cold = (results[name] for name in ("tests", "start", "cached", "cold"))
    plain, fork, contained, two = list(tests.values())[:4]
    each = {name: row for name, row in tests.items() if name.endswith("for each test")}
    docker_each = next((row for name, row in each.items() if "docker" in name), None)
    docker_start = next((row for name, row in starts.items() if "docker run --network bridge" in name), None)
    docker_none = next((row for name, row in starts.items() if "docker run --network none" in name), None)
    docker_builds = [row for name, row in builds.items() if "docker" in name and row.milliseconds]
    docker_build = min(docker_builds, key=lambda row: row.median) if docker_builds else None
    cold_docker = next((row for name, row in cold.items() if "docker" in name), None)
    contain_none, contain_bridge = starts["`contain run --network none`"], starts["`contain run --network bridge`"]

    added = [
        Row(name=row.name, milliseconds=tuple(value - plain.median for value in row.milliseconds))
        for row in (fork, contained, two)
        if row.milliseconds
    ]
    targets = [
        judge("a container per test costs under 3 x a bare fork per test", ratio(contained, fork), lambda x: x < 3, "{:.2f} x"),
        judge(
            "... and over 40 x less than `docker run ... pytest` per test",
            ratio(docker_each, contained),
            lambda x: x > 40,
            "{:.0f} x less",
        ),
        judge(
            "cold `contain run` at least 4 x faster than `docker run`",
            ratio(docker_start, contain_bridge),
            lambda x: x >= 4,
            "{:.1f} x",
        ),
        judge("... both without a network", ratio(docker_none, contain_none), lambda x: x >= 4, "{:.1f} x"),
        judge(
            "a cached `contain build` is no slower than `docker build`",
            ratio(builds["`contain build`"], docker_build),
            lambda x: x <= 1,
            "{:.2f} x",
        ),
    ]
    today = dt.datetime.now(dt.UTC).date().isoformat()
    marks = {True: "yes", False: "**no**", None: "?"}
    lines = [
        "# Benchmarks",
        "",
        "Builds, and images on the move: [a page of their own](benchmarks-images.md).",
        "Containers as services: [another](benchmarks-containers.md).",
        "",
        f"Written by `nox -s bench` on {today}. Medians; engines took turns in one run.",
        "",
        *machine,
        "",
        "| what should be | measured | met |",
        "|---|---:|---|",
        *(f"| {target.promise} | {target.measured} | {marks[target.met]} |" for target in targets),
        "",
        f"## A container per test: {TESTS} trivial tests",
        "",
        PER_TEST,
        "",
        *table([plain, fork, contained, two], "ms", {"x plain": plain, "x fork": fork}, digits=2),
        "",
        "The same without what plain pytest takes:",
        "",
        *table(added, "ms", {"x fork": added[0]}, digits=2),
        "",
        "A new container and a new pytest for each test; per test, extrapolated from a handful of runs of one test:",
        "",
        *table(list(each.values()), "ms", {"x `--in-container`": contained}),
        "",
        "## Starting a container: `true` in a Debian image, from command to exit",
        "",
        STARTING,
        "",
        *table(list(starts.values()), "ms", {"x `contain` none": contain_none, "x `contain` bridge": contain_bridge}),
        "",
        "## Building",
        "",
        "Everything in the cache: nine instructions, 200 files to copy.",
        "",
        *table(list(builds.values()), "ms", {"x `contain`": builds["`contain build`"]}),
        "",
        "Cold: `apt-get install python3`, with the network in the way. Both have the same base image, but for the row that says so.",
        "",
        *table(list(cold.values()), "ms", {"x `docker`": cold_docker} if cold_docker else {}, digits=0),
        "",
    ]
    return "\n".join(lines), targets


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what containers cost, beside other engines.")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "benchmarks.md", help="the page to write")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="fewer rounds: 0.2 for a quick look")
    parser.add_argument(
        "--only", choices=("tests", "start", "cached", "cold"), action="append", help="print these, write nothing"
    )
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as for any user
    machine = describe_machine()
    work = Path(tempfile.mkdtemp(prefix="contain-bench-", dir="/var/tmp"))
    os.environ["CONTAIN_HOME"] = str(work / "store")
    started = time.monotonic()
    try:
        with open_docker(work) as docker:
            bench = Bench(work, docker, scale=options.scale)
            bench.prepare()
            parts: dict[str, Callable[[], dict[str, Row]]] = {
                "tests": bench.per_test,
                "start": bench.start,
                "cached": bench.cached_build,
                "cold": bench.cold_build,
            }
            results = {name: part() for name, part in parts.items() if not options.only or name in options.only}
            if options.only:
                for rows in results.values():
                    bench.say("\n".join(table(list(rows.values()), "ms", {"x first": next(iter(rows.values()))}, digits=2)))
                return 0
            page, targets = render(machine, results)
            options.output.write_text(page, encoding="utf-8")
            bench.say(page)
            bench.say(f"{time.monotonic() - started:.0f} seconds; written to {options.output.name}")
            return 0 if all(target.met is not False for target in targets) else 1
    finally:
        unmount_below(work)
        subprocess.run(["rm", "-rf", "--one-file-system", str(work)], check=False)


if __name__ == "__main__":
    sys.exit(main())
