"""Measures builds, caches and the moving of images beside other tools, in one run on one machine, and writes
``docs/benchmarks-images.md``.

Each action prepares itself outside of the clock (an empty store, an image that is gone again); the tools take turns. A tool that is not
installed, or that refuses, is left out and named. Needs root and a Debian mirror; makes its own stores.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import CACHED_DOCKERFILE, Row, describe_machine, table, take_turns
from peers import open_docker, run, unmount_below

HERE = Path(__file__).resolve().parent
CONTAIN = str(Path(sys.executable).with_name("contain"))
SMALL_FILES, CONTEXT_FILES, RUNS, LARGE_MIB, COMMIT_MIB = 20_000, 50_000, 20, 1024, 500
DIGITS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One table. ``limit``: how many times the best peer's time ours may take."""

    title: str
    text: str
    actions: Mapping[str, Callable[[], float]]
    rounds: int
    limit: float = 1.2


@dataclass(slots=True)
class Memory:
    """The largest resident set of any of our processes, in MiB, by what they did."""

    seen: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, kibibytes: int) -> None:
        """Keep the larger one."""
        self.seen[name] = max(self.seen.get(name, 0.0), kibibytes / 1024)


def timed(*command: str, **environment: str) -> float:
    """The seconds of a command that must succeed; what others wrote is on the disk before."""
    os.sync()
    started = time.perf_counter()
    run(*command, **environment)
    return time.perf_counter() - started


