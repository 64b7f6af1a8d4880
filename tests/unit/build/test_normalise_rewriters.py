from __future__ import annotations

import hashlib
import io
import os
import py_compile
import shutil
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contain.build.normalise.facts import FileFacts, Source, StepFacts
from contain.build.normalise.git import rewrite_git_index, rewrite_git_reflog
from contain.build.normalise.node import rewrite_npm_cache_entry
from contain.build.normalise.python import rewrite_pyc, source_of
from contain.build.normalise.rewriters import (
    rewrite_conda_history,
    rewrite_info_dir,
    rewrite_java_keystore,
    rewrite_machine_id,
    rewrite_previous_content,
    rewrite_shadow_day,
    rewrite_tar_times,
)

EPOCH = 946_684_800
NOW = 1_795_000_000
TODAY = NOW // 86400


def facts(
    path: str = "f",
    previous: bytes | None = None,
    *,
    text: str = "",
    sources: dict[str, Source] | None = None,
    identity: str = "sha256:base",
) -> FileFacts:
    step = StepFacts(epoch_seconds=EPOCH, started_seconds=NOW, ended_seconds=NOW + 60, identity=identity, text=text)
    return FileFacts(path=path, step=step, previous=lambda: previous, find_source=(sources or {}).get)


def test_a_log_says_what_it_said_before() -> None:
    assert rewrite_previous_content(b"new", facts()) == b""
    assert rewrite_previous_content(b"old\nnew", facts(previous=b"old\n")) == b"old\n"
    assert rewrite_previous_content(b"", facts()) is None


def test_a_machine_gets_an_identifier_that_depends_on_what_it_stands_on_only() -> None:
    one, other = b"1" * 32 + b"\n", b"2" * 32 + b"\n"
    first, second = rewrite_machine_id(one, facts()), rewrite_machine_id(other, facts())
    assert first == second
    assert first is not None
    assert len(first) == 33
    assert rewrite_machine_id(one, facts(identity="sha256:other")) != first


def test_an_identifier_that_the_author_wrote_or_that_is_none_stays() -> None:
    assert rewrite_machine_id(b"1" * 32, facts(text="echo " + "1" * 32 + " > /etc/machine-id")) is None
    assert rewrite_machine_id(b"uninitialized\n", facts()) is None
    assert rewrite_machine_id(b"", facts()) is None


def test_the_identifier_of_the_layers_below_comes_back() -> None:
    assert rewrite_machine_id(b"1" * 32 + b"\n", facts(previous=b"3" * 32 + b"\n")) == b"3" * 32 + b"\n"


def test_only_todays_password_changes_of_this_step_are_moved_to_the_epoch() -> None:
    before = b"base:*:%d:0:99999:7:::\n" % TODAY
    data = before + b"app:!:%d::::::\nold:!:19000:0:99999:7:::\nexpired:!:0:0:99999:7:::\n" % TODAY
    expected = before + b"app:!:10957::::::\nold:!:19000:0:99999:7:::\nexpired:!:0:0:99999:7:::\n"
    assert rewrite_shadow_day(data, facts(previous=before)) == expected
    assert rewrite_shadow_day(before, facts(previous=before)) is None


def test_a_step_that_went_on_over_midnight_gives_the_same_day() -> None:
    step = StepFacts(epoch_seconds=EPOCH, started_seconds=NOW, ended_seconds=NOW + 86400, identity="")
    over = FileFacts(path="", step=step, previous=lambda: None, find_source=lambda _: None)
    lines = [rewrite_shadow_day(b"a:!:%d::::::" % day, over) for day in (TODAY, TODAY + 1)]
    assert lines == [b"a:!:10957::::::"] * 2


def tar_of(mtime: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("a.pre-install", b"#!/bin/sh\n"), ("b.trigger", b"x" * 600)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), mtime
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_times_in_an_archive_of_scripts_become_the_epoch_and_it_stays_readable() -> None:
    rewritten = rewrite_tar_times(tar_of(NOW), facts())
    assert rewritten == rewrite_tar_times(tar_of(NOW + 5), facts())
    assert rewritten is not None
    with tarfile.open(fileobj=io.BytesIO(rewritten)) as archive:  # checks the headers' sums
        assert [(entry.name, entry.mtime) for entry in archive] == [("a.pre-install", EPOCH), ("b.trigger", EPOCH)]
        found = archive.extractfile("b.trigger")
        assert found is not None
        assert found.read() == b"x" * 600
    assert rewrite_tar_times(tar_of(EPOCH - 1), facts()) is None


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b compressed", b"x" * 512, b"x" * 2000])
def test_what_is_no_such_archive_stays(data: bytes) -> None:
    for rewrite in (rewrite_tar_times, rewrite_git_index, rewrite_java_keystore, rewrite_pyc, rewrite_npm_cache_entry):
        assert rewrite(data, facts("a/__pycache__/b.cpython-311.pyc")) is None


