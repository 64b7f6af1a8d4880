"""Kills each process of the engine at random moments, and looks at what is left.

``python tests/faults/run.py [--kills N] [--seed S] [--network]``. A *shot* starts a command of ``contain``, waits for a random time,
and sends SIGKILL to one of the processes that have come of it: the command itself, a container's supervisor, its first process, the
attendant that resolves names beside it, a builder, or whatever else there is then. After each few shots everything is looked at: each
record can be read, ``contain ps`` tells the truth, nothing is left (mounts, interfaces, control groups, directories, processes), the
names are free again, and the image and the volume have every byte that they had. The seed is printed, and each shot of a failure;
needs root. Exit status 1 if something was lost.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TOKEN = "CONTAIN_FAULT_RUN"
NAMES = ("ant", "bee", "cat", "dog")
PATIENCE_SECONDS = 20.0
PROGRAM_SECONDS = 0.4
SHOTS_BETWEEN_LOOKS = 8
AIMING_SECONDS = 2.0
PROGRAM = "i=0; while [ $i -lt 8 ]; do echo line $i; echo more >>/tmp/written; sleep 0.1; i=$((i+1)); done; exit 3"
AIMS = {
    "command": (
        *("run", "run -d", "run --rm", "restart policy", "health", "init", "create", "start", "stop", "restart", "kill", "rm"),
        *("exec", "pause", "rename", "build", "commit", "cp", "logs"),
    ),
    "supervisor": ("run -d", "run -d", "run -d --rm", "restart policy", "health", "init", "restart"),
    "first process": ("run", "run -d", "run -d --rm", "restart policy", "health", "init"),
    "inside": ("init", "exec"),
    "attendant": ("run -d", "health"),
    "builder": ("build",),
}
"""Whom a shot is aimed at, and what can be started for that."""
DOCKERFILE = "FROM small\nRUN echo one >/one\nRUN sleep 0.05; echo two >/two\n"


class Lost(Exception):
    """Something that should be there is not, or the other way round."""


@dataclass(frozen=True)
class Process:
    """One process that came of a command."""

    number: int
    parent: int
    inside: bool
    words: str


def processes(token: str, foreign: set[int]) -> list[Process]:
    """Everything that has our variable in its environment, and what came of that. ``foreign``: numbers of those that are known not
    to; more are added."""
    found: dict[int, Process] = {}
    others: dict[int, Process] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in foreign:
            continue
        try:
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{name}/status").read_text().splitlines() if ":\t" in line
            )
            environment = Path(f"/proc/{name}/environ").read_bytes()
            words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (OSError, ValueError):
            continue
        if status["State"].startswith("Z"):
            continue
        process = Process(
            number=int(name), parent=int(status["PPid"]), inside=len(status.get("NSpid", "").split()) > 1, words=words
        )
        if f"{TOKEN}={token}".encode() in environment:
            found[process.number] = process
        elif process.inside:
            others[process.number] = process
        else:
            foreign.add(process.number)
    grew = True
    while grew:  # a program in a container has an environment of its own
        more = {number: process for number, process in others.items() if process.parent in found}
        grew = bool(more)
        found |= more
        others = {number: process for number, process in others.items() if number not in more}
    return list(found.values())


def role(process: Process, everything: list[Process], command: int) -> str:
    """What a process is, as far as one can see from outside."""
    by_number = {each.number: each for each in everything}
    children = [each for each in everything if each.parent == process.number]
    parent = by_number.get(process.parent)
    if process.number == command or f"{sys.executable} -m contain.cli.start build" in process.words:
        return "builder" if " build " in process.words else "command"
    if process.inside:
        return "first process" if parent is not None and not parent.inside else "inside"
    if any(each.inside for each in children):
        return "supervisor"
    return (
        "attendant"
        if parent is not None and any(each.inside for each in everything if each.parent == parent.number)
        else "other"
    )


def digest_of(tree: Path) -> str:
    """Of every name, mode, owner, link and byte below a directory."""
    total = hashlib.sha256()
    for place, directories, files in sorted(os.walk(tree)):
        directories.sort()
        for name in sorted([*files, *directories]):
            path = Path(place) / name
            status = path.lstat()
            total.update(f"{path.relative_to(tree)} {status.st_mode:o} {status.st_uid} {status.st_gid}\n".encode())
            if path.is_symlink():
                total.update(os.readlink(path).encode())
            elif path.is_file():
                total.update(path.read_bytes())
    return total.hexdigest()


class Range:
    """A store of its own with an image, a volume and a context, and shots at what runs in it."""

    def __init__(self, directory: Path, seed: int, *, network: bool) -> None:
        self.directory, self.home = directory, directory / "home"
        self.random = random.Random(seed)
        self.network = network
        self.token = f"{os.getpid()}-{seed}"
        self.known: set[str] = set()  # ids of all containers that were seen
        self.kept = self.image = ""
        self.longest_delay_seconds = 0.0
        self.foreign: set[int] = set()
        self.roles: collections.Counter[str] = collections.Counter()
        self.environment = {**os.environ, "CONTAIN_HOME": str(self.home), "LC_ALL": "C.UTF-8", TOKEN: self.token}
        self.plain = {name: value for name, value in self.environment.items() if name != TOKEN}

    def contain(self, *words: str, status: int | None = 0) -> str:
        """A command that nobody kills; standard output."""
        command = [sys.executable, "-m", "contain.cli.start", *words]
        done = subprocess.run(
            command, env=self.plain, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
        if status is not None and done.returncode != status:
            raise Lost(f"contain {' '.join(words)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def prepare(self) -> None:
        """The image ``small`` and the volume ``kept``."""
        tree = self.directory / "tree"
        for name in ("bin", "etc", "tmp", "data"):
            (tree / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        if busybox is None:
            raise SystemExit("busybox is needed (statically linked)")
        shutil.copy(busybox, tree / "bin/busybox")
        for name in ("sh", "echo", "sleep", "true", "cat"):
            (tree / "bin" / name).symlink_to("busybox")
        (tree / "data/first").write_text("what the image has there\n")
        archive = self.directory / "small.tar"
        with tarfile.open(archive, "w") as file:
            file.add(tree, arcname=".")
        self.contain("import", str(archive), "small")
        context = self.directory / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(DOCKERFILE)
        self.contain("volume", "create", "kept")
        if self.network:
            self.contain("network", "create", "named")
        self.contain("run", "--rm", "--network", "none", "-v", "kept:/data", "small", "sh", "-c", "echo kept >/data/second")
        self.image = self.image_digest()

    def image_digest(self) -> str:
        """Of the base image's own layer and of what the store says of it."""
        found = json.loads(self.contain("image", "inspect", "small"))[0]
        layers = [layer.removeprefix("sha256:") for layer in found["RootFS"]["Layers"]]
        return json.dumps([found["Id"], [digest_of(self.home / "layers" / layer / "tree") for layer in layers]])

    def command(self, kind: str, aim: str) -> list[str]:
        """What the next shot starts; what it needs is made before."""
        choose = self.random.choice
        name = choose(NAMES)
        named = "named" if aim == "attendant" else choose(["none", "none", "bridge", "named"])
        network = ["--network", named if self.network else "none"]
        run = [*network, "-v", "kept:/data:ro", "small", "sh", "-c", PROGRAM]
        match kind:
            case "run":
                return ["run", "--name", name, *run]
            case "run -d":
                return ["run", "-d", "--name", name, *run]
            case "run --rm":
                return ["run", "--rm", "--name", name, *run]
            case "run -d --rm":
                return ["run", "-d", "--rm", "--name", name, "-v", "/anonymous", *run]
            case "restart policy":
                return ["run", "-d", "--restart", choose(["always", "on-failure:2", "unless-stopped"]), "--name", name, *run]
            case "health":
                return ["run", "-d", "--health-cmd", "sleep 0.02", "--health-interval", "50ms", "--name", name, *run]
            case "init":
                return ["run", "-d", "--init", "--name", name, *run]
            case "create":
                return ["create", "--name", name, *run]
            case "build":
                return ["build", "--no-cache", "-q", "-t", "built", str(self.directory / "context")]
            case _:
                self.contain("rm", "-f", name, status=None)
                self.contain("run", "-d", "--name", name, "--network", "none", "small", "sleep", "30")
                rest = {
                    "exec": ["exec", name, "sh", "-c", "echo hello; sleep 0.1"],
                    "stop": ["stop", "-t", "0", name],
                    "restart": ["restart", "-t", "0", name],
                    "rm": ["rm", "-f", name],
                    "rename": ["rename", name, f"{name}-renamed"],
                    "commit": ["commit", name, "committed"],
                    "cp": ["cp", __file__, f"{name}:/tmp/copied"],
                }
                return rest.get(kind, [kind, name])

    def shoot(self) -> str:
        """One command, one kill; what was done."""
        aims = [aim for aim in AIMS if self.network or aim != "attendant"]
        aim = self.random.choice(aims)
        words = self.command(self.random.choice(AIMS[aim]), aim)
        delay_seconds = self.random.random() * (
            self.longest_delay_seconds if aim in ("command", "builder") else PROGRAM_SECONDS
        )
        command = subprocess.Popen(
            [sys.executable, "-m", "contain.cli.start", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if aim not in ("command", "builder"):  # the clock starts when there is somebody to be hit
            deadline = time.monotonic() + AIMING_SECONDS
            while aim not in self.see(command.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(delay_seconds)
        seen = self.see(command.pid)
        shot = aim if aim in seen else self.random.choice(sorted(seen)) if seen else "nobody"
        if shot != "nobody":
            victim = self.random.choice(seen[shot])
            try:
                os.kill(victim.number, signal.SIGKILL)
            except ProcessLookupError:
                shot = "nobody"
        self.roles[shot] += 1
        try:
            command.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            command.kill()
            command.wait()
            raise Lost(f"contain {' '.join(words)} does not end after a kill of {shot}") from None
        return f"{' '.join(words)[:100]} | {delay_seconds * 1000:.0f} ms | {aim} | {shot}"

    def processes(self) -> list[Process]:
        """What is there now."""
        return processes(self.token, self.foreign)

    def see(self, command: int) -> dict[str, list[Process]]:
        """The processes that have come of the shots so far, by what they are."""
        seen = self.processes()
        found: dict[str, list[Process]] = {}
        for process in seen:
            found.setdefault(role(process, seen, command), []).append(process)
        return found

    # -- what is looked at ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Raises `Lost`."""
        self.contain("run", "--rm", "--network", "bridge" if self.network else "none", "small", "true")
        self.look_at_records()
        rows = [json.loads(line) for line in self.contain("ps", "-a", "--no-trunc", "--format", "json").splitlines()]
        for row in rows:
            self.look_at_container(row)
        self.contain("rm", "-f", *[row["ID"] for row in rows], status=None)
        left = self.contain("ps", "-aq").split()
        if left:
            raise Lost(f"cannot be removed: {left}")
        self.eventually("directories of containers", lambda: sorted(os.listdir(self.home / "containers")))
        self.eventually("processes", lambda: [f"{each.number} {each.words}" for each in self.processes()])
        self.contain("run", "--rm", "--network", "bridge" if self.network else "none", "small", "true")
        self.eventually("workspaces", lambda: os.listdir(self.home / "run/work"))
        self.eventually("mounts", self.mounts)
        self.eventually("control groups", self.groups)
        self.eventually("interfaces", self.interfaces)
        for name in self.random.sample(NAMES, 2):
            self.contain("create", "--name", name, "--network", "none", "small", "true")
            self.contain("rm", name)

    def look_at_records(self) -> None:
        """Each can be read."""
        for name in os.listdir(self.home / "containers"):
            path = self.home / "containers" / name / "record.json"
            try:
                json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                raise Lost(f"a record that cannot be read: {path}: {error}") from error

    def look_at_container(self, row: dict[str, str]) -> None:
        """``ps`` says that it runs if, and only if, its first process is there."""
        text = self.contain("container", "inspect", row["ID"], status=None)
        if not json.loads(text or "[]"):
            return  # with --rm, it has just gone
        state = json.loads(text)[0]["State"]
        alive = state["Pid"] != 0 and os.path.exists(f"/proc/{state['Pid']}")
        if state["Status"] == "running" and not alive:
            time.sleep(0.3)  # it may have ended between the two looks
            again = json.loads(self.contain("container", "inspect", row["ID"], status=None) or "[]")
            if again and again[0]["State"]["Status"] == "running" and again[0]["State"]["Pid"] == state["Pid"]:
                raise Lost(f"{row['Names']} is told as running, but its process {state['Pid']} is not there")
        if state["Status"] not in ("running", "paused", "restarting"):
            self.eventually(f"processes of {row['Names']} ({state['Status']})", lambda: self.members(row["ID"]))

    def members(self, container_id: str) -> list[str]:
        """The processes in a container's control groups."""
        found = []
        for place in self.groups():
            if container_id in place:
                found += Path(place, "cgroup.procs").read_text().split()
        return found

    def eventually(self, what: str, find: collections.abc.Callable[[], list[str]]) -> None:
        """The kernel takes a moment to end processes and interfaces."""
        deadline = time.monotonic() + 5.0
        while found := find():
            if time.monotonic() > deadline:
                raise Lost(f"{what} are left: {found}")
            time.sleep(0.02)

    def mounts(self) -> list[str]:
        """Ours, in this mount namespace."""
        text = Path("/proc/self/mountinfo").read_text()
        return [line for line in text.splitlines() if str(self.home) in line]

    def groups(self) -> list[str]:
        """Control groups of containers of this store: those whose workspace it had."""
        found = []
        for place, names, _ in os.walk("/sys/fs/cgroup"):
            if os.path.basename(place) == "contain" or place.count("/") < 6:
                found += [os.path.join(place, name) for name in names if name in self.known]
        return found

    def note_ids(self) -> None:
        """Remember which containers there are now."""
        for place in ("containers", "run/work"):
            try:
                names = os.listdir(self.home / place)
            except FileNotFoundError:
                continue
            self.known |= {name.removesuffix(".removed") for name in names}

    def interfaces(self) -> list[str]:
        """The bridge of this store, and what hangs on it."""
        if not self.network:
            return []
        from contain.linux.network import _names

        bridge = _names(self.home / "run").bridge
        return [name for name in os.listdir("/sys/class/net") if name.startswith(bridge)]

    def compare(self) -> None:
        """The image and the volume have every byte."""
        if self.image_digest() != self.image:
            raise Lost("the image is not what it was")
        if digest_of(self.home / "volumes" / "kept") != self.kept:
            raise Lost("the volume is not what it was")

    def begin(self) -> None:
        """Make everything, and remember how it looks, and how long a command takes on this machine."""
        self.prepare()
        began = time.monotonic()
        self.contain("run", "--rm", "--network", "none", "small", "true")
        self.longest_delay_seconds = 1.5 * (time.monotonic() - began) + PROGRAM_SECONDS
        self.kept = digest_of(self.home / "volumes" / "kept")

    def run(self, kills: int) -> None:
        """So many kills that hit somebody."""
        shots: list[str] = []
        done = 0
        started = time.monotonic()
        while done < kills:
            for _ in range(SHOTS_BETWEEN_LOOKS):
                shots.append(self.shoot())
                self.note_ids()
            done = sum(count for name, count in self.roles.items() if name != "nobody")
            try:
                self.look()
                self.compare()
            except Lost as error:
                print(f"after {done} kills: {error}", file=sys.stderr)
                for shot in shots[-2 * SHOTS_BETWEEN_LOOKS :]:
                    print(f"    {shot}", file=sys.stderr)
                raise
            if sys.stdout.isatty() or done % 50 < SHOTS_BETWEEN_LOOKS:
                print(f"{done} kills, {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--network", action="store_true", help="some containers on a bridge")
    parser.add_argument("--keep", action="store_true", help="keep the store where something was lost")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("needs root")
        return 77
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="contain-faults-"))
    place = Range(directory, options.seed, network=options.network)
    status = 0
    try:
        place.begin()
        place.run(options.kills)
    except Lost as error:
        print(f"LOST (seed {options.seed}): {error}")
        status = 1
    finally:
        print(", ".join(f"{name}: {count}" for name, count in place.roles.most_common()))
        if status and options.keep:
            print(f"kept: {directory}")
        else:
            for process in place.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.number, signal.SIGKILL)
            time.sleep(0.2)
            place.contain("ps", "-a", status=None)
            shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