class Images:
    """The work directory, the tools, and what is measured with them."""

    def __init__(self, work: Path, docker: list[str] | None, *, scale: float) -> None:
        self.work, self.docker, self.scale = work, docker, scale
        self.memory = Memory()
        self.home = work / "store"
        self.fresh_home = work / "fresh"
        self.registry = ""

    def rounds(self, number: int) -> int:
        """So many rounds, or fewer for a quick look."""
        return max(1, round(number * self.scale))

    # -- tools ----------------------------------------------------------------------------------------------------------

    def ours(self, name: str, *words: str, fresh: bool = False, home: Path | None = None) -> Callable[[], float]:
        """A command of ours; ``fresh``: with an empty store, else with the one at ``home``. Its memory is kept under ``name``."""

        def once() -> float:
            place = self.fresh_home if fresh else home or self.home
            if fresh:
                shutil.rmtree(place, ignore_errors=True)
            os.sync()
            started = time.perf_counter()
            process = subprocess.Popen(
                [CONTAIN, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "CONTAIN_HOME": str(place)},
            )
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            taken = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"contain {' '.join(words)}: {output.decode(errors='replace')[-2000:]}")
            self.memory.note(name, usage.ru_maxrss)
            return taken

        return once

    def docker_builds(
        self, context: Path, *flags: str, before: Callable[[], None] = lambda: None
    ) -> dict[str, Callable[[], float]]:
        """Docker's two builders."""
        if not self.docker:
            return {}

        def build(kit: str) -> Callable[[], float]:
            def once() -> float:
                before()
                assert self.docker
                return timed(*self.docker, "build", "-q", *flags, str(context), DOCKER_BUILDKIT=kit)

            return once

        return {"docker build (classic)": build("0"), "docker build (BuildKit)": build("1")}

    def buildah(self, context: Path, *flags: str, before: Callable[[], None] = lambda: None) -> dict[str, Callable[[], float]]:
        """buildah with a store of its own."""
        if not shutil.which("buildah"):
            return {}
        place = [
            "--root",
            str(self.work / "buildah"),
            "--runroot",
            str(self.work / "buildah-run"),
            "--storage-driver",
            "overlay",
        ]

        def once() -> float:
            before()
            return timed("buildah", *place, "bud", "--isolation", "chroot", "-q", *flags, str(context))

        return {"buildah": once}

    def context(self, name: str, dockerfile: str) -> Path:
        """A directory with a Dockerfile."""
        place = self.work / name
        place.mkdir()
        (place / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        return place

    # -- what is measured -----------------------------------------------------------------------------------------------

    def builds(self) -> Iterator[Part]:
        """The builder and its cache."""
        base = self.context("base", "FROM debian:bookworm\n")
        run(CONTAIN, "build", "-t", "bench-base", str(base))
        run(CONTAIN, "save", "-o", str(self.work / "base.tar"), "bench-base")
        if self.docker:
            run(*self.docker, "load", "-i", str(self.work / "base.tar"))
        place = self.context("cached", CACHED_DOCKERFILE)
        (place / "requirements.txt").write_text("flask==3.1.0\n", encoding="utf-8")
        (place / "source").mkdir()
        for number in range(200):
            (place / "source" / f"module_{number}.py").write_text(f"NUMBER = {number}\n" * 50, encoding="utf-8")
        settle(place)
        yield Part(
            title="Everything in the cache",
            text="Nine instructions, 200 files to copy. `--explain` looks each step up; without it, a build that is the same in every "
            "respect is answered from its record.",
            actions={
                "contain build": self.ours("cached build", "build", "-t", "bench-cached", str(place)),
                "contain build --explain": self.ours("cached build", "build", "--explain", "-t", "bench-cached", str(place)),
                **self.docker_builds(place, "-t", "bench-cached"),
            },
            rounds=self.rounds(15),
            limit=1 / 3,
        )
        yield from self.contexts()
        lines = "".join(f"RUN true {number}\n" for number in range(RUNS))
        runs = self.context("runs", f"FROM bench-base\n{lines}")
        yield Part(
            title=f"{RUNS} times `RUN true`, nothing in the cache",
            text="The Docker daemon makes no packet filter rules; all without a network of their own.",
            actions={
                "contain build": self.ours("RUN", "build", "-q", "--no-cache", "--network", "none", str(runs)),
                **self.docker_builds(runs, "--no-cache", "--network", "none"),
            },
            rounds=self.rounds(3),
            limit=1 / 3,
        )
        commit = self.context("commit", f"FROM bench-base\nRUN dd if=/dev/zero of=/large bs=1M count={COMMIT_MIB}\n")
        yield Part(
            title=f"A step that writes {COMMIT_MIB} MiB",
            text="From command to image.",
            actions={
                "contain build": self.ours("commit", "build", "-q", "--no-cache", "--network", "none", str(commit)),
                **self.docker_builds(commit, "--no-cache", "--network", "none"),
            },
            rounds=self.rounds(3),
        )

    def contexts(self) -> Iterator[Part]:
        """Large contexts."""
        unchanged = self.context("unchanged", "FROM scratch\nCOPY files /files/\n")
        for number in range(CONTEXT_FILES):
            path = unchanged / "files" / f"{number // 5000}" / f"{number // 100 % 50}" / f"{number % 100}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d\n" % number * 20)
        settle(unchanged)

        def walk() -> float:
            started = time.perf_counter()
            for place, _, names in os.walk(unchanged):
                for name in names:
                    os.lstat(os.path.join(place, name))
            return time.perf_counter() - started

        def everyone(before: Callable[[], None]) -> dict[str, Callable[[], float]]:
            build = self.ours("large context", "build", "-q", str(unchanged))

            def changed() -> float:
                before()
                return build()

            kit = self.docker_builds(unchanged, before=before).popitem() if self.docker else None
            return {"contain build": changed, **(dict([kit]) if kit else {})}

        yield Part(
            title=f"A context of {CONTEXT_FILES} files, unchanged",
            text="*A bare walk*: `os.walk` with one `lstat` for each file. The classic builder and buildah take over ten times longer.",
            actions={**everyone(lambda: None), "a bare walk": walk},
            rounds=self.rounds(3),
        )

        def change() -> None:
            (unchanged / "files/0/0/0.txt").write_text(f"{random.random()}\n", encoding="utf-8")

        yield Part(
            title=f"A context of {CONTEXT_FILES} files, one of them changed",
            text="All of them are copied into a new layer.",
            actions=everyone(change),
            rounds=self.rounds(3),
        )
        small = self.context("small", "FROM scratch\nCOPY files /files/\n")
        for number in range(SMALL_FILES):
            path = small / "files" / f"{number // 100:03}" / f"{number % 100:02}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d " % number * (100 + number % 400))
        large = self.context("large", "FROM scratch\nCOPY files /files/\n")
        write_large(large / "files")
        for title, place in ((f"`COPY` of {SMALL_FILES} files", small), (f"`COPY` of {LARGE_MIB} MiB in four files", large)):
            yield Part(
                title=title,
                text="Nothing in the cache.",
                actions={
                    "contain build": self.ours("COPY", "build", "-q", str(place), fresh=True),
                    **self.docker_builds(place, "--no-cache"),
                    **self.buildah(place, "--no-cache"),
                },
                rounds=self.rounds(3),
            )

    def moves(self) -> Iterator[Part]:
        """Files and registries."""
        run(CONTAIN, "build", "-q", "-t", "large", str(self.work / "large"))
        archive, other = self.work / "large.tar", self.work / "other.tar"
        run(CONTAIN, "save", "-o", str(archive), "large")
        docker, skopeo = self.docker, shutil.which("skopeo")
        if docker:
            run(*docker, "load", "-i", str(archive))

        def removed(path: Path, action: Callable[[], float]) -> Callable[[], float]:
            def once() -> float:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                return action()

            return once

        saves = {"contain save": removed(other, self.ours("save", "save", "-o", str(other), "large"))}
        loads = {"contain load": self.ours("load", "load", "-q", "-i", str(archive), fresh=True)}
        if docker:
            saves["docker save"] = removed(other, lambda: timed(*docker, "save", "-o", str(other), "large"))

            def load() -> float:
                subprocess.run([*docker, "rmi", "-f", "large"], capture_output=True, check=False)
                return timed(*docker, "load", "-q", "-i", str(archive))

            loads["docker load"] = load
        if skopeo:
            layout = self.work / "layout"
            source = f"docker-archive:{archive}"
            loads["skopeo copy (not unpacked)"] = removed(layout, lambda: timed(skopeo, "copy", "-q", source, f"dir:{layout}"))
        yield Part(title=f"`save` of an image of {LARGE_MIB} MiB", text="", actions=saves, rounds=self.rounds(3))
        yield Part(title=f"`load` of an image of {LARGE_MIB} MiB", text="", actions=loads, rounds=self.rounds(3))
        if self.registry:
            yield from self.registries(skopeo)

    def registries(self, skopeo: str | None) -> Iterator[Part]:
        """Against a registry on loopback. Each push goes to a registry of its own: docker and skopeo remember what a registry has,
        and have it mounted from there instead of sending it."""
        docker, numbers, running = self.docker, iter(range(10_000)), contextlib.ExitStack()

        def name() -> str:
            running.close()  # the one before
            place = self.work / f"registry-{next(numbers)}"
            place.mkdir()
            running.callback(shutil.rmtree, place)
            return f"{running.enter_context(open_registry(place))}/bench/large:1"

        def push(*flags: str) -> Callable[[], float]:
            def once() -> float:
                target, home = name(), self.home
                if flags:  # what was compressed is remembered: each time in a store that knows nothing of it
                    home = self.work / "packing"
                    shutil.rmtree(home, ignore_errors=True)
                    run(CONTAIN, "load", "-q", "-i", str(self.work / "large.tar"), CONTAIN_HOME=str(home))
                run(CONTAIN, "tag", "large", target, CONTAIN_HOME=str(home))
                return self.ours("push", "push", "-q", *flags, target, home=home)()

            return once

        pushes = {"contain push": push(), "contain push --compression gzip": push("--compression", "gzip")}
        if docker:

            def docker_push() -> float:
                target = name()
                run(*docker, "tag", "large", target)
                return timed(*docker, "push", "-q", target)

            pushes["docker push (gzip)"] = docker_push
        if skopeo:
            layout = self.work / "layout"
            pushes["skopeo copy (gzip)"] = lambda: timed(
                skopeo, "copy", "-q", "--dest-tls-verify=false", f"dir:{layout}", f"docker://{name()}"
            )
        try:
            yield Part(
                title=f"`push` of an image of {LARGE_MIB} MiB to a registry on loopback",
                text="Random bytes, which nothing makes smaller. `contain push` sends layers as they are unless asked otherwise.",
                actions=pushes,
                rounds=self.rounds(3),
            )
        finally:
            running.close()
        stored = f"{self.registry}/bench/stored:1"
        run(CONTAIN, "tag", "large", stored)
        run(CONTAIN, "push", "-q", "--compression", "gzip", stored)
        pulls = {"contain pull": self.ours("pull", "pull", "-q", stored, fresh=True)}
        if docker:

            def docker_pull() -> float:
                subprocess.run([*docker, "rmi", "-f", "large", stored], capture_output=True, check=False)
                run(*docker, "system", "prune", "-af")
                return timed(*docker, "pull", "-q", stored)

            pulls["docker pull"] = docker_pull
        if skopeo:
            place = self.work / "pulled"

            def skopeo_pull() -> float:
                shutil.rmtree(place, ignore_errors=True)
                return timed(skopeo, "copy", "-q", "--src-tls-verify=false", f"docker://{stored}", f"dir:{place}")

            pulls["skopeo copy (not unpacked)"] = skopeo_pull
        yield Part(
            title=f"`pull` of an image of {LARGE_MIB} MiB from a registry on loopback",
            text="One gzip layer, into an empty store.",
            actions=pulls,
            rounds=self.rounds(3),
        )

    def bootstrap(self) -> Iterator[Part]:
        """Debian from its archive."""
        place = self.work / "base"
        actions = {"contain build, FROM debian:bookworm": self.ours("bootstrap", "build", "-q", str(place), fresh=True)}
        if shutil.which("mmdebstrap"):
            target = self.work / "mmdebstrap.tar"
            words = ("mmdebstrap", "--variant=minbase", "bookworm", str(target), "http://deb.debian.org/debian")

            def once() -> float:
                target.unlink(missing_ok=True)
                return timed(*words)

            actions["mmdebstrap --variant=minbase"] = once
        yield Part(
            title="Debian from its archive",
            text="Packages downloaded, verified, installed, and one layer made of them. The network is in it.",
            actions=actions,
            rounds=self.rounds(3),
        )

    def parts(self) -> Iterator[Part]:
        """Everything, in order: later parts use what earlier ones made."""
        yield from self.builds()
        yield from self.moves()
        yield from self.bootstrap()


