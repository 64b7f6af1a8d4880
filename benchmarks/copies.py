"""COPY of many small files and of a few large ones: contain beside Docker's two builders and buildah, interleaved, in one run.

    python benchmarks/copies.py [WORK]

Each build is cold: an empty store, no cache. Prints the median of the wall seconds, the ratio to contain, and contain's memory.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from peers import open_docker, unmount_below

ROUNDS = 3
SMALL_FILES, LARGE_BYTES = 20_000, 1 << 30


def make_contexts(work: Path) -> dict[str, Path]:
    """Directories with a Dockerfile and something to copy."""
    small, large = work / "small", work / "large"
    for number in range(SMALL_FILES):
        path = small / "files" / f"{number // 100:03}" / f"{number % 100:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % number * (100 + number % 400))
    (large / "files").mkdir(parents=True)
    block = random.Random(1).randbytes(1 << 20)
    for number in range(4):
        with (large / "files" / str(number)).open("wb") as out:
            for turn in range(LARGE_BYTES // 4 >> 20):
                out.write(block[turn:] + block[:turn])
    for directory in (small, large):
        (directory / "Dockerfile").write_text("FROM scratch\nCOPY files /files/\n")
    return {f"COPY of {SMALL_FILES} files": small, "COPY of 1 GiB": large}


def seconds(*command: str, **environment: str) -> float:
    """How long a command takes that must succeed; what others wrote is on the disk before."""
    os.sync()
    begin = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return time.monotonic() - begin


def main(work: Path) -> None:
    """Measure and print."""
    with open_docker(work) as docker:
        builders: dict[str, Callable[[Path], float]] = {}

        def contain(context: Path) -> float:
            shutil.rmtree(work / "store", ignore_errors=True)
            return seconds(
                str(Path(sys.executable).with_name("contain")), "build", "-q", str(context), CONTAIN_HOME=str(work / "store")
            )

        builders["contain"] = contain
        if docker is not None:
            for name, switch in (("docker (BuildKit)", "1"), ("docker (classic)", "0")):
                builders[name] = lambda context, switch=switch: seconds(  # type: ignore[misc]
                    *docker, "build", "--no-cache", "-q", str(context), DOCKER_BUILDKIT=switch
                )
        if shutil.which("buildah"):
            place = ["--root", str(work / "buildah"), "--runroot", str(work / "buildah-run"), "--storage-driver", "overlay"]

            def buildah(context: Path) -> float:
                unmount_below(work / "buildah")
                shutil.rmtree(work / "buildah", ignore_errors=True)
                return seconds("buildah", *place, "bud", "--isolation", "chroot", "--layers=false", "-q", str(context))

            builders["buildah"] = buildah
        for title, context in make_contexts(work).items():
            taken: dict[str, list[float]] = {name: [] for name in builders}
            for _ in range(ROUNDS):
                for name, measure in builders.items():
                    taken[name].append(measure(context))
            own = statistics.median(taken["contain"])
            for name, values in taken.items():
                middle = statistics.median(values)
                print(f"{title:24} {name:20} {middle:8.2f} s  {middle / own:6.2f}", flush=True)
        unmount_below(work / "buildah")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory(prefix="contain-copies.") as directory:
            main(Path(directory))
