from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from contain.build.normalise import CAUSES
from contain.build.verify.differences import Change, attribute, compare_trees
from contain.build.verify.verify import find_dates, today_expression

ELF = b"\x7fELF" + b"\0" * 60
TAR = b"\0" * 257 + b"ustar"


@pytest.mark.parametrize(
    ("path", "first", "second", "cause"),
    [
        ("built", b"built 2026-11-21 12:00:01\n", b"built 2026-11-21 12:00:02\n", "timestamp"),
        ("built", b"Sat Nov 21 12:44:19 UTC 2026\n", b"Sat Nov 21 12:44:21 UTC 2026\n", "timestamp"),
        ("built", b"at 1795263989\n", b"at 1795263991\n", "timestamp"),
        ("list", b"a\nb\nc\n", b"b\na\nc\n", "file-order"),
        ("list", b"/usr/a\n/usr/b\n", b"/usr/c\n/usr/a\n", "file-order"),
        ("id", b"5d3c9c44-07c5-4cb7-93ec-748f0de7e7a6\n", b"aaaaaaaa-07c5-4cb7-93ec-000000000000\n", "random-value"),
        ("id", b"token=0123456789abcdef0123\n", b"token=abcdef0123456789abcd\n", "random-value"),
        ("config", b"-I/tmp/pip-install-a_hr394t/x y\n", b"-I/tmp/pip-install-5387gnep/x y\n", "build-path"),
        ("key.txt", b"-----BEGIN PRIVATE KEY-----\nAA\n", b"-----BEGIN PRIVATE KEY-----\nBB\n", "private-key"),
        ("etc/ssh/ssh_host_rsa_key.pub", b"ssh-rsa A", b"ssh-rsa B", "ssh-host-keys"),
        ("etc/shadow", b"a:$y$1:1:::::: \n", b"a:$y$2:1:::::: \n", "password-salt"),
        ("etc/shadow", b"a:!:20000::::::\n", b"a:!:20001::::::\n", "shadow-day"),
        ("var/lib/dpkg/status", b"Version: 1\n", b"Version: 2\n", "package-versions"),
        ("var/lib/apt/lists/x_InRelease", b"a", b"b", "apt-lists"),
        ("m/__pycache__/a.cpython-310.pyc", b"h" * 16 + b"1", b"h" * 16 + b"2", "pyc-content"),
        ("m/__pycache__/a.cpython-310.pyc", b"g" * 16 + b"1", b"h" * 16 + b"1", "pyc-mtime"),
        ("p/.git/refs/heads/main", b"a" * 40, b"b" * 40, "git-commit-time"),
        (
            "p/.git/logs/HEAD",
            b"0 " + b"a" * 40 + b" A <a> 1 +0000\tm",
            b"0 " + b"b" * 40 + b" A <a> 1 +0000\tm",
            "git-commit-time",
        ),
        ("lib/a.so", ELF + b"/tmp/pip-install-aaaaaaaa/x\0", ELF + b"/tmp/pip-install-bbbbbbbb/x\0", "build-path"),
        ("bin/a", ELF + b"Nov 21 2026 12:00:01\0", ELF + b"Nov 21 2026 12:00:02\0", "build-time"),
        ("a.gz", b"\x1f\x8b\x08\0\1\2\3\4data", b"\x1f\x8b\x08\0\1\2\3\5data", "build-time"),
        ("a.tgz", gzip.compress(TAR + b"1", mtime=0), gzip.compress(TAR + b"2", mtime=0), "build-time"),
        ("a.gz", gzip.compress(b"12:00:01", mtime=0), gzip.compress(b"12:00:02", mtime=0), "timestamp"),
        ("a.gz", gzip.compress(b"x", 1, mtime=0), b"\x1f\x8b\x08\0\0\0\0\0 broken", "unknown"),
        ("a.zip", b"PK\x03\x04\0\1", b"PK\x03\x04\0\2", "build-time"),
        ("a.bin", b"\0\1\2", b"\0\1\3", "unknown"),
        ("var/lib/postgresql/15/main/global/pg_control", b"\0a", b"\0b", "database-cluster"),
        ("words", b"alpha\n", b"beta\n", "unknown"),
        ("empty", b"", b"x", "unknown"),
    ],
)
def test_a_difference_is_given_its_cause(path: str, first: bytes, second: bytes, cause: str) -> None:
    assert attribute(path, first, second)[0] == cause
    assert attribute(path, second, first)[0] == cause
    assert cause in CAUSES


