"""Ordinary users, one with several ids and one with a single one, each with a store of their own; nothing of theirs may be left."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from contain.linux import syscalls
from contain.linux.usernamespace import parse_subordinate_ids

ROOT = Path(__file__).resolve().parents[2]
_NOBODY_KNOWS = 54321
_TUN = "/dev/net/tun"
CONTAIN = "from contain.cli.start import program; program()"


def _subordinate(name: str, user_id: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        return parse_subordinate_ids(Path("/etc/subuid").read_text(), name, user_id)
    return None


def _may_be_entered(path: Path) -> bool:
    """Whether the ordinary user gets there; who is no root is that user."""
    return os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _find_python() -> str | None:
    """A Python that everybody may run: ours, or the machine's of the same version, which then uses our packages."""
    for path in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(path) and _may_be_entered(Path(path).resolve()):
            asked = [path, "-c", "import sys; print(sys.version_info[:2])"]
            if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == str(sys.version_info[:2]):
                return path
    return None


PYTHON = _find_python()


def _packages() -> list[Path]:
    """Where the packages that this project needs are installed."""
    return sorted({Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")})


class Ordinary:
    """A user who is not root."""

    def __init__(self, user_id: int, group_id: int, name: str, place: Path, subordinate: tuple[int, int] | None) -> None:
        self.user_id, self.group_id, self.name, self.place, self.subordinate = user_id, group_id, name, place, subordinate
        self.store = place / "store"
        self.lent = {
            installed: place / f"packages{number}"
            for number, installed in enumerate(_packages())
            if not _may_be_entered(installed)
        }
        self.before = set(self.processes())

    def processes(self) -> list[int]:
        """Their processes, also those of their containers' other users."""
        first, count = self.subordinate or (0, 0)
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                owner = entry.stat().st_uid if entry.name.isdigit() else 0
                theirs = owner == self.user_id or (owner and first <= owner < first + count)
                if theirs and _is_alive(entry) and not self._is_of_another_store(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def _is_of_another_store(self, number: int) -> bool:
        """Whether it was started by a command with another store: somebody else may run these very tests now."""
        own = f"CONTAIN_HOME={self.store}"
        while number > 1:
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{number}/environ").read_bytes().decode(errors="replace").split("\0")
                named = [word for word in words if word.startswith("CONTAIN_HOME=")]
                if named:
                    return not any(word.startswith(own) for word in named)
            try:
                number = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return False
        return False

    def prepare(self, *, tun: bool, private: Callable[[], None] | None) -> Callable[[], None]:
        """What a child does to become this user. ``tun``: the machine lets everybody open it, as distributions do; else nobody."""
        mode = 0o666 if tun else 0o600
        node = self.place / f"tun{mode:o}"
        if not node.exists() and os.geteuid() == 0:
            os.mknod(node, stat.S_IFCHR | mode, os.makedev(10, 200))
            node.chmod(mode)
        for shown in self.lent.values():
            shown.mkdir(exist_ok=True)

        def become() -> None:
            os.umask(0o022)
            if os.geteuid() == 0:
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
                if os.path.exists(_TUN):
                    syscalls.mount(str(node), _TUN, "", syscalls.MS_BIND, "")
                for installed, shown in self.lent.items():
                    syscalls.mount(str(installed), str(shown), "", syscalls.MS_BIND, "")
                if private is not None:
                    private()
                os.setgroups([])
                os.setresgid(self.group_id, self.group_id, self.group_id)
                os.setresuid(self.user_id, self.user_id, self.user_id)
            os.chdir(self.place)

        return become

    def environment(self, changes: Mapping[str, str] | None = None) -> dict[str, str]:
        """Theirs."""
        kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {**kept, "PATH": path, "HOME": str(self.place), "CONTAIN_HOME": str(self.store), **(changes or {})}

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        tun: bool = True,
        private: Callable[[], None] | None = None,
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as them to its end. ``private``: done before, as root, in a mount namespace that goes with it."""
        done = subprocess.run(
            arguments,
            env=self.environment(env),
            input=stdin or b"",
            capture_output=True,
            preexec_fn=self.prepare(tun=tun, private=private),
            timeout=seconds,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def program(self, source: str) -> tuple[str, ...]:
        """The command line of a program of this project's Python."""
        places = [ROOT, ROOT / "runtime", *(self.lent.get(installed, installed) for installed in _packages())]
        return (str(PYTHON), "-P", "-c", f"import sys; sys.path[:0] = {[str(place) for place in places]!r}; {source}")

    def command(self, *arguments: str) -> tuple[str, ...]:
        """The command line of ``contain``."""
        return (*self.program(CONTAIN), *arguments)

    def contain(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run ``contain`` as them."""
        return self.run(*self.command(*arguments), **options)  # type: ignore[arg-type]

    def ok(self, *arguments: str, **options: object) -> str:
        """The same; it must succeed. Its output without the last line's end."""
        done = self.contain(*arguments, **options)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.rstrip("\n")

    def python(self, source: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program of this project's Python as them."""
        return self.run(*self.program(source), *arguments, **options)  # type: ignore[arg-type]

    def give(self, path: Path) -> Path:
        """Make a tree theirs."""
        if os.geteuid() == 0:
            for each in (path, *path.rglob("*")):
                os.chown(each, self.user_id, self.group_id, follow_symlinks=False)
        return path

    def give_file(self, path: Path) -> None:
        """Make an empty file of theirs."""
        path.touch()
        self.give(path)

    @staticmethod
    def command_of(number: int) -> str:
        """A process's command line, each word ended by NUL; "" if it is gone."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{number}/cmdline").read_text()
        return ""

    def end(self) -> None:
        """Remove what there is; nothing of theirs may run any more."""
        listed = self.contain("ps", "-aq")
        for name in listed.stdout.split():
            self.contain("rm", "-f", name)
        deadline = time.monotonic() + 5
        while (left := set(self.processes()) - self.before) and time.monotonic() < deadline:
            time.sleep(0.02)
        told = [f"{number} {_command(number)}" for number in left]
        for number in left:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        if os.geteuid() == 0:
            shutil.rmtree(self.place)
        else:
            self.contain("unshare", "rm", "-rf", str(self.store))
            shutil.rmtree(self.place, ignore_errors=True)
        assert not told, told


def _is_alive(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _command(number: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ")
    return ""


@contextlib.contextmanager
def _user(user_id: int, group_id: int, name: str, subordinate: tuple[int, int] | None) -> Iterator[Ordinary]:
    place = Path(tempfile.mkdtemp(prefix="contain-ordinary-"))
    place.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(place, user_id, group_id)
    user = Ordinary(user_id, group_id, name, place, subordinate)
    try:
        yield user
    finally:
        user.end()


def _refuse_unreadable() -> None:
    if PYTHON is None or not _may_be_entered(ROOT):
        pytest.skip("ordinary users may run no Python of this version here, or not look into this directory")


@pytest.fixture
def ordinary() -> Iterator[Ordinary]:
    """An ordinary user with subordinate ids."""
    _refuse_unreadable()
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is not installed (Debian: uidmap)")
    for entry in pwd.getpwall():
        found = _subordinate(entry.pw_name, entry.pw_uid)
        if found is not None and entry.pw_uid and (os.geteuid() in (0, entry.pw_uid)):
            with _user(entry.pw_uid, entry.pw_gid, entry.pw_name, found) as user:
                yield user
            return
    pytest.skip("no ordinary user has subordinate ids (useradd makes one)")


@pytest.fixture
def single() -> Iterator[Ordinary]:
    """An ordinary user with one id."""
    _refuse_unreadable()
    if os.geteuid() != 0:
        pytest.skip("needs root: to be a user without subordinate ids")
    with _user(_NOBODY_KNOWS, _NOBODY_KNOWS, "", None) as user:
        yield user


@pytest.fixture(scope="session")
def small_archive(small_tree: Path) -> bytes:
    """The small image as an archive, all of it root's."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        writer.add(small_tree, arcname=".", filter=owned)
    return out.getvalue()