def test_the_menu_of_info_does_not_depend_on_the_order_in_which_manuals_were_added() -> None:
    head = b"This is the file .../info/dir\n\x1f\nFile: dir\n\n* Menu: The list\n\n"
    data = head + b"Tools\n* b: (b).  B.\n* a: (a).\n      more of a\n\nBasics\n* z: (z).  Z.\n"
    expected = head + b"Basics\n* z: (z).  Z.\n\nTools\n* a: (a).\n      more of a\n* b: (b).  B.\n"
    assert rewrite_info_dir(data, facts()) == expected
    assert rewrite_info_dir(expected, facts()) is None
    assert rewrite_info_dir(b"no menu", facts()) is None


def test_condas_transactions_of_this_step_get_the_epochs_time() -> None:
    before = b"==> 2020-01-01 00:00:00 <==\n# cmd: a\n"
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(NOW + 5 + 3600)).encode()  # of a zone to the east
    data = before + b"==> " + now + b" <==\n# cmd: b\n"
    assert rewrite_conda_history(data, facts()) == before + b"==> 2000-01-01 00:00:00 <==\n# cmd: b\n"


def keystore(milliseconds: int) -> bytes:
    body = struct.pack(">III", 0xFEEDFEED, 2, 1) + struct.pack(">I", 2) + struct.pack(">H", 2) + b"ca"
    body += struct.pack(">Q", milliseconds) + struct.pack(">H", 5) + b"X.509" + struct.pack(">I", 3) + b"der"
    return body + hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body).digest()


def test_javas_store_of_certificates_keeps_a_valid_sum() -> None:
    assert rewrite_java_keystore(keystore(NOW * 1000 + 1), facts()) == keystore(EPOCH * 1000)
    assert rewrite_java_keystore(keystore(1_600_000_000_000), facts()) is None  # of a file that was downloaded
    assert rewrite_java_keystore(keystore(NOW * 1000)[:-1] + b"?", facts()) is None  # another password


def npm_line(milliseconds: int, date: str) -> bytes:
    text = (
        f'{{"key":"make-fetch-happen:request-cache:https://registry.example/ms","integrity":"sha512-x","time":{milliseconds},"size":3,'
        f'"metadata":{{"time":{milliseconds - 9},"resHeaders":{{"etag":"\\"e\\"","date":"{date}"}}}}}}'
    ).encode()
    return b"\n" + hashlib.sha1(text).hexdigest().encode() + b"\t" + text


def test_npms_cache_entries_lose_their_times_and_stay_valid() -> None:
    data = npm_line(NOW * 1000 + 864, "Sat, 21 Nov 2026 12:26:29 GMT")
    expected = npm_line(EPOCH * 1000, "Sat, 01 Jan 2000 00:00:00 GMT").replace(
        b"%d" % (EPOCH * 1000 - 9), b"%d" % (EPOCH * 1000)
    )
    text = expected.split(b"\t")[1]
    assert rewrite_npm_cache_entry(data, facts()) == b"\n" + hashlib.sha1(text).hexdigest().encode() + b"\t" + text
    assert rewrite_npm_cache_entry(npm_line(1_600_000_000_000, "Sat, 21 Nov 2020 12:26:29 GMT"), facts()) is None


def test_gits_movements_of_this_step_lose_their_time() -> None:
    line = b"0" * 40 + b" " + b"a" * 40 + b" A B <a@example.org> %d +0100\tclone: from x %d\n"
    data = line % (NOW + 3, NOW + 3) + line % (1_000_000_000, 1)
    assert rewrite_git_reflog(data, facts()) == line % (EPOCH, NOW + 3) + line % (1_000_000_000, 1)


