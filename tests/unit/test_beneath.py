"""What lies below a root is opened without ever leaving it: asked of the kernel, and walked where the kernel may not be asked."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from contain.beneath import DEVPTS_SUPER_MAGIC, PROC_SUPER_MAGIC, file_system_magic, open_beneath, openat2_works


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root beside a secret that nobody may reach from it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("inside")
    (root / "secret").write_text("inside")
    (root / "outside").mkdir()
    links = {
        "up": "../secret",
        "absolute": str(tmp_path / "secret"),
        "root": "/",
        "a/back": "../../../../secret",
        "a/b/far": "/a/file",
        "directory": "a/b",
        "slash": "a/b/",
        "loop": "loop",
        "ping": "pong",
        "pong": "ping",
        "nowhere": "missing/too",
        "new": "made",
        "dot": ".",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    for number in range(45):
        (root / f"chain{number}").symlink_to(f"chain{number + 1}" if number < 44 else "a/file")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(params=["openat2", "walker"])
def walker(request: pytest.FixtureRequest) -> bool:
    """Both ways, which must not differ."""
    if request.param == "openat2" and not openat2_works():
        pytest.skip("the kernel or a filter refuses openat2 here")
    return str(request.param) == "walker"


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    descriptor = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def _opened(root: int, path: str, flags: int, **options: bool) -> str:
    """Where it led, below the root, or the name of the error."""
    try:
        descriptor = open_beneath(root, path, flags, **options)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        assert not os.get_inheritable(descriptor)
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        return place.removeprefix(os.readlink(f"/proc/self/fd/{root}")) or "/"
    finally:
        os.close(descriptor)


_CASES = [
    ("a/file", "/a/file"),
    ("/a/file", "/a/file"),
    ("a//./b", "/a/b"),
    ("", "/"),
    (".", "/"),
    ("/", "/"),
    ("..", "/"),
    ("../../secret", "/secret"),
    ("a/../../secret", "/secret"),
    ("up", "/secret"),
    ("a/back", "/secret"),
    ("a/b/far", "/a/file"),
    ("root/../../a", "/a"),
    ("root/root/root/secret", "/secret"),
    ("directory", "/a/b"),
    ("directory/", "/a/b"),
    ("slash", "/a/b"),
    ("slash/../file", "/a/file"),
    ("dot/secret", "/secret"),
    ("absolute", "ENOENT"),
    ("nowhere", "ENOENT"),
    ("missing", "ENOENT"),
    ("missing/..", "ENOENT"),
    ("a/file/..", "ENOTDIR"),
    ("a/file/", "ENOTDIR"),
    ("a/file/x", "ENOTDIR"),
    ("loop", "ELOOP"),
    ("ping/x", "ELOOP"),
    ("chain0", "ELOOP"),
    ("chain6", "/a/file"),
    ("x" * 300, "ENAMETOOLONG"),
]


@pytest.mark.parametrize(("path", "found"), _CASES)
def test_links_and_dots_are_resolved_as_if_the_root_were_the_world(root: int, walker: bool, path: str, found: str) -> None:
    assert _opened(root, path, os.O_PATH, walker=walker) == found


@pytest.mark.parametrize(
    ("path", "flags", "found"),
    [
        ("up", os.O_PATH | os.O_NOFOLLOW, "/up"),
        ("up", os.O_RDONLY | os.O_NOFOLLOW, "ELOOP"),
        ("directory/", os.O_PATH | os.O_NOFOLLOW, "/a/b"),
        ("directory", os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, "ENOTDIR"),
        ("directory", os.O_PATH | os.O_DIRECTORY, "/a/b"),
        ("directory", os.O_RDONLY | os.O_DIRECTORY, "/a/b"),
        ("a/file", os.O_RDONLY | os.O_DIRECTORY, "ENOTDIR"),
        ("a/file", os.O_PATH | os.O_DIRECTORY, "ENOTDIR"),
        ("a", os.O_WRONLY, "EISDIR"),
        ("a/file", os.O_WRONLY, "/a/file"),
        ("a/b/far", os.O_RDONLY, "/a/file"),
        ("pipe", os.O_RDONLY | os.O_NONBLOCK, "/pipe"),
        ("new", os.O_WRONLY | os.O_CREAT, "/made"),
        ("new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, "EEXIST"),
        ("fresh", os.O_WRONLY | os.O_CREAT | os.O_EXCL, "/fresh"),
        ("nowhere", os.O_WRONLY | os.O_CREAT, "ENOENT"),
    ],
)
def test_flags_mean_what_they_mean_to_open(root: int, walker: bool, path: str, flags: int, found: str) -> None:
    assert _opened(root, path, flags, walker=walker) == found


def test_without_links_none_is_followed(root: int, walker: bool) -> None:
    for path in ("up", "directory/far", "root/a", "directory/"):
        assert _opened(root, path, os.O_PATH, links=False, walker=walker) == "ELOOP"
    assert _opened(root, "a/../a/file", os.O_PATH, links=False, walker=walker) == "/a/file"
    assert _opened(root, "up", os.O_PATH | os.O_NOFOLLOW, links=False, walker=walker) == "/up"


def test_the_kernels_own_links_are_refused_and_ordinary_ones_of_proc_are_not(walker: bool) -> None:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        assert _opened(proc, "self/status", os.O_RDONLY, walker=walker) == f"/{os.getpid()}/status"
        assert _opened(proc, "mounts", os.O_RDONLY, walker=walker) == f"/{os.getpid()}/mounts"
        for path in (
            "self/root",
            "self/root/etc",
            "self/cwd",
            "self/exe",
            f"self/fd/{proc}",
            f"self/fd/{proc}/self",
            "self/ns/mnt",
        ):
            assert _opened(proc, path, os.O_PATH, walker=walker) == "ELOOP", path
    finally:
        os.close(proc)


def test_what_is_mounted_below_is_refused_on_demand(walker: bool) -> None:
    machine = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        assert _opened(machine, "proc/self", os.O_PATH, mounts=False, walker=walker) == "EXDEV"
        assert _opened(machine, "proc", os.O_RDONLY | os.O_DIRECTORY, mounts=False, walker=walker) == "EXDEV"
        assert _opened(machine, "proc", os.O_RDONLY | os.O_DIRECTORY, walker=walker).endswith("proc")
    finally:
        os.close(machine)


def test_a_path_with_nul_is_refused(root: int, walker: bool) -> None:
    assert _opened(root, "a\0b", os.O_PATH, walker=walker) == "EINVAL"


def test_no_descriptor_stays_open(root: int, walker: bool) -> None:
    gc.collect()  # what tests before this one have left
    before = set(os.listdir("/proc/self/fd"))
    for path, _ in _CASES:
        _opened(root, path, os.O_PATH, walker=walker)
        _opened(root, path, os.O_RDONLY | os.O_NONBLOCK, walker=walker, links=False, mounts=False)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_system_is_told_by_its_magic_number() -> None:
    with open("/proc/self/status") as file:
        assert file_system_magic(file.fileno()) == PROC_SUPER_MAGIC
    assert PROC_SUPER_MAGIC != DEVPTS_SUPER_MAGIC
