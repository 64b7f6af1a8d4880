"""Measures containers as a service has them, beside other engines, in one run, and writes ``docs/benchmarks-containers.md``.

One hundred started and removed one after another; one hundred alive at once, what they take and what they leave; a program more in a
running one; from start to the first byte of a published server; and how much goes through the bridge and a published port.

Everything happens in network namespaces of the benchmark's own, one that plays the machine and one that plays the world outside,
so that the Docker daemon can make its packet filter rules and none of them stays. Needs root and a Debian mirror.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime as dt
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import Row, Target, describe_machine, judge, ratio, table, take_turns
from peers import open_docker, run, unmount_below

HERE = Path(__file__).resolve().parent
IMAGE = "bench-service"
ALIVE = 100
MACHINE_ADDRESS, OUTSIDE_ADDRESS = "10.213.7.1", "10.213.7.2"
SECONDS = 3
_CLONE_NEWNET = 0x40000000  # os.unshare is Python 3.12's
_SERVER = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
_SIMPLE = ("sleep", "1000000")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUnderTest:
    """A command that takes Docker's words."""

    name: str
    words: tuple[str, ...]

    def __call__(self, *arguments: str) -> str:
        return run(*self.words, *arguments)


def in_own_network() -> None:
    """Go on in a new network namespace, with a second one beside it: ``contain-bench-outside``, reached through a veth pair."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise SystemExit(f"no network namespace of our own: {os.strerror(ctypes.get_errno())}")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "inside", "type", "veth", "peer", "name", "outside")
    run("ip", "address", "add", f"{MACHINE_ADDRESS}/24", "dev", "inside")
    run("ip", "link", "set", "inside", "up")
    run("ip", "route", "add", "default", "via", OUTSIDE_ADDRESS)


@contextlib.contextmanager
def outside() -> Iterator[tuple[str, ...]]:
    """The beginning of a command that is carried out in the world outside."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "100000"], stdin=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        enter = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        run("ip", "link", "set", "outside", "netns", str(holder.pid))
        run(*enter, "ip", "link", "set", "lo", "up")
        run(*enter, "ip", "address", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "outside")
        run(*enter, "ip", "link", "set", "outside", "up")
        yield enter
    finally:
        holder.terminate()
        holder.wait()


def used_kib() -> float:
    """Memory of all processes of the machine, what several share divided among them (proc_pid_smaps_rollup(5), Pss)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/smaps_rollup"):
        with contextlib.suppress(OSError):
            total += next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("Pss:")), 0)
    return total


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def first_byte(engine: EngineUnderTest, port: int) -> float:
    """Seconds from the command to the first byte of an answer of the server that it started."""
    name = f"web-{port}"
    started = time.perf_counter()
    command = [*engine.words, "run", "-d", "--name", name, "-p", f"{port}:80", IMAGE, *_SERVER]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while time.perf_counter() - started < 20:
            try:
                # Short: a first packet that comes too early is sent again by the kernel after a whole second.
                with socket.create_connection((MACHINE_ADDRESS, port), timeout=0.02) as connection:
                    connection.settimeout(2)
                    connection.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
                    if connection.recv(1):
                        return time.perf_counter() - started
            except OSError:
                time.sleep(0.001)
        raise SystemExit(f"{engine.name}: no answer from port {port}")
    finally:
        process.wait(60)
        engine("rm", "-f", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Of many containers alive at once: milliseconds per container to start and to remove, KiB of memory each, milliseconds of one
    ``run --rm`` beside them all and before them."""

    start: float
    remove: float
    memory: float
    beside: float
    alone: float


def crowd(engine: EngineUnderTest, count: int) -> Crowd:
    """Start ``count`` containers, look, and remove them."""

    def once() -> float:
        return statistics.median(timed(lambda: engine("run", "--rm", IMAGE, "true")) for _ in range(7)) * 1000

    alone = once()
    before = used_kib()
    names = [f"crowd-{number}" for number in range(count)]
    start = timed(lambda: [engine("run", "-d", "--name", name, IMAGE, *_SIMPLE) for name in names])
    time.sleep(2)
    memory = (used_kib() - before) / count
    beside = once()
    remove = timed(lambda: engine("rm", "-f", *names))
    return Crowd(start=start / count * 1000, remove=remove / count * 1000, memory=memory, beside=beside, alone=alone)


