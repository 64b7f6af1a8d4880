"""Logs: what is written comes back, whole and in order, whatever was renamed meanwhile. Files only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contain.container.lifecycle.logs import Log, LogFiles, read_log, to_bytes
from contain.container.lifecycle.records import ContainerRecord, Records
from contain.container.request.keeping import parse_log_settings
from contain.errors import NotSupported, UsageError
from contain.spec import LogSettings


def record(number: int = 0, driver: str = "json-file") -> ContainerRecord:
    return ContainerRecord(
        container_id=f"{number:064x}",
        name=f"web{number}",
        image_name="app",
        image_digest="",
        arguments=("sh",),
        created_seconds=0.0,
        details={"log": {"driver": driver, "max_bytes": 0, "files": 1}},
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    made = Records(tmp_path)
    os.close(made.create(record()))
    return made


def names(records: Records) -> list[str]:
    return sorted(name for name in os.listdir(records.place(record().container_id)) if name.startswith("log"))


def shown(records: Records) -> bytes:
    return b"".join(to_bytes(text) for _, text in read_log(records, record()))


def test_every_byte_comes_back_also_those_that_are_no_text_and_those_that_were_cut_apart(records: Records) -> None:
    log = Log(records.place(record().container_id))
    pieces = [b"\xff\xfe\n", "h\u00e4".encode()[:-1], "h\u00e4".encode()[-1:], b"\x00end"]
    for piece in pieces:
        log.write("stdout", piece)
    assert shown(records) == b"".join(pieces)


def test_a_log_that_is_full_goes_on_in_a_new_file_and_the_oldest_goes(records: Records) -> None:
    log = Log(records.place(record().container_id), LogSettings(max_bytes=200, files=3))
    for number in range(12):
        log.write("stdout", f"line {number:03}\n".encode())
    assert names(records) == ["log", "log.1", "log.2"]
    lines = shown(records).decode().splitlines()
    assert lines == [f"line {number:03}" for number in range(12 - len(lines), 12)]
    assert all((records.place(record().container_id) / name).stat().st_size <= 200 for name in names(records))


def test_one_file_that_is_full_is_emptied(records: Records) -> None:
    log = Log(records.place(record().container_id), LogSettings(max_bytes=200, files=1))
    for number in range(7):
        log.write("stdout", f"line {number:03}\n".encode())
    assert names(records) == ["log"]
    assert shown(records).decode().splitlines()[-1] == "line 006"


def test_without_a_limit_nothing_goes(records: Records) -> None:
    log = Log(records.place(record().container_id), LogSettings(max_bytes=0, files=2))
    for _ in range(100):
        log.write("stdout", b"x" * 1000)
    assert names(records) == ["log"]
    assert shown(records) == b"x" * 100_000


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.integers(1, 400), st.just(0)), max_size=60))
def test_a_follower_misses_nothing_across_renames(records: Records, steps: list[int]) -> None:
    """A number is a piece of that length, 0 a look of the follower. No more files go than the follower can hold."""
    place = records.place(record().container_id)
    for name in names(records):
        (place / name).unlink()
    log = Log(place, LogSettings(max_bytes=600, files=1000))
    reader = LogFiles(place, from_now=False)
    seen, written = b"", b""

    def look() -> bytes:
        return b"".join(to_bytes(text) for batch in reader.read() for _, _, text in batch)

    for number, length in enumerate(steps):
        if length:
            piece = f"{number}:".encode().ljust(length, b".")
            log.write("stdout", piece)
            written += piece
        else:
            seen += look()
    seen += look()
    reader.close()
    assert seen == written


def test_a_line_that_a_killed_supervisor_left_half_hides_nothing_else(records: Records) -> None:
    place = records.place(record().container_id)
    Log(place).write("stdout", b"before\n")
    with open(place / "log", "ab") as file:
        file.write(b'{"stream": "stdout", "ti')
    assert shown(records) == b"before\n"
    Log(place).write("stdout", b"after\n")
    assert shown(records) == b"before\nafter\n"


def test_what_could_not_be_written_is_counted_and_said_and_leaves_no_half_line(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(records.place(record().container_id))
    log.write("stdout", b"before\n")
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 40:
            return write(descriptor, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    log.write("stdout", b"lost\n")
    log.write("stdout", b"lost too\n")
    monkeypatch.undo()
    log.write("stdout", b"after\n")
    assert shown(records) == b"before\n[14 bytes of output were lost: they could not be written]\nafter\n"


def test_the_driver_none_keeps_nothing_and_says_so_in_dockers_words(tmp_path: Path) -> None:
    records = Records(tmp_path)
    quiet = record(1, driver="none")
    os.close(records.create(quiet))
    Log(records.place(quiet.container_id), LogSettings(driver="none")).write("stdout", b"x")
    assert not (records.place(quiet.container_id) / "log").exists()
    with pytest.raises(UsageError, match="configured logging driver does not support reading"):
        list(read_log(records, quiet))


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        (None, [], LogSettings()),
        ("local", [], LogSettings(driver="local")),
        ("none", [], LogSettings(driver="none")),
        (None, [("max-size", "10k"), ("max-file", "3")], LogSettings(max_bytes=10240, files=3)),
        ("json-file", [("max-size", "-1")], LogSettings(max_bytes=0)),
    ],
)
def test_settings_are_read_as_docker_writes_them(
    driver: str | None, options: list[tuple[str, str]], expected: LogSettings
) -> None:
    assert parse_log_settings(driver, options) == expected


@pytest.mark.parametrize(
    ("driver", "options", "kind", "words"),
    [
        ("syslog", [], NotSupported, "log driver 'syslog' is not supported"),
        ("paper", [], UsageError, 'no log driver named "paper" is registered'),
        (None, [("size", "1")], UsageError, "unknown log opt 'size' for json-file log driver"),
        ("none", [("max-size", "1m")], UsageError, "unknown log opt 'max-size' for none log driver"),
        (None, [("compress", "true")], NotSupported, "--log-opt compress is not supported"),
        (None, [("max-file", "0")], UsageError, "max-file cannot be less than 1"),
        (None, [("max-file", "many")], UsageError, "invalid max-file"),
        (None, [("max-size", "0")], UsageError, "max-size"),
        (None, [("max-size", "much")], UsageError, "max-size"),
    ],
)
def test_other_settings_are_refused_by_name(
    driver: str | None, options: list[tuple[str, str]], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        parse_log_settings(driver, options)
