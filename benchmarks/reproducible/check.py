"""Builds each Dockerfile of ``cases`` on two machines, as far as one machine can be two, and compares the digests of the images.

The machines have their own stores (one on disk, one in memory, so that files and inodes come in another order), and differ in umask,
host name, number of CPUs, directory of the context, temporary directory, time zone, language, hash seed and time. Each bootstraps its
own base. What is in ``cannot`` must differ, for the cause that its directory is named after.

``python check.py [--write] [NAME ...]``: ``--write`` puts the table into ``docs/reproducible-builds.md``. Needs root and a Debian
mirror; ``node-express`` and ``python-*`` need npm's and Python's package index.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "reproducible-builds.md"
BEGIN, END = "<!-- reproducible: begin -->", "<!-- reproducible: end -->"
TIMEOUT_SECONDS = 900
CONTAIN = (sys.executable, "-c", "import sys; from contain.cli.main import main; sys.exit(main())")


def run_contain(arguments: list[str], *, home: Path, second: bool) -> subprocess.CompletedProcess[str]:
    """One command on the first or the second machine."""
    environment = {**os.environ, "CONTAIN_HOME": str(home), "PYTHONHASHSEED": "1"}
    prefix: list[str] = []
    if second:
        temporary = home / "temporary"
        temporary.mkdir(parents=True, exist_ok=True)
        environment |= {
            "TMPDIR": str(temporary),
            "TZ": "Pacific/Kiritimati",
            "LC_ALL": "fr_FR.UTF-8",
            "PYTHONHASHSEED": "2",
            "PYTHONUTF8": "1",
        }
        cpu = str(max(os.sched_getaffinity(0)))
        prefix = [
            "taskset",
            "-c",
            cpu,
            "unshare",
            "--uts",
            "sh",
            "-c",
            'hostname second-machine && umask 077 && exec "$@"',
            "sh",
        ]
    return subprocess.run(
        [*prefix, *CONTAIN, *arguments],
        env=environment,
        cwd="/" if second else None,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def normalised(text: str) -> str:
    """What the builds said they had normalised, added up."""
    counts: Counter[str] = Counter()
    for line in re.findall(r"normalised \d+ files?: (.*)", text):
        for part in line.split(", "):
            cause, _, count = part.rpartition(" ")
            counts[cause] += int(count)
    return ", ".join(f"{cause} {count}" for cause, count in sorted(counts.items())) or "nothing"


def check_case(case: Path, homes: tuple[Path, Path]) -> tuple[bool, tuple[str, ...]]:
    """Whether both machines agree, and the table's row."""
    digests, said = [], ""
    for home, second in zip(homes, (False, True), strict=True):
        context = case
        if second:
            context = home / "elsewhere" / case.name
            shutil.rmtree(context, ignore_errors=True)
            shutil.copytree(case, context)
        done = run_contain(["build", "--no-cache", "-t", f"case/{case.name}", str(context)], home=home, second=second)
        if done.returncode != 0:
            print(done.stderr[-3000:], file=sys.stderr)
            return False, (case.name, "does not build", "", "")
        digests.append(done.stdout.strip().splitlines()[-1])
        said = said or done.stderr
    same = digests[0] == digests[1]
    steps = len(re.findall(r"^\[\d+/\d+", said, re.MULTILINE))
    return same, (case.name, str(steps), normalised(said), f"`{digests[0][:19]}`" if same else "**different**")


def check_cannot(case: Path, home: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether ``--verify`` names the cause that the directory is named after, and the table's row."""
    done = run_contain(["build", "--verify", "--format", "json", str(case)], home=home, second=False)
    if done.returncode != 1 or not done.stdout.startswith("{"):
        print(done.stderr[-3000:], done.stdout[-3000:], file=sys.stderr)
        return False, (case.name, "is reproducible, or does not build", "")
    found = {each["cause"]: each for step in json.loads(done.stdout)["steps"] for each in step["differences"]}
    if set(found) != {case.name}:
        print(case.name, sorted(found), file=sys.stderr)
        return False, (case.name, ", ".join(sorted(found)), "")
    return True, (case.name, found[case.name]["title"], found[case.name]["remedy"])


def render(rows: list[tuple[str, ...]], cannot: list[tuple[str, ...]]) -> str:
    """Both tables, as Markdown."""

    def table(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
        cells = [titles, tuple("---" for _ in titles), *lines]
        return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]

    return "\n".join(
        [
            "Built on two machines, one digest:",
            "",
            *table(("Dockerfile", "instructions", "files normalised, by cause", "both digests"), rows),
            "",
            "What stays different, and what to do about it:",
            "",
            *table(("cause", "what happens", "remedy"), cannot),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: each machine gets a host name of its own")
    rows: list[tuple[str, ...]] = []
    cannot: list[tuple[str, ...]] = []
    good = True
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the directories are removed
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        os.chmod(elsewhere, 0o755)
        homes = Path(disk) / "store", Path(elsewhere) / "store"
        for kind in ("cases", "cannot"):
            for case in sorted((HERE / kind).iterdir()):
                if options.names and case.name not in options.names:
                    continue
                fine, row = check_case(case, homes) if kind == "cases" else check_cannot(case, homes[0])
                (rows if kind == "cases" else cannot).append(row)
                good = good and fine
                print("ok  " if fine else "FAIL", *row, sep="  ", flush=True)
    if options.write and good and not options.names:
        text = DOCUMENT.read_text()
        before, rest = text.split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{render(rows, cannot)}\n{END}{rest.split(END)[1]}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
