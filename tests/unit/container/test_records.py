"""Containers on disk: names, lookups, and what is told of a container whose supervisor is gone. Files only, no container."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import stat
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from contain.container.lifecycle.ended import ExitState, exit_state
from contain.container.lifecycle.records import (
    ContainerRecord,
    Records,
    begun,
    boot_id,
    ended,
    failed,
    lost,
    new_record,
    open_process,
    stays_ended,
)
from contain.container.lifecycle.respecify import parse_spec
from contain.container.network.etc_files import render_hosts
from contain.container.run import new_container_id
from contain.errors import Conflict, NotFound
from contain.linux import syscalls
from contain.linux.cgroups import CgroupCounters
from contain.spec import Bind, ContainerSpec, CopyOnWrite, Identity, Limits, MemoryFile, Network, Tmpfs
from contain.values import replace


def spec(**changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "container_id": new_container_id(),
        "name": "web",
        "image_digest": "sha256:" + "1" * 64,
        "image_name": "app",
        "layers": (Path("/layer"),),
        "upper": None,
        "arguments": ("sh", "-c", "true"),
        "environment": (("A", "b"),),
        "working_directory": PurePosixPath("/"),
        "identity": Identity(),
        "hostname": "box",
        "mounts": (),
        "network": Network.NONE,
        "limits": Limits(),
        "read_only": False,
        "terminal": False,
        "stop_signal": 15,
        "capabilities": frozenset({"KILL", "CHOWN"}),
    }
    return ContainerSpec(**{**values, **changes})


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


def make(records: Records, **changes: Any) -> str:
    made = spec(**changes)
    os.close(records.create(new_record(made, remove=False)))
    return made.container_id


def test_a_record_comes_back_as_it_was_written(records: Records) -> None:
    mounts = (
        Bind(source=Path("/src"), target=PurePosixPath("/dst"), read_only=True),
        CopyOnWrite(sources=(Path("/a"), Path("/b")), target=PurePosixPath("/c")),
        Tmpfs(target=PurePosixPath("/t"), size_bytes=5),
    )
    record = new_record(spec(mounts=mounts), remove=True)
    held = records.create(record)
    assert records.find(record.container_id) == record
    assert record.details["capabilities"] == ["CHOWN", "KILL"]
    assert record.details["mounts"][0]["source"] == "/src"
    assert record.details["mounts"][0]["read_only"] is True
    os.close(held)


def test_a_name_is_taken_once_in_dockers_words(records: Records) -> None:
    first = make(records)
    with pytest.raises(Conflict) as caught:
        make(records)
    assert caught.value.message == f'Conflict. The container name "/web" is already in use by container "{first}".'
    records.remove(first)
    assert make(records)


def test_what_takes_long_is_done_before_anybody_sees_a_container(records: Records) -> None:
    record = new_record(spec(), remove=False)

    def fill() -> None:
        assert records.all() == ()
        assert records.is_held(record.container_id)
        records.sweep()  # what is held is being made
        (records.place(record.container_id) / "root").mkdir()

    os.close(records.create(record, fill=fill))
    assert records.find("web") == record
    assert (records.place(record.container_id) / "root").is_dir()


def test_who_is_killed_or_fails_while_a_container_is_filled_leaves_none(records: Records) -> None:
    record = new_record(spec(), remove=False)
    place = records.place(record.container_id)

    def fill() -> None:
        (place / "root").mkdir()
        (place / "root/file").write_text("half")

    def fail() -> None:
        fill()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        records.create(record, fill=fail)
    assert not place.exists()

    def die() -> None:
        fill()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        records.create(record, fill=die)
    os.waitpid(child, 0)
    assert (place / "root/file").exists()
    assert records.all() == ()
    with pytest.raises(NotFound):
        records.find("web")
    os.close(records.create(new_record(spec(container_id="d" * 64), remove=False)))
    assert not place.exists()


def test_containers_are_found_by_name_id_and_beginning_of_an_id(records: Records) -> None:
    first = make(records, name="first", container_id="ab" + "0" * 62)
    second = make(records, name="second", container_id="ac" + "0" * 62)
    assert records.find("first").container_id == records.find(first).container_id == records.find("ab").container_id == first
    assert records.find("ac0").container_id == second
    with pytest.raises(Conflict, match="begins with a"):
        records.find("a")


@pytest.mark.parametrize("text", ["", "nope", "zz", "web\n", "../x", "/"])
def test_others_are_not_found_in_dockers_words(records: Records, text: str) -> None:
    make(records)
    with pytest.raises(NotFound) as caught:
        records.find(text)
    assert caught.value.message == f"No such container: {text}"


def test_a_name_beats_the_beginning_of_an_id(records: Records) -> None:
    make(records, name="other", container_id="ab" + "0" * 62)
    named = make(records, name="ab")
    assert records.find("ab").container_id == named


def test_without_a_supervisor_a_running_container_is_dead(records: Records) -> None:
    record = new_record(spec(), remove=False)
    held = records.create(record)
    assert records.find("web").state == "created"
    assert records.is_held(record.container_id)
    records.update(record.container_id, lambda written: begun(written, 1))
    os.close(held)
    found = records.find("web")
    assert (found.state, found.process_id) == ("dead", None)
    with pytest.raises(Conflict, match="is not running"):
        open_process(found)


def test_what_was_removed_while_somebody_wrote_is_not_there(records: Records) -> None:
    identifier = make(records)

    def removed_meanwhile(written: ContainerRecord) -> ContainerRecord:
        records.place(identifier).rename(records.place(f"{identifier}.removed"))
        return begun(written, 7)

    with pytest.raises(NotFound, match="No such container"):
        records.update(identifier, removed_meanwhile)


def test_what_two_write_of_one_container_is_both_kept(records: Records) -> None:
    identifier = make(records)
    before = records.find(identifier)
    records.rename(before, "renamed")
    records.update(identifier, lambda written: ended(begun(written, 7), ExitState(status=3)))
    found = records.find("renamed")
    assert (found.container_id, found.state, found.status) == (identifier, "exited", 3)


def test_a_new_name_is_free_or_refused(records: Records) -> None:
    make(records, name="first")
    second = make(records, name="second")
    for taken in ("first", "second"):
        with pytest.raises(Conflict, match=f'The container name "/{taken}" is already in use'):
            records.rename(records.find(second), taken)
    assert records.find(second).name == "second"


def test_only_one_can_hold_a_container(records: Records) -> None:
    identifier = make(records)
    held = records.hold(identifier)
    assert held is not None
    assert records.hold(identifier) is None
    os.close(held)
    records.remove(identifier)
    with pytest.raises(NotFound):
        records.hold(identifier)


def test_a_record_holds_all_that_a_container_was_made_with(records: Records) -> None:
    mounts = (
        Bind(source=Path("/src"), target=PurePosixPath("/dst"), read_only=True),
        CopyOnWrite(sources=(Path("/a"), Path("/b")), target=PurePosixPath("/c")),
        Tmpfs(target=PurePosixPath("/t"), size_bytes=5),
    )
    limits = Limits(memory_bytes=1 << 30, cpus=1.5, pids=None)
    made = spec(mounts=mounts, limits=limits, upper=Path("/upper"), extra_hosts=(("a", "10.0.0.1"),))
    record = new_record(made, remove=False)
    os.close(records.create(record))
    assert parse_spec(records.find("web").details) == made


def test_a_container_with_a_secret_cannot_be_made_again_from_its_record(records: Records) -> None:
    record = new_record(spec(mounts=(MemoryFile(target=PurePosixPath("/s"), content=b"secret"),)), remove=False)
    with pytest.raises(Conflict, match="cannot be started again"):
        parse_spec(record.details)


def test_a_container_that_ended_stays_ended(records: Records) -> None:
    identifier = make(records)
    records.write(ended(begun(records.find(identifier), 7), ExitState(status=3)))
    found = records.find(identifier)
    assert (found.state, found.status, found.reason) == ("exited", 3, "")


def test_a_process_id_that_was_given_away_again_is_not_taken_for_the_container(records: Records) -> None:
    from dataclasses import replace

    record = replace(new_record(spec(), remove=False), state="running", process_id=os.getpid())
    with pytest.raises(Conflict):
        open_process(record)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "x"}', "\x00", '{"arguments": 5}'])
def test_a_broken_record_hides_nobody_elses(records: Records, text: str) -> None:
    broken = make(records, name="broken")
    make(records, name="whole")
    (records.place(broken) / "record.json").write_text(text)
    assert [record.name for record in records.all()] == ["whole"]


def test_what_is_kept_is_the_owners_alone(records: Records) -> None:
    identifier = make(records)
    assert stat.S_IMODE(records.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(records.place(identifier).stat().st_mode) == 0o700


def test_removing_what_is_gone_is_no_error(records: Records) -> None:
    identifier = make(records)
    records.remove(identifier)
    records.remove(identifier)
    assert records.all() == ()
    assert os.listdir(records.directory) == []


def test_no_containers_where_there_is_no_home(tmp_path: Path) -> None:
    assert Records(tmp_path / "nothing").all() == ()
    assert not (tmp_path / "nothing").exists()


def test_generated_names_are_valid_and_free(records: Records) -> None:
    names = set()
    for _ in range(50):
        name = records.new_name()
        assert re.fullmatch(r"[a-z]+_[a-z]+\d*", name)
        assert name not in names
        names.add(name)
        make(records, name=name)


def test_ids_are_64_hexadecimal_digits_and_differ() -> None:
    made = {new_container_id() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-9a-f]{64}", item) for item in made)


# -- how it ended --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait_status", "kills", "status", "signal", "out_of_memory", "words"),
    [
        (0, 0, 0, None, False, "exit status 0"),
        (42 << 8, 0, 42, None, False, "exit status 42"),
        (9, 0, 137, 9, False, "killed by signal 9"),
        (15, 3, 143, 15, False, "killed by signal 15"),
        (139, 0, 139, 11, False, "killed by signal 11"),  # with a core
        (9, 1, 137, 9, True, "killed: the memory limit of 64 MiB was reached"),
        (137 << 8, 1, 137, None, True, "killed: the memory limit of 64 MiB was reached"),  # a shell reports its child's end
        (1 << 8, 1, 1, None, False, "exit status 1"),
    ],
)
def test_how_a_container_ended(
    wait_status: int, kills: int, status: int, signal: int | None, out_of_memory: bool, words: str
) -> None:
    state = exit_state(wait_status, CgroupCounters(out_of_memory_kills=kills), 64 << 20)
    assert (state.status, state.signal, state.out_of_memory) == (status, signal, out_of_memory)
    assert state.describe() == words


def test_the_hosts_file_names_the_container() -> None:
    assert render_hosts("box", None).splitlines()[-1] == "127.0.1.1\tbox"
    assert render_hosts("box", "172.30.0.2").splitlines()[-1] == "172.30.0.2\tbox"
    assert render_hosts("box", None).splitlines()[0] == "127.0.0.1\tlocalhost"


def test_a_record_is_written_without_new_room_on_the_disk(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = make(records)
    records.update(identifier, lambda written: begun(written, 7))
    place = records.place(identifier)
    before = {name: (place / name).stat().st_blocks for name in ("record.json", "record.spare")}
    assert all(before.values())
    records.update(identifier, lambda written: ended(written, ExitState(status=3, signal=9, out_of_memory=True)))
    assert {name: (place / name).stat().st_blocks for name in before} == before
    assert sorted(os.listdir(place)) == ["record.json", "record.spare", "writing"]
    assert records.find(identifier).status == 3


def test_a_file_system_that_exchanges_nothing_keeps_records_too(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_first: str, _second: str) -> None:
        raise OSError(errno.EINVAL, "no such thing")

    monkeypatch.setattr(syscalls, "exchange", refuse)
    identifier = make(records)
    records.update(identifier, lambda written: begun(written, 7))
    assert records.read(identifier).process_id == 7
    assert (records.place(identifier) / "record.spare").exists()


def test_what_ran_when_the_machine_went_down_has_exited_with_255(records: Records) -> None:
    identifier = make(records)
    records.update(identifier, lambda written: replace(begun(written, 7), boot_id="another start of the machine"))
    record = records.find(identifier)
    assert (record.state, record.status, record.process_id) == ("exited", 255, None)
    assert record.reason == "the machine was started again"


def test_what_was_between_two_starts_then_keeps_its_status(records: Records) -> None:
    written = ended(begun(new_record(spec(), remove=False), 7), ExitState(status=4), restarts=True)
    after = lost(replace(written, boot_id="before"), "now")
    assert (after.state, after.status) == ("exited", 4)
    assert lost(written, boot_id()).state == "dead"


def test_starts_by_policy_are_counted_and_the_last_status_is_kept(records: Records) -> None:
    written = begun(new_record(spec(), remove=False), 7)
    for count in range(3):
        assert written.restart_count == count
        written = ended(written, ExitState(status=count + 1), restarts=True)
        assert (written.state, written.status) == ("restarting", count + 1)
        written = begun(written, 8)
        assert (written.status, written.last_status) == (None, count + 1)
    assert stays_ended(ended(written, ExitState(status=9), restarts=True)).state == "exited"
    assert failed(ended(written, ExitState(status=9), restarts=True), 127, "no such program").state == "exited"


def test_what_was_half_made_or_half_removed_goes_and_whoever_is_held_stays(records: Records) -> None:
    kept = make(records)
    half = records.directory / ("a" * 64)
    half.mkdir()
    (half / "record.spare").write_text("{")
    removed = records.directory / ("b" * 64 + ".removed")
    removed.mkdir()
    (removed / "log").write_text("x")
    held = records.directory / ("c" * 64)
    held.mkdir()
    descriptor = os.open(held, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    records.sweep()
    assert sorted(os.listdir(records.directory)) == sorted([kept, "c" * 64])
    os.close(descriptor)


def test_with_rm_a_container_without_supervisor_goes_with_the_next_one_that_is_made(records: Records) -> None:
    made = spec(name="gone")
    os.close(records.create(new_record(made, remove=True)))
    records.update(made.container_id, lambda written: begun(written, 7))
    make(records, name="gone")
    assert [record.container_id for record in records.all() if record.container_id == made.container_id] == []


def test_how_it_ended_is_told_also_after_its_removal(records: Records) -> None:
    identifier = make(records)
    records.update(identifier, lambda written: begun(written, 7))
    with records.open_end(identifier) as read_end:
        assert read_end().state == "running"
        records.update(identifier, lambda written: ended(written, ExitState(status=5)))
        records.remove(identifier)
        assert (read_end().state, read_end().status) == ("exited", 5)
    with pytest.raises(NotFound), records.open_end(identifier) as read_end:
        read_end()
