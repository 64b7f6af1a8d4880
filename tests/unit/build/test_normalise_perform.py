from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from contain.build.normalise import Normalised, StepFacts, normalise

EPOCH = 946_684_800
NOW = 1_795_000_000
STEP = StepFacts(epoch_seconds=EPOCH, started_seconds=NOW, ended_seconds=NOW + 9, identity="sha256:base")


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "upper").mkdir()
    return tmp_path / "upper"


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    (tmp_path / "lower").mkdir()
    return tmp_path / "lower"


def put(tree: Path, path: str, content: str | bytes = "x", *, mode: int = 0o644, mtime: int = NOW) -> Path:
    file = tree / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)
    os.utime(file, (mtime, mtime))
    return file


def test_a_log_is_emptied_and_keeps_its_mode_owner_and_time(upper: Path, lower: Path) -> None:
    log = put(upper, "var/log/apt/term.log", "new", mode=0o640, mtime=1000)
    assert normalise(upper, [lower], STEP) == Normalised(counts=(("apt-log", 1),))
    found = log.stat()
    assert (log.read_bytes(), found.st_mode & 0o777, int(found.st_mtime)) == (b"", 0o640, 1000)


def test_a_log_of_a_lower_layer_says_again_what_it_said_there(upper: Path, lower: Path) -> None:
    below = put(lower, "var/log/dpkg.log", "of the base\n")
    log = put(upper, "var/log/dpkg.log", "of the base\nof the step\n")
    normalise(upper, [lower], STEP)
    assert log.read_text() == below.read_text() == "of the base\n"


def test_a_cache_is_removed_with_the_directories_that_the_step_made_for_it(upper: Path, lower: Path) -> None:
    (lower / "root/.cache/pip/http").mkdir(parents=True)
    put(upper, "root/.cache/pip/http/a/b")
    put(upper, "root/.cache/pip/selfcheck/abc")
    put(upper, "root/.cache/other")
    assert normalise(upper, [lower], STEP).counts == (("pip-cache", 2),)
    left = sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))
    assert left == [
        "root",
        "root/.cache",
        "root/.cache/other",
        "root/.cache/pip",
        "root/.cache/pip/http",
        "root/.cache/pip/selfcheck",
    ]


def test_a_cache_file_of_a_lower_layer_is_seen_again(upper: Path, lower: Path) -> None:
    put(lower, "var/cache/ldconfig/aux-cache", "of the base")
    put(upper, "var/cache/ldconfig/aux-cache", "of the step")
    normalise(upper, [lower], STEP)
    assert not (upper / "var/cache/ldconfig/aux-cache").exists()


def test_what_is_no_plain_file_is_not_touched(upper: Path, lower: Path) -> None:
    target = put(upper, "data", "precious")
    (upper / "var/log/apt").mkdir(parents=True)
    (upper / "var/log/dpkg.log").symlink_to("/data")
    (upper / "var/log/apt/term.log").symlink_to(target)
    os.mkfifo(upper / "var/log/alternatives.log")
    (upper / "var/log/apt/history.log").mkdir()
    assert normalise(upper, [lower], STEP).counts == ()
    assert target.read_text() == "precious"


def test_a_link_out_of_the_layer_is_not_followed(tmp_path: Path, upper: Path, lower: Path) -> None:
    outside = put(tmp_path, "outside/dpkg.log", "of the host")
    (upper / "var").mkdir()
    (upper / "var/log").symlink_to(outside.parent)
    normalise(upper, [lower], STEP)
    assert outside.read_text() == "of the host"


def test_a_file_that_has_another_name_too_is_left_alone(upper: Path, lower: Path) -> None:
    data = put(upper, "app/data", "precious")
    (upper / "var/log").mkdir(parents=True)
    os.link(data, upper / "var/log/dpkg.log")
    assert normalise(upper, [lower], STEP).counts == ()
    assert data.read_text() == "precious"


def test_both_names_of_a_compiled_file_stay_one_file(upper: Path, lower: Path) -> None:
    put(upper, "m/a.py", "A = 1\n")
    data = struct.pack("<H", 3495) + b"\r\n" + struct.pack("<III", 0, NOW, 6) + b"code"
    first = put(upper, "m/__pycache__/a.cpython-311.pyc", data)
    os.link(first, upper / "m/__pycache__/a.cpython-311.opt-1.pyc")
    assert normalise(upper, [lower], STEP).counts == (("pyc-mtime", 1),)
    assert first.stat().st_nlink == 2
    assert struct.unpack_from("<I", first.read_bytes(), 8)[0] == EPOCH


def test_a_compiled_file_whose_source_is_below_keeps_that_sources_time(upper: Path, lower: Path) -> None:
    put(lower, "m/a.py", "A = 1\n", mtime=EPOCH - 7)
    data = struct.pack("<H", 3495) + b"\r\n" + struct.pack("<III", 0, EPOCH - 7, 6) + b"code"
    compiled = put(upper, "m/__pycache__/a.cpython-311.pyc", data)
    assert normalise(upper, [lower], STEP).counts == ()
    assert compiled.read_bytes() == data


def test_a_layer_without_noise_is_left_as_it_is_and_nothing_is_said(upper: Path, lower: Path) -> None:
    put(upper, "app/main.py", "print()")
    assert normalise(upper, [lower], STEP).render() == ""


def test_what_was_done_is_told_in_one_line() -> None:
    counts = (("apt-log", 2), ("dpkg-log", 1))
    assert Normalised(counts=counts).render() == "normalised 3 files: apt-log 2, dpkg-log 1"
    assert Normalised(counts=counts[1:]).render() == "normalised 1 file: dpkg-log 1"
