"""A build context of 50,000 files, first unchanged, then with one changed file: contain beside Docker's two builders and buildah,
interleaved, in one run; and beside a bare walk of the same tree with one ``lstat`` for each file.

    python benchmarks/unchanged_context.py [WORK]

Prints the median of the wall seconds and the ratio to contain, and how many calls of the lstat family a cached build makes.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peers import open_docker, unmount_below

FILES, ROUNDS = 50_000, 3


def make_context(directory: Path) -> Path:
    """50,000 small files in 500 directories."""
    for number in range(FILES):
        path = directory / "files" / f"{number // 5000}" / f"{number // 100 % 50}" / f"{number % 100}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * 20)
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY files /files/\n")
    return directory


def seconds(*command: str, **environment: str) -> float:
    """How long a command takes that must succeed."""
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return time.monotonic() - begin


def bare_walk(context: Path) -> float:
    """os.walk and an lstat of each file, in this process."""
    begin = time.monotonic()
    for place, _, names in os.walk(context):
        for name in names:
            os.lstat(os.path.join(place, name))
    return time.monotonic() - begin


def count_calls(context: Path, home: str) -> str:
    """What strace(1) counts in a cached build."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = [
        "strace",
        "-f",
        "-c",
        "-e",
        "trace=newfstatat,lstat,statx,openat",
        program(),
        "build",
        "-q",
        "--explain",
        str(context),
    ]
    seconds(program(), "build", "-q", str(context), CONTAIN_HOME=home)
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "CONTAIN_HOME": home}
    )
    found = re.findall(r"(\d+)(?:\s+\d+)?\s+(newfstatat|lstat|statx|openat)$", done.stderr, re.MULTILINE)
    return ", ".join(f"{name} {count}" for count, name in found)


def program() -> str:
    """The command of the Python that runs this."""
    return str(Path(sys.executable).with_name("contain"))


def main(work: Path) -> None:
    """Measure and print."""
    context = make_context(work / "context")
    with open_docker(work) as docker:
        home = str(work / "store")
        builders: dict[str, Callable[[], float]] = {
            "contain": lambda: seconds(program(), "build", "-q", str(context), CONTAIN_HOME=home),
            "contain, each step looked up": lambda: seconds(
                program(), "build", "-q", "--explain", str(context), CONTAIN_HOME=home
            ),
        }
        if docker is not None:
            for name, switch in (("docker (BuildKit)", "1"), ("docker (classic)", "0")):
                builders[name] = lambda switch=switch: seconds(  # type: ignore[misc]
                    *docker, "build", "-q", str(context), DOCKER_BUILDKIT=switch
                )
        if shutil.which("buildah"):
            place = ["--root", str(work / "buildah"), "--runroot", str(work / "buildah-run"), "--storage-driver", "overlay"]
            builders["buildah"] = lambda: seconds("buildah", *place, "bud", "--layers", "-q", str(context))
        for build in builders.values():
            build()
        for title, changes in (("unchanged", False), ("one file changed", True)):
            times: dict[str, list[float]] = {name: [] for name in builders}
            walks = []
            for turn in range(ROUNDS):
                walks.append(bare_walk(context))
                for number, (name, build) in enumerate(builders.items()):
                    if changes:
                        (context / "files/0/0/0.txt").write_text(f"{turn} {number}\n")
                    times[name].append(build())
            own = statistics.median(times["contain"])
            print(f"{title}: a bare walk takes {statistics.median(walks):.2f} s")
            for name, found in times.items():
                print(
                    f"  {name:<30} {statistics.median(found):7.2f} s   {statistics.median(found) / own:6.2f} x contain",
                    flush=True,
                )
        print(count_calls(context, home))
        unmount_below(work)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        main(Path(directory))