class Bench:
    """Engines with the same image, and what is asked of them."""

    def __init__(self, work: Path, docker: Sequence[str] | None, outside_words: Sequence[str], *, scale: float) -> None:
        self.work, self.scale, self.outside_words = work, scale, outside_words
        self.contain = EngineUnderTest(name="contain", words=(str(Path(sys.executable).with_name("contain")),))
        self.engines = [self.contain]
        if docker:
            self.engines.append(EngineUnderTest(name="docker", words=tuple(docker)))
        if shutil.which("podman"):
            place = work / "podman"
            words = ("podman", "--runtime", "runc", "--root", str(place / "root"), "--runroot", str(place / "run"))
            self.engines.append(EngineUnderTest(name="podman", words=(*words, "--tmpdir", str(place))))

    def rounds(self, number: int) -> int:
        """So many rounds, or fewer for a quick look."""
        return max(1, round(number * self.scale))

    def prepare(self, archive: Path) -> None:
        """The same image for all."""
        for engine in tuple(self.engines):
            try:
                engine("import", str(archive), IMAGE)
                engine("run", "--rm", *self.options(engine), IMAGE, "true")
            except SystemExit as error:
                self.engines.remove(engine)
                sys.stdout.write(f"{engine.name} is left out: {str(error).splitlines()[-1][:200]}\n")

    @staticmethod
    def options(engine: EngineUnderTest) -> tuple[str, ...]:
        """What podman needs where limits cannot be raised."""
        return ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024") if engine.name == "podman" else ()

    def one_after_another(self) -> dict[str, Row]:
        """``run -d`` and ``rm -f``, as a pair."""

        def action(engine: EngineUnderTest) -> Callable[[], float]:
            def once() -> float:
                def pair() -> None:
                    engine("run", "-d", "--name", "one", *self.options(engine), IMAGE, *_SIMPLE)
                    engine("rm", "-f", *(("-t", "0") if engine.name == "podman" else ()), "one")

                return timed(pair)

            return once

        return take_turns({engine.name: action(engine) for engine in self.engines}, self.rounds(100))

    def exec_(self) -> dict[str, Row]:
        """``exec true`` in a container that runs."""
        with contextlib.ExitStack() as cleanup:
            for engine in self.engines:
                engine("run", "-d", "--name", "target", *self.options(engine), IMAGE, *_SIMPLE)
                cleanup.callback(engine, "rm", "-f", "target")
            actions = {
                engine.name: (lambda engine=engine: timed(lambda: engine("exec", "target", "true"))) for engine in self.engines
            }
            return take_turns(actions, self.rounds(41))

    def first_bytes(self) -> dict[str, Row]:
        """From ``run -d -p`` to an answer."""
        ports = iter(range(21000, 31000))
        chosen = [engine for engine in self.engines if engine.name != "podman"]  # its port mapper is not part of the package
        actions = {engine.name: (lambda engine=engine: first_byte(engine, next(ports))) for engine in chosen}
        return take_turns(actions, self.rounds(21))

    def crowds(self) -> dict[str, Crowd]:
        """Many at once; of contain and docker."""
        return {
            engine.name: crowd(engine, max(3, round(ALIVE * min(self.scale, 1))))
            for engine in self.engines
            if engine.name != "podman"
        }

    def throughput(self) -> dict[str, dict[str, list[float]]]:
        """Gbit/s from outside the container into it: over the bridge, from the machine, and through a published port, from outside."""
        found: dict[str, dict[str, list[float]]] = {}
        chosen = [engine for engine in self.engines if engine.name != "podman"]
        with contextlib.ExitStack() as cleanup:
            targets = []
            for number, engine in enumerate(chosen):
                port = str(32000 + number)
                engine("run", "-d", "--name", "iperf", "-p", f"{port}:5201", IMAGE, "iperf3", "-s")
                cleanup.callback(engine, "rm", "-f", "iperf")
                shown = engine("inspect", "-f", "{{json .NetworkSettings.Networks}}", "iperf")
                address = next(iter(json.loads(shown).values()))["IPAddress"]
                targets.append((engine.name, address, port))
            time.sleep(1)
            client = (*self.contain.words, "run", "--rm", "--network", "host", IMAGE, "iperf3", "-J", "-t", str(SECONDS))
            for _ in range(self.rounds(5)):
                for name, address, port in targets:
                    rows = found.setdefault(name, {"bridge": [], "published": []})
                    rows["bridge"].append(_gigabits(run(*client, "-c", address)))
                    rows["published"].append(_gigabits(run(*self.outside_words, *client, "-c", MACHINE_ADDRESS, "-p", port)))
        return found


def _gigabits(report: str) -> float:
    return float(json.loads(report)["end"]["sum_received"]["bits_per_second"]) / 1e9


def make_archive(work: Path) -> Path:
    """The image's root file system: Debian with a web server and iperf3. Made before the network is left."""
    contain = str(Path(sys.executable).with_name("contain"))
    place = work / "context"
    place.mkdir()
    install = "RUN apt-get update && apt-get install --yes --no-install-recommends busybox-static iperf3 && rm -rf /var/lib/apt/lists/*"
    (place / "Dockerfile").write_text(f"FROM debian:bookworm\n{install}\n", encoding="utf-8")
    run(contain, "build", "-t", IMAGE, str(place))
    archive = work / "service.tar"
    words = ("tar", "-C", "/", "--one-file-system", "-cf", "/out/service.tar", ".")
    run(contain, "run", "--rm", "--network", "none", "-v", f"{work}:/out", IMAGE, *words)
    return archive