def settle(place: Path) -> None:
    """Files are not as young as the measurement: their times lie a minute back, and the directories are at rest."""
    past = time.time() - 60
    for found in place.rglob("*"):
        os.utime(found, (past, past))
    time.sleep(2.5)  # their change times cannot be set


def write_large(place: Path) -> None:
    """1 GiB of random bytes in four files."""
    place.mkdir()
    block = random.Random(1).randbytes(1 << 20)
    for number in range(4):
        with (place / str(number)).open("wb") as out:
            for turn in range(LARGE_MIB // 4):
                out.write(block[turn + number :] + block[: turn + number])


@contextlib.contextmanager
def open_registry(work: Path) -> Iterator[str]:
    """Debian's registry server on a free port of loopback; empty where it is not installed."""
    program = shutil.which("docker-registry")
    if program is None:
        yield ""
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = work / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {work}/registry\nhttp:\n  addr: 127.0.0.1:{port}\n",
        encoding="utf-8",
    )
    with (work / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def judge(part: Part, rows: Mapping[str, Row]) -> tuple[str, str, str] | None:
    """Our first row against the best peer: promise, measured, met."""
    own = next(iter(rows.values()))
    peers = [row for row in rows.values() if not row.name.startswith(("contain", "a bare")) and row.milliseconds]
    if not peers or not own.milliseconds:
        return None
    best = min(peers, key=lambda row: row.median)
    value = own.median / best.median
    promise = (
        f"at most {part.limit:.2g} x the best peer" if part.limit >= 1 else f"{1 / part.limit:.0f} x faster than the best peer"
    )
    return f"{part.title}: {promise}", f"{value:.2f} x {best.name}", "yes" if value <= part.limit else "**no**"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure builds, and images on the move, beside other tools.")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "benchmarks-images.md", help="the page to write")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="fewer rounds: 0.3 for a quick look")
    parser.add_argument("--only", default="", help="print the parts whose title contains this, write nothing")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as for any user
    machine = describe_machine()
    verdicts: list[tuple[str, str, str]] = []
    sections: list[str] = []
    work = Path(tempfile.mkdtemp(prefix="contain-bench-", dir="/var/tmp"))
    os.environ["CONTAIN_HOME"] = str(work / "store")
    try:
        with open_docker(work) as docker, open_registry(work) as registry:
            images = Images(work, docker, scale=options.scale)
            images.registry = registry
            for part in images.parts():
                if options.only not in part.title:
                    continue
                rows = take_turns(part.actions, part.rounds)
                lines = table(list(rows.values()), "ms", {"x `contain`": next(iter(rows.values()))}, digits=0)
                print(f"\n{part.title}\n" + "\n".join(lines), flush=True)
                sections += [f"## {part.title}", "", *([part.text, ""] if part.text else []), *lines, ""]
                if verdict := judge(part, rows):
                    verdicts.append(verdict)
            memory = ", ".join(f"{name} {value:.0f}" for name, value in sorted(images.memory.seen.items()))
    finally:
        unmount_below(work)
        subprocess.run(["rm", "-rf", "--one-file-system", str(work)], check=False)
    if options.only:
        return 0
    today = dt.datetime.now(dt.UTC).date().isoformat()
    page = [
        "# Benchmarks: builds and images",
        "",
        f"Written by `nox -s bench_images` on {today}. Medians; tools took turns in one run.",
        "",
        *machine,
        f"- Memory of our own processes at their largest, MiB: {memory}",
        "",
        "| what should be | measured | met |",
        "|---|---:|---|",
        *(f"| {promise} | {measured} | {met} |" for promise, measured, met in verdicts),
        "",
        *sections,
    ]
    options.output.write_text("\n".join(page), encoding="utf-8")
    return 0 if all(met == "yes" for _, _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
