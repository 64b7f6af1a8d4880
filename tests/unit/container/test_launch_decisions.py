"""What the two sides of a start tell each other, without starting anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from contain.container.launch import CommandNotStarted, describe_failure, raise_failure
from contain.container.lifecycle.logs import Log, read_log
from contain.container.lifecycle.records import ContainerRecord, Records
from contain.container.terminal.streams import may_be_handed_over
from contain.errors import Conflict, ContainError, HostError, InternalError, UsageError
from contain.linux.perform import ProgramNotStarted
from contain.operations import MaskPath, SetHostname


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.ENOEXEC, 126), (errno.EISDIR, 126), (errno.ELOOP, 126)],
)
def test_a_program_that_does_not_start_is_126_or_127(number: int, status: int) -> None:
    with pytest.raises(CommandNotStarted, match='exec: "sh": because') as caught:
        raise_failure(describe_failure(ProgramNotStarted(number, "because"), None), "sh")
    assert caught.value.exit_status == status


def test_a_step_that_the_kernel_refuses_names_step_path_and_errno() -> None:
    error = PermissionError(errno.EPERM, "mount tmpfs: Operation not permitted", "/proc/acpi")
    with pytest.raises(HostError, match="MaskPath target=/proc/acpi") as caught:
        raise_failure(describe_failure(error, MaskPath(target="/proc/acpi")), "sh")
    assert (caught.value.errno, caught.value.path, caught.value.exit_status) == (errno.EPERM, "/proc/acpi", 125)
    assert "contain doctor" in caught.value.remedy


def test_a_fault_of_ours_is_told_as_one() -> None:
    with pytest.raises(InternalError, match="TypeError: odd"):
        raise_failure(describe_failure(TypeError("odd"), SetHostname(name="x")), "sh")


def test_messages_fit_into_one_packet_however_long_a_step_is() -> None:
    assert len(describe_failure(OSError(errno.EIO, "x"), MaskPath(target="/" + "a" * 200_000))) < 65536


def test_only_what_leads_to_no_file_is_handed_to_a_container(tmp_path: Path) -> None:
    read, write = os.pipe()
    null, zero = os.open("/dev/null", os.O_RDWR), os.open("/dev/zero", os.O_RDWR)
    file, directory = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR), os.open(tmp_path, os.O_RDONLY)
    try:
        assert [may_be_handed_over(item) for item in (read, write, null, zero, file, directory)] == [
            True, True, True, False, False, False,
        ]  # fmt: skip
    finally:
        for descriptor in (read, write, null, zero, file, directory):
            os.close(descriptor)


def test_a_log_gives_back_what_was_printed_in_order_and_by_stream(tmp_path: Path) -> None:
    record = ContainerRecord(
        container_id="c" * 64,
        name="web",
        image_name="app",
        image_digest="",
        arguments=("sh",),
        created_seconds=0.0,
        details={},
    )
    records = Records(tmp_path)
    os.close(records.create(record))
    assert list(read_log(records, record)) == []
    log = Log(records.place(record.container_id))
    read, write = os.pipe()
    out, err = log.writer("stdout", write), log.writer("stderr", None)
    out(b"one\ntwo")
    err(b"\xff\x00problem\n")
    out("\u00e4\n".encode())
    os.close(write)
    with os.fdopen(read, "rb") as copied:
        assert copied.read() == b"one\ntwo\xc3\xa4\n"
    assert list(read_log(records, record, follow=True)) == [
        ("stdout", "one\ntwo"),
        ("stderr", "\udcff\x00problem\n"),
        ("stdout", "\u00e4\n"),
    ]


@pytest.mark.parametrize(
    "error", [Conflict("taken", code="network-conflict", remedy="take another"), UsageError("wrong"), HostError("cannot")]
)
def test_an_error_of_ours_comes_out_of_another_process_as_it_was(error: ContainError) -> None:
    with pytest.raises(type(error)) as caught:
        raise_failure(describe_failure(error, None), "sh")
    assert (caught.value.message, caught.value.code, caught.value.remedy) == (error.message, error.code, error.remedy)
