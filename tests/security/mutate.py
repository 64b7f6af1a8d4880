"""Shows that the tests of the known holes can fail: takes out one mitigation after the other, and requires that its tests turn red.

``python tests/security/mutate.py [--only TEXT]... [--list] [--write-docs]``; root. For each mutation of ``holes.toml`` the source is
changed in a copy of the tree below a scratch directory, and the tests named there are run on that copy. First they are run on an
unchanged copy (with the mutation's aids, if it has any), where they must pass.

An attack on a mitigation that is not there may succeed. So the tests run in a cage: a mount namespace in which everything but
/tmp, /run and the copy is read-only, with a /dev of its own, and a PID namespace, with which all that they started ends. What an
attack aims at is always a file made for the test; the cage is there for mistakes.

Exit status: 0 if everything turned red, 1 if something did not, 2 if a mutation does not apply any more.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))

from tests.security.holes import ROOT, Change, Hole, Mutation, read_holes, render_table, replace_table  # noqa: E402

COPIED = ("runtime", "pytest_contain", "tests", "pyproject.toml", "README.md")
WRITABLE = ("/tmp", "/run", "/dev/shm")
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
SECONDS = 240
SHOWN = 110

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_MOVE = 1, 32, 0x1000, 0x4000, 0x40000, 0x2000


# -- in the cage ---------------------------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind}: {os.strerror(number)}", target)


def _make_devices() -> None:
    place = tempfile.mkdtemp(prefix="cage-dev-")
    _mount("cage", place, "tmpfs", 0, "mode=755")
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"{place}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(f"{place}/{name}", 0o666)
    for name in ("pts", "shm", "mqueue"):
        if os.path.isdir(f"/dev/{name}"):
            os.mkdir(f"{place}/{name}")
            _mount(f"/dev/{name}", f"{place}/{name}", "", _MS_BIND | _MS_REC)
    for name, target in (("fd", "/proc/self/fd"), ("ptmx", "pts/ptmx" if os.path.exists("/dev/pts/ptmx") else "/dev/ptmx")):
        os.symlink(target, f"{place}/{name}")
    if not os.access("/dev/pts/ptmx", os.W_OK):
        os.unlink(f"{place}/ptmx")
        os.mknod(f"{place}/ptmx", stat.S_IFCHR | 0o666, os.makedev(5, 2))
        os.chmod(f"{place}/ptmx", 0o666)
    if os.path.exists("/dev/net/tun"):
        os.mkdir(f"{place}/net")
        os.mknod(f"{place}/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
    _mount(place, "/dev", "", _MS_MOVE)
    os.rmdir(place)


def enter_cage() -> int:
    """Become the first process of a PID namespace in a mount namespace that protects the machine; returns in a child of it.

    The caller's process waits for it and ends with its status.
    """
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("", "/", "", _MS_REC | _MS_PRIVATE)
    _make_devices()
    for path in WRITABLE:
        if not path.startswith("/dev"):
            _mount(path, path, "", _MS_BIND | _MS_REC)
    _mount("", "/", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    first = os.fork()
    if first:
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    _mount("proc", "/proc", "proc", 2 | 4 | 8)
    inner = os.fork()
    if inner == 0:
        os.setsid()
        return 0
    while True:  # reaps what is left to it
        process_id, status = os.wait()
        if process_id == inner:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def run_inside(tree: str, outcomes: str, tests: list[str]) -> int:
    """Run tests on the copy in ``tree``; their outcomes as JSON lines."""
    enter_cage()
    import pytest

    class Recorder:
        def pytest_sessionstart(self) -> None:  # not earlier: pytest rewrites its plugins when it imports them
            import contain
            import pytest_contain

            for module in (contain, pytest_contain):
                if not str(module.__file__).startswith(tree + "/"):
                    pytest.exit(f"{module.__name__} was not taken from the copy: {module.__file__}", 3)

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = str(crash.message if crash is not None else report.longrepr or "")
            row = {"test": report.nodeid, "when": report.when, "outcome": report.outcome, "message": message[:2000]}
            with open(outcomes, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    os.chdir(tree)
    return int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests], plugins=[Recorder()]))


# -- outside -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What became of a run: by node id, what a test said; and all that was printed."""

    passed: set[str]
    failed: dict[str, str]
    skipped: dict[str, str]
    broken: dict[str, str]  # failed outside of the test itself
    output: str

    def of(self, test: str) -> tuple[str, str]:
        """The verdict on a test, or on all cases of it: ``red`` if one failed, else ``broken``, ``green``, ``skipped``."""
        for verdict, found in (("red", self.failed), ("broken", self.broken)):
            for node, words in found.items():
                if _is_case(node, test):
                    return verdict, words
        if any(_is_case(node, test) for node in self.passed):
            return "green", ""
        for node, words in self.skipped.items():
            if _is_case(node, test):
                return "skipped", words
        return "broken", self.output[-300:]