def _leftovers(work: Path) -> str:
    """What is there that a container could have left: links, groups, mounts, as one text."""
    links = [line.split()[0] for line in run("ip", "-brief", "link").splitlines() if not line.startswith("docker0")]
    groups = sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/contain/*") if path.is_dir())
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return f"{links}\n{groups}\n{[path for path in mounts if path.startswith(str(work / 'store'))]}"


def render(
    machine: list[str],
    results: dict[str, dict[str, Row]],
    crowds: dict[str, Crowd],
    flow: dict[str, dict[str, list[float]]],
    left: bool,
) -> tuple[str, list[Target]]:
    """The page, and the promises."""
    ours = crowds["contain"]
    targets = [
        judge(
            f"{title}: at least 3 x faster than `{peer}`",
            ratio(rows.get(peer), rows.get("contain")),
            lambda x: x >= 3,
            "{:.1f} x",
        )
        for title, rows in (
            ("started and removed, one after another", results["pair"]),
            ("`exec`", results["exec"]),
            ("start to first byte", results["first"]),
        )
        for peer in ("docker", "podman")
        if peer in rows
    ]
    growth = ours.beside / ours.alone
    targets.append(judge(f"with {ALIVE} alive, one more costs what the first did", growth, lambda x: x < 1.25, "{:.2f} x"))
    if "docker" in flow:
        for title in ("bridge", "published"):
            part = statistics.median(flow["contain"][title]) / statistics.median(flow["docker"][title])
            targets.append(judge(f"throughput, {title}: level with Docker", part, lambda x: x >= 0.9, "{:.2f} of it"))
    targets.append(Target(promise="nothing is left afterwards", measured="nothing" if not left else "something", met=not left))
    marks = {True: "yes", False: "**no**", None: "?"}
    today = dt.datetime.now(dt.UTC).date().isoformat()
    lines = [
        "# Benchmarks of containers",
        "",
        f"Written by `nox -s bench_containers` on {today}. Medians; engines took turns in one run.",
        "Network namespaces of the benchmark's own play the machine and the world outside.",
        "",
        *machine,
        "",
        "| what should be | measured | met |",
        "|---|---:|---|",
        *(f"| {target.promise} | {target.measured} | {marks[target.met]} |" for target in targets),
    ]
    for title, key in (
        ("Started detached and removed, one after another", "pair"),
        ("A program more in a running container: `exec true`", "exec"),
        ("From `run -d -p` to the first byte of the server's answer", "first"),
    ):
        rows = results[key]
        lines += ["", f"## {title}", "", *table(list(rows.values()), "ms", {"x `contain`": rows["contain"]})]
    lines += [
        "",
        "## Many alive at once",
        "",
        f"{ALIVE} detached containers that sleep. Memory: of all processes together (Pss), per container, the engine's own",
        "included. The last two columns: one `run --rm` with none, and with all of them, alive.",
        "",
        "| | ms to start, each | ms to remove, each | KiB each | one alone, ms | one beside them, ms |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {row.start:.0f} | {row.remove:.0f} | {row.memory:.0f} | {row.alone:.0f} | {row.beside:.0f} |"
            for name, row in crowds.items()
        ),
        "",
        f"## Throughput: `iperf3`, {SECONDS} s, one TCP connection into the container",
        "",
        "| | over the bridge, from the machine, Gbit/s | through a published port, from outside, Gbit/s |",
        "|---|---:|---:|",
        *(
            f"| {name} | {statistics.median(rows['bridge']):.1f} | {statistics.median(rows['published']):.1f} |"
            for name, rows in flow.items()
        ),
        "",
    ]
    return "\n".join(lines), targets


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure containers as services, beside other engines.")
    parser.add_argument(
        "--output", type=Path, default=HERE.parent / "docs" / "benchmarks-containers.md", help="the page to write"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="fewer rounds and containers: 0.2 for a quick look"
    )
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as for any user
    machine = describe_machine()
    work = Path(tempfile.mkdtemp(prefix="contain-bench-", dir="/var/tmp"))
    os.environ["CONTAIN_HOME"] = str(work / "store")
    started = time.monotonic()
    try:
        archive = make_archive(work)
        in_own_network()
        with outside() as words:
            before = _leftovers(work)
            with open_docker(work, rules=True) as docker:
                bench = Bench(work, docker, words, scale=options.scale)
                bench.prepare(archive)
                results = {"pair": bench.one_after_another(), "exec": bench.exec_(), "first": bench.first_bytes()}
                crowds, flow = bench.crowds(), bench.throughput()
            after = _leftovers(work)
        if after != before:
            sys.stdout.write(f"left behind:\n{before}\n{after}\n")
        page, targets = render(machine, results, crowds, flow, after != before)
        options.output.write_text(page, encoding="utf-8")
        sys.stdout.write(f"{page}\n{time.monotonic() - started:.0f} seconds\n")
        return 0 if all(target.met is not False for target in targets) else 1
    finally:
        unmount_below(work)
        subprocess.run(["rm", "-rf", "--one-file-system", str(work)], check=False)


if __name__ == "__main__":
    sys.exit(main())
