"""The journal of events: bounded, whole lines from several writers at once, readable across its rotation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from contain.store import journal
from contain.store.journal import journal_home, note, read_journal


def known(home: Path) -> list[str]:
    return [each.identity for each in read_journal(home, past=True, follow=False) if each is not None]


def test_what_was_noted_is_read_in_order(tmp_path: Path) -> None:
    note(tmp_path, "container", "start", "one", {"name": "x"})
    note(tmp_path, "image", "tag", "two")
    first, second = (each for each in read_journal(tmp_path, past=True, follow=False) if each is not None)
    assert (first.kind, first.action, first.identity, dict(first.attributes)) == ("container", "start", "one", {"name": "x"})
    assert (second.kind, second.action) == ("image", "tag")
    assert first.time_ns <= second.time_ns
    assert journal_home(tmp_path).stat().st_mode & 0o077 == 0


def test_it_stays_small_and_the_latest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_FILE_BYTES", 1000)
    for number in range(100):
        note(tmp_path, "container", "start", f"{number}")
    sizes = [path.stat().st_size for path in journal_home(tmp_path).iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 1200
    found = known(tmp_path)
    assert found == [str(number) for number in range(100 - len(found), 100)]
    assert len(found) > 5


def test_two_writers_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    children = []
    for writer in range(4):
        child = os.fork()
        if child == 0:
            for number in range(100):
                note(tmp_path, "container", "start", f"{writer}.{number}", {"name": "n" * 300})
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    found = known(tmp_path)
    assert len(found) == 400
    for writer in range(4):
        assert [name for name in found if name.startswith(f"{writer}.")] == [f"{writer}.{number}" for number in range(100)]


def test_who_follows_reads_on_when_the_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_FILE_BYTES", 500)
    note(tmp_path, "container", "start", "before")
    following = read_journal(tmp_path, past=False, follow=True)
    assert next(following) is None
    seen = []
    for number in range(30):
        note(tmp_path, "container", "start", str(number))
        if number % 2:  # never more than one file behind
            monkeypatch.setattr("time.sleep", lambda _: None)
            while (each := next(following)) is not None:
                seen.append(each.identity)
    assert seen == [str(number) for number in range(30)]


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    note(tmp_path, "container", "start", "one")
    with open(journal_home(tmp_path) / "journal", "a") as file:
        file.write('{"time": 1, "ki\n')
        file.write(json.dumps({"time": "x"}) + "\n[]\n")
    note(tmp_path, "container", "start", "two")
    assert known(tmp_path) == ["one", "two"]


def test_what_happened_is_never_undone_by_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file where the directory would be")
    note(tmp_path, "container", "start", "one")
    assert known(tmp_path / "nowhere") == []