def _is_case(node: str, test: str) -> bool:
    return node == test or node.startswith(test + "[")


def copy_tree(place: Path) -> None:
    """What the tests need of the project."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, place / name)


class Mutated:
    """A copy of the tree with some changes; leaving the block takes them back."""

    def __init__(self, tree: Path, changes: Sequence[Change]) -> None:
        self._tree, self._changes = tree, changes
        self._before: dict[Path, str] = {}

    def __enter__(self) -> None:
        for change in self._changes:
            path = self._tree / change.file
            text = path.read_text(encoding="utf-8")
            if text.count(change.old) != 1:
                self.__exit__()
                raise LookupError(f"{change.file} holds {text.count(change.old)} times: {change.old!r}")
            self._before.setdefault(path, text)
            path.write_text(text.replace(change.old, change.new), encoding="utf-8")
            if change.mode:
                path.chmod(int(change.mode, 8))

    def __exit__(self, *_: object) -> None:
        for path, text in self._before.items():
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)


def run_tests(tree: Path, tests: Sequence[str]) -> Outcomes:
    """Run tests of the copy in a cage of their own."""
    handle, path = tempfile.mkstemp(prefix="outcomes-", dir=tree.parent)
    os.close(handle)
    scratch = tempfile.mkdtemp(prefix="scratch-", dir=tree.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tree / 'runtime'}:{tree}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": scratch,
        "CONTAIN_HOME": f"{scratch}/home",
    }
    command = [sys.executable, str(tree / "tests/security/mutate.py"), "--inside", str(tree), path, *tests]
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
    found = Outcomes(passed=set(), failed={}, skipped={}, broken={}, output=output.decode(errors="replace"))
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        match row["when"], row["outcome"]:
            case "call", "passed":
                found.passed.add(row["test"])
            case "call", "failed":
                found.failed[row["test"]] = row["message"]
            case _, "skipped":
                found.skipped[row["test"]] = row["message"]
            case _, "failed":
                found.broken[row["test"]] = f"{row['when']}: {row['message']}"
    os.unlink(path)
    shutil.rmtree(scratch, ignore_errors=True)
    return found


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else words[: SHOWN - 3] + "..."


class Session:
    """Runs mutations and keeps the rows of the report."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.rows: list[tuple[str, str, str, str]] = []
        self.bad = self.rotten = 0

    def passes(self, tests: Sequence[str], aids: Sequence[Change], what: str) -> set[str]:
        """Those of the tests that pass while nothing is taken out."""
        with Mutated(self.tree, aids):
            found = run_tests(self.tree, tests)
        good = set()
        for test in tests:
            verdict, words = found.of(test)
            if verdict == "green":
                good.add(test)
            elif verdict == "skipped":
                self.rows.append((what, test, "skipped", _one_line(words)))
            else:
                self.bad += 1
                self.rows.append((what, test, "RED WITHOUT A MUTATION", _one_line(words)))
        return good

    def mutate(self, hole: Hole, mutation: Mutation, passing: set[str]) -> None:
        """Take the mitigation out."""
        what = f"{hole.name}: {mutation.name}"
        tests = [test for test in mutation.red if test in passing]
        try:
            if mutation.aids and tests:
                good = self.passes(tests, mutation.aids, what + " (aids only)")
                tests = [test for test in tests if test in good]
            if not tests:
                return
            with Mutated(self.tree, (*mutation.aids, *mutation.changes)):
                found = run_tests(self.tree, tests)
        except LookupError as error:
            self.rotten += 1
            self.rows.append((what, "", "DOES NOT APPLY", str(error)))
            return
        for test in tests:
            verdict, words = found.of(test)
            if verdict == "red":
                self.rows.append((what, test, "red", _one_line(words)))
            else:
                self.bad += 1
                self.rows.append((what, test, "NOT RED", _one_line(f"{verdict} {words}")))

    def show(self, since: int) -> None:
        """Print the rows that came."""
        for what, test, verdict, words in self.rows[since:]:
            module, _, name = test.partition("::")
            print(f"{verdict:8} {what}\n         {module.rpartition('/')[2]}::{name}\n         {words}", flush=True)


