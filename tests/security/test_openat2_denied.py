"""Nothing leads out of a root where openat2(2) is refused, as it often is inside of other engines' containers: the walker's turn.

A filter in a child process refuses the call, as an old kernel (ENOSYS) or an old filter (EPERM) does.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

_DENY = """
import struct, sys
from contain.linux import syscalls
def deny(number):
    # BPF_LD nr; BPF_JEQ openat2; BPF_RET ERRNO; BPF_RET ALLOW (seccomp(2))
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 437), (0x06, 0, 0, 0x00050000 | number), (0x06, 0, 0, 0x7FFF0000)]
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.install_seccomp_filter(b"".join(struct.pack("=HBBI", *each) for each in code))
"""
_RACE = """
import errno, os, signal
from contain.beneath import open_beneath, openat2_works
root, rounds, denied = sys.argv[1], 1500, int(sys.argv[2])
if denied:
    deny(denied)
assert openat2_works() == (not denied)
os.chdir(root)
flipper = os.fork()
if flipper == 0:
    while True:  # the directory `a` turns into a link out of the root, and `a/b` moves above it, and all comes back
        for first, second in (("a", "kept"), ("link", "a"), ("kept/b", "b"), ("b", "kept/b"), ("a", "link"), ("kept", "a")):
            try:
                os.rename(first, second)
            except OSError:
                pass
descriptor = os.open(".", os.O_PATH | os.O_DIRECTORY)
seen = set()
try:
    for number in range(rounds):
        for path, flags in (
            ("a/secret", os.O_RDONLY),
            ("a/b/../secret", os.O_RDONLY),
            ("a/b/../../../secret", os.O_RDONLY),
            ("a/b/up/secret", os.O_RDONLY),
        ):
            try:
                found = open_beneath(descriptor, path, flags)
            except OSError as error:
                seen.add(errno.errorcode[error.errno])
                continue
            text = os.read(found, 100)
            os.close(found)
            assert text == b"inside", (path, text)
            seen.add("inside")
finally:
    os.kill(flipper, signal.SIGKILL)
    os.waitpid(flipper, 0)
assert "inside" in seen and "ENOENT" in seen, seen  # both sides of the race were met
print("held")
"""


def _python(source: str, *arguments: str | Path, seconds: int = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _DENY + textwrap.dedent(source), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)


@pytest.mark.parametrize("denied", [0, errno.ENOSYS, errno.EPERM], ids=["openat2", "ENOSYS", "EPERM"])
def test_a_race_of_renames_leads_nobody_out(tmp_path: Path, denied: int) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "outside/b").mkdir()
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/secret").write_text("inside")
    (root / "secret").write_text("inside")
    (root / "a/b/up").symlink_to("../../..")
    (root / "link").symlink_to("../outside")
    done = _python(_RACE, root, str(denied))
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr


_CONTAIN = """
deny(int(sys.argv[1]))
from contain.beneath import openat2_works
assert not openat2_works()
from contain.cli.start import program
sys.argv = ["contain", *sys.argv[2:]]
sys.exit(program())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root")
@pytest.mark.parametrize("denied", [errno.ENOSYS, errno.EPERM], ids=["ENOSYS", "EPERM"])
def test_containers_are_made_imported_and_read_without_openat2(
    tmp_path: Path, small_tree: Path, monkeypatch: pytest.MonkeyPatch, denied: int
) -> None:
    monkeypatch.setenv("CONTAIN_HOME", str(tmp_path / "home"))
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.add(small_tree, ".")
        for name, target in (("way", f"/..{tmp_path}/outside"), ("up", "../../../../../../..")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)

    def contain(*arguments: str) -> str:
        done = _python(_CONTAIN, str(denied), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    contain("import", str(tmp_path / "image.tar"), "small")
    mounts = ["--tmpfs", "/way/made", "-v", f"{tmp_path}/outside:/up/made:ro", "-w", "/way/deep/er"]
    run = ["run", "--name", "one", "--network", "none", *mounts, "small"]
    shown = contain(*run, "sh", "-c", f"pwd; ls -d {tmp_path}/outside/made /made; echo written > /written")
    assert sorted(shown.splitlines()) == sorted([f"{tmp_path}/outside/deep/er", f"{tmp_path}/outside/made", "/made"])
    assert list((tmp_path / "outside").iterdir()) == []
    assert "A /written" in contain("container", "diff", "one")
    contain("rm", "one")