@pytest.mark.parametrize("version", ["2", "3", "4"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_gits_index_says_the_same_without_inodes_and_times(tmp_path: Path, version: str, algorithm: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")

    def git(*arguments: str, check: bool = True) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30).stdout

    git("init", "-q", f"--object-format={algorithm}", ".")
    (tmp_path / "directory").mkdir()
    for number in range(20):
        (tmp_path / "directory" / f"file{'x' * number}").write_text(str(number))
    git("add", ".")
    git("commit", "-qm", "m")
    if version == "3":
        git("rm", "-q", "--cached", "directory/file")
        git("add", "--intent-to-add", "directory/file")
    git("update-index", "--index-version", version)
    before = git("ls-files", "--stage"), git("status", "--porcelain")
    index = tmp_path / ".git/index"
    assert index.read_bytes()[4:8] == int(version).to_bytes(4, "big")
    rewritten = rewrite_git_index(index.read_bytes(), facts())
    assert rewritten is not None
    assert rewrite_git_index(rewritten, facts()) is None
    index.write_bytes(rewritten)
    shown = git("ls-files", "--debug")
    assert "mtime: 0:0" in shown
    assert "ino: 0" in shown
    assert (git("ls-files", "--stage"), git("status", "--porcelain")) == before
    git("fsck", "--strict")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lib/a/__pycache__/b.cpython-311.pyc", "lib/a/b.py"),
        ("lib/a/__pycache__/b.cpython-311.opt-2.pyc", "lib/a/b.py"),
        ("__pycache__/b.c.cpython-38.pyc", "b.c.py"),
        ("lib/b.pyc", "lib/b.py"),
        ("b.pyo", "b.py"),
    ],
)
def test_a_compiled_files_source_is_found(path: str, source: str) -> None:
    assert source_of(path) == source


def compiled(tmp_path: Path, seconds: int, mode: py_compile.PycInvalidationMode) -> bytes:
    source = tmp_path / "module.py"
    source.write_text("VALUE = 1\n")
    os.utime(source, (seconds, seconds))
    target = tmp_path / "module.pyc"
    py_compile.compile(str(source), str(target), dfile="module.py", invalidation_mode=mode)
    return target.read_bytes()


PYC = "m/__pycache__/module.cpython-311.pyc"


def source(mtime: int, final: int) -> dict[str, Source]:
    return {"m/module.py": Source(mtime_seconds=mtime, final_mtime_seconds=final, size_bytes=10)}


def stamp(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 8)[0])


def test_compiled_python_stays_valid_when_its_sources_time_is_clamped(tmp_path: Path) -> None:
    data = compiled(tmp_path, NOW, py_compile.PycInvalidationMode.TIMESTAMP)
    rewritten = rewrite_pyc(data, facts(PYC, sources=source(NOW, EPOCH)))
    assert rewritten is not None
    assert stamp(rewritten) == EPOCH
    assert rewritten == compiled(tmp_path, EPOCH, py_compile.PycInvalidationMode.TIMESTAMP)


def test_compiled_python_of_a_source_in_a_lower_layer_is_right_already(tmp_path: Path) -> None:
    data = compiled(tmp_path, EPOCH, py_compile.PycInvalidationMode.TIMESTAMP)
    assert rewrite_pyc(data, facts(PYC, sources=source(EPOCH, EPOCH))) is None


def test_stale_compiled_python_stays_stale_and_without_a_source_gets_the_epoch(tmp_path: Path) -> None:
    data = compiled(tmp_path, NOW, py_compile.PycInvalidationMode.TIMESTAMP)
    stale = rewrite_pyc(data, facts(PYC, sources=source(NOW + 1, EPOCH)))
    alone = rewrite_pyc(data, facts(PYC))
    assert stale is not None
    assert alone is not None
    assert (stamp(stale), stamp(alone)) == (0, EPOCH)


def test_compiled_python_that_is_checked_by_a_hash_stays(tmp_path: Path) -> None:
    data = compiled(tmp_path, NOW, py_compile.PycInvalidationMode.CHECKED_HASH)
    assert rewrite_pyc(data, facts(PYC, sources=source(NOW, EPOCH))) is None


def test_python_2_and_early_python_3_have_their_time_elsewhere() -> None:
    for magic in (62211, 3379):
        data = struct.pack("<H", magic) + b"\r\n" + struct.pack("<I", NOW) + b"c" * 20
        rewritten = rewrite_pyc(data, facts("m/module.pyc", sources=source(NOW, EPOCH)))
        assert rewritten == data[:4] + struct.pack("<I", EPOCH) + data[8:]


@pytest.mark.parametrize(
    ("rewrite", "whole"),
    [
        (rewrite_java_keystore, keystore(NOW * 1000)),
        (rewrite_tar_times, tar_of(NOW)[:700]),
        (rewrite_git_index, b"DIRC" + b"\0" * 60),
    ],
)
def test_a_file_that_was_cut_short_raises_nothing(rewrite: Callable[[bytes, FileFacts], bytes | None], whole: bytes) -> None:
    for length in range(0, len(whole), 7):
        rewrite(whole[:length], facts())