def remove_empty_groups(since: float) -> None:
    """Control groups of containers whose tests were ended: what was made since then, is a minute old and holds no process."""
    for parent in (*Path("/sys/fs/cgroup").glob("*/contain"), Path("/sys/fs/cgroup/contain")):
        for place, _, _ in os.walk(parent, topdown=False):
            group = Path(place)
            try:
                if (
                    group != parent
                    and since < group.stat().st_ctime < time.time() - 60
                    and not (group / "cgroup.procs").read_text()
                ):
                    group.rmdir()
            except OSError:
                continue


def main() -> int:
    """See the module."""
    if len(sys.argv) > 3 and sys.argv[1] == "--inside":
        return run_inside(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="holes or mutations whose name holds it")
    parser.add_argument("--list", action="store_true", help="the table, nothing is run")
    parser.add_argument("--write-docs", action="store_true", help="bring the table into docs/security.md, nothing is run")
    options = parser.parse_args()
    holes = read_holes()
    if options.list:
        print(render_table(holes), end="")
        return 0
    if options.write_docs:
        path = ROOT / "docs/security.md"
        path.write_text(replace_table(path.read_text(encoding="utf-8"), render_table(holes)), encoding="utf-8")
        return 0
    if os.geteuid() != 0:
        print("the attacks are made by root in containers: needs root", file=sys.stderr)
        return 2
    wanted = [
        (hole, mutation)
        for hole in holes
        for mutation in hole.mutations
        if not options.only or any(text in f"{hole.name}: {mutation.name}" for text in options.only)
    ]
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="mutations-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir()
        copy_tree(tree)
        session = Session(tree)
        tests = sorted({test for _, mutation in wanted for test in mutation.red})
        passing: set[str] = set()
        for module in sorted({test.partition("::")[0] for test in tests}):
            of_module = [test for test in tests if test.startswith(module + "::")]
            passing |= session.passes(of_module, (), "nothing taken out")
        session.show(0)
        for hole, mutation in wanted:
            shown = len(session.rows)
            session.mutate(hole, mutation, passing)
            session.show(shown)
    remove_empty_groups(began)
    red = sum(row[2] == "red" for row in session.rows)
    skipped = sum(row[2] == "skipped" for row in session.rows)
    print(
        f"{len({hole.name for hole, _ in wanted})} holes, {len(wanted)} mutations, {len(tests)} tests: {red} turned red, "
        f"{session.bad} did not, {session.rotten} mutations do not apply, {skipped} tests skipped here; {time.time() - began:.0f} s"
    )
    return 2 if session.rotten else 1 if session.bad else 0


if __name__ == "__main__":
    sys.exit(main())
