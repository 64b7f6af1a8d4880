from __future__ import annotations

import os

import pytest

from contain.build.tasks import Finished, Job, Loop, Pause, Readable, Work


def test_a_job_that_waits_lets_the_others_go_on() -> None:
    reading, writing = os.pipe()
    seen: list[str] = []

    def first() -> Work[str]:
        seen.append("first begins")
        yield Readable(reading)
        seen.append("first goes on")
        return os.read(reading, 10).decode()

    def second() -> Work[None]:
        seen.append("second begins")
        os.write(writing, b"word")
        return None
        yield

    loop = Loop()
    job = loop.start(first())
    loop.start(second())
    assert loop.run(job) == "word"
    assert seen == ["first begins", "second begins", "first goes on"]
    os.close(reading)
    os.close(writing)


def test_a_job_gets_the_value_of_the_one_it_waits_for_whichever_ends_first() -> None:
    loop = Loop()

    def value(pauses: int) -> Work[int]:
        for _ in range(pauses):
            yield Pause(0)
        return pauses

    quick, slow = loop.start(value(0)), loop.start(value(5))

    def total() -> Work[int]:
        for job in (slow, quick):
            if not job.done:
                yield Finished(job)  # type: ignore[arg-type]
        return slow.value + quick.value

    assert loop.run(loop.start(total())) == 5


def test_an_error_ends_the_other_jobs_and_closes_what_they_hold() -> None:
    closed: list[str] = []

    def patient() -> Work[None]:
        try:
            yield Pause(3600)
        finally:
            closed.append("patient")

    def failing() -> Work[None]:
        yield Pause(0)
        raise ValueError("no")

    loop = Loop()
    job: Job[None] = loop.start(patient())
    loop.start(failing())
    with pytest.raises(ValueError, match="no"):
        loop.run(job)
    assert closed == ["patient"]


def test_jobs_that_wait_for_each_other_are_an_error_and_not_a_hang() -> None:
    loop = Loop()
    jobs: list[Job[None]] = []

    def wait_for(index: int) -> Work[None]:
        yield Finished(jobs[index])  # type: ignore[arg-type]

    jobs.append(loop.start(wait_for(1)))
    jobs.append(loop.start(wait_for(0)))
    with pytest.raises(RuntimeError, match="waits for another"):
        loop.run(jobs[0])