def test_a_hint_shows_where_the_contents_part_and_nothing_unprintable() -> None:
    assert attribute("f", b"a\nvalue 1\n", b"a\nvalue \x1b[2J\n")[1] == "line 2: 'value 1' / 'value \\\\x1b[2J'"
    assert attribute("f", b"\0\1\2abc", b"\0\1\3abc")[1] == "byte 0x2: 02616263 '.abc' / 03616263 '.abc'"
    assert attribute("f", b"\0\1", b"\0\1\2")[1] == "2 bytes / 3 bytes"
    assert attribute("f", b"a\n", b"a\nb\n")[1] == "1 lines / 2 lines"


def test_secrets_are_never_shown() -> None:
    for path in ("etc/shadow", "etc/ssh/ssh_host_rsa_key", "etc/ssl/private/a.pem", "srv/app.key"):
        assert attribute(path, b"a:secret1:1", b"a:secret2:1")[1] == ""
    assert attribute("srv/x", b"-----BEGIN PRIVATE KEY-----\nAA", b"-----BEGIN PRIVATE KEY-----\nBB")[1] == ""


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text("same")
        os.utime(tmp_path / name / "same", (1, 1))
    return tmp_path / "first", tmp_path / "second"


def test_equal_trees_do_not_differ_whatever_order_they_were_made_in(trees: tuple[Path, Path]) -> None:
    for tree, names in zip(trees, ("abc", "cba"), strict=True):
        for name in names:
            (tree / name).write_text(name)
            os.utime(tree / name, (1, 1))
    os.utime(trees[0], (1, 1))
    assert compare_trees(*trees) == ()


def test_what_differs_is_found_with_its_kind(trees: tuple[Path, Path]) -> None:
    first, second = trees
    for tree, text in ((first, "one"), (second, "two")):
        (tree / "content").write_text(text)
        (tree / "mode").write_text("")
        (tree / "link").symlink_to(text)
        (tree / f"tmp.{text}AbCdEf").write_text("")
        (tree / "time").write_text("")
        for name in ("content", "mode", "time", f"tmp.{text}AbCdEf"):
            os.utime(tree / name, (1, 1))
        os.utime(tree / "link", (1, 1), follow_symlinks=False)
    (first / "mode").chmod(0o600)
    (second / "mode").chmod(0o644)
    os.utime(first / "time", (5, 5))
    (first / "kind").mkdir()
    (second / "kind").write_text("")
    (second / "extra").write_text("")
    found = {each.path: (each.change, each.cause) for each in compare_trees(first, second)}
    assert found == {
        "/content": (Change.CONTENT, "unknown"),
        "/mode": (Change.MODE, "ownership-or-mode"),
        "/link": (Change.TARGET, "unknown"),
        "/time": (Change.TIME, "mtime"),
        "/kind": (Change.KIND, "unknown"),
        "/extra": (Change.ONLY_SECOND, "unknown"),
        "/tmp.oneAbCdEf": (Change.ONLY_FIRST, "random-name"),
        "/tmp.twoAbCdEf": (Change.ONLY_SECOND, "random-name"),
    }


def test_what_differs_in_an_earlier_layer_already_follows_from_it(trees: tuple[Path, Path]) -> None:
    for tree, text in zip(trees, ("one", "two"), strict=True):
        (tree / "log").write_text(text)
    (difference,) = compare_trees(*trees, earlier={"/log"})
    assert difference.cause == "follows"


def test_a_file_that_holds_todays_date_is_suspicious_and_a_package_list_is_not(tmp_path: Path) -> None:
    today = today_expression(1_795_263_989)  # 2026-11-21
    for name, text in (
        ("a", "built 2026-11-21"),
        ("b", "Sat Nov 21 12:26:29 UTC 2026"),
        ("c", "version 20261121 of"),
        ("old", "2026-11-20, 120261121, 2020-11-21"),
    ):
        (tmp_path / name).write_text(text)
    lists = tmp_path / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    (lists / "x_InRelease").write_text("Date: 2026-11-21")
    assert sorted(find_dates(tmp_path, today)) == [("/a", "2026-11-21"), ("/b", "Sat Nov 21"), ("/c", "20261121")]
