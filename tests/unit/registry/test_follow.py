from __future__ import annotations

import gc
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from contain.paths import HostPath
from contain.registry.follow import Follower, NotFollowed
from contain.store import Store

DATA = bytes(range(256)) * 40
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(HostPath(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def read(follower: Follower, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: follower.readinto(buffer)])


def test_what_was_written_can_be_read_at_once_and_the_end_only_when_it_is_complete(
    store: Store, beside: ThreadPoolExecutor
) -> None:
    with closing(Follower()) as follower:
        with store.ingest_blob(DIGEST, len(DATA)) as ingest:
            follower.follow(ingest)
            follower.write(DATA[:100])
            assert read(follower, 60) == DATA[:60]
            assert read(follower, 60) == DATA[60:100]
            follower.write(DATA[100:])
            assert read(follower, 1 << 20) == DATA[100:]
            end: Future[bytes] = beside.submit(read, follower, 10)
            ingest.commit()
        assert not end.done()
        follower.complete()
        assert end.result(30) == b""
        assert not follower.broken


def test_what_an_earlier_attempt_left_is_read_first(store: Store) -> None:
    with store.ingest_blob(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:1000])
    with closing(Follower()) as follower, store.ingest_blob(DIGEST, len(DATA)) as ingest:
        follower.follow(ingest)
        assert follower.offset == 1000
        assert read(follower, 5000) == DATA[:1000]


def test_a_second_source_is_followed_only_if_nothing_was_given_out_of_the_first(store: Store) -> None:
    with closing(Follower()) as follower:
        with store.ingest_blob(DIGEST, len(DATA)) as ingest:
            follower.follow(ingest)
        with store.ingest_blob(DIGEST, len(DATA)) as ingest:
            follower.follow(ingest)
            follower.write(DATA[:10])
            assert read(follower, 100) == DATA[:10]
        with store.ingest_blob(DIGEST, len(DATA)) as ingest:
            follower.follow(ingest)
            assert follower.broken
            with pytest.raises(NotFollowed):
                read(follower, 100)


def test_a_blob_that_somebody_else_brought_is_not_followed(store: Store) -> None:
    store.write_blob(DATA)
    with closing(Follower()) as follower, store.ingest_blob(DIGEST, len(DATA)) as ingest:
        follower.follow(ingest)
        assert follower.broken
        assert follower.offset == len(DATA)


def test_a_reader_that_waits_is_woken_when_nothing_more_will_come(store: Store, beside: ThreadPoolExecutor) -> None:
    with closing(Follower()) as follower, store.ingest_blob(DIGEST, len(DATA)) as ingest:
        follower.follow(ingest)
        waiting = beside.submit(read, follower, 10)
        follower.give_up()
        with pytest.raises(NotFollowed):
            waiting.result(30)


def test_no_descriptor_and_no_thread_is_left(store: Store) -> None:
    gc.collect()  # what tests before this one have left
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        with closing(Follower()) as follower, store.ingest_blob(DIGEST, len(DATA)) as ingest:
            follower.follow(ingest)
            follower.write(DATA[:5])
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
