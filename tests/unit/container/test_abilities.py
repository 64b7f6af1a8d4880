"""What ``contain doctor`` says, from facts and the trial's outcome."""

from __future__ import annotations

from contain.container.abilities import Answers, judge
from contain.container.storage import Ground, Storage
from contain.container.trial import Trial
from contain.host import Finding
from contain.linux.uplink import UplinkProgram
from contain.values import replace

FACTS = (
    Finding(name="user", state="good", found="user id 1000", needed=True),
    Finding(name="CAP_SYS_ADMIN", state="missing", found="not held", needed=True, remedy="hold it"),
    Finding(name="overlay", state="limited", found="not loaded", remedy="load it"),
    Finding(name="cgroup memory", state="good", found="v2"),
    Finding(name="cgroup pids", state="good", found="v2"),
)
WORKS = Answers(
    rootless=True,
    trial=Trial(works=True, ids=65537),
    limits=frozenset({"memory", "pids"}),
    can_pause=True,
    uplink=UplinkProgram(name="pasta", path="/usr/bin/pasta"),
    store="/home/ann/store",
    store_kind="ext4",
    ground=Ground(kind=""),
)


def rows(answers: Answers) -> dict[str, Finding]:
    return {row.name: row for row in judge(FACTS, answers)}


def test_a_container_that_was_made_says_more_than_facts_that_speak_against_it() -> None:
    found = rows(WORKS)
    assert {row.state for row in found.values()} == {"good"}
    assert "CAP_SYS_ADMIN" not in found
    assert "65537" in found["ids"].found


def test_each_thing_that_an_ordinary_user_lacks_is_named_with_its_remedy() -> None:
    found = rows(
        replace(
            WORKS,
            trial=Trial(works=True, ids=1),
            limits=frozenset(),
            can_pause=False,
            uplink=UplinkProgram(why="neither is installed", remedy="apt install passt"),
        )
    )
    limited = {name for name, row in found.items() if row.state == "limited"}
    assert limited == {"ids", "cgroup memory", "cgroup pids", "pause", "network"}
    assert all(found[name].remedy for name in limited)
    assert "--add-subuids" in found["ids"].remedy
    assert "every container otherwise has" in found["cgroup pids"].found


def test_a_trial_that_failed_fails_the_whole_with_its_cause() -> None:
    found = rows(replace(WORKS, trial=Trial(works=False, message="because", remedy="do that")))
    assert (found["container"].state, found["container"].needed, found["container"].remedy) == ("missing", True, "do that")
    assert "because" in found["container"].found
    assert "ids" not in found


def test_root_in_a_container_is_told_of_the_outer_one() -> None:
    found = rows(replace(WORKS, rootless=False, limits=frozenset()))
    assert "outer one" in found["cgroup memory"].remedy


def test_where_no_overlay_can_be_written_copies_and_memory_are_named_with_what_helps() -> None:
    covered = replace(WORKS, store_kind="overlay", ground=Ground(kind="overlay", writable=False))
    store = rows(covered)["store"]
    assert store.state == "limited"
    assert "`run --rm` and tests keep what they write in memory, all else in full copies of their images" in store.found
    assert "CONTAIN_HOME" in store.remedy
    store = rows(replace(covered, asked=Storage.COPY))["store"]
    assert "CONTAIN_STORAGE=copy; containers keep what they write in full copies" in store.found
    assert store.remedy == "leave out CONTAIN_STORAGE=copy"
    store = rows(replace(covered, asked=Storage.OVERLAY))["store"]
    assert (store.state, store.remedy) == ("limited", "leave out CONTAIN_STORAGE=overlay")
    assert "what would be kept is refused" in store.found
    assert rows(replace(WORKS, asked=Storage.OVERLAY))["store"].state == "good"


def test_a_kernel_without_overlays_is_no_reason_to_say_that_one_is_in_use() -> None:
    found = rows(replace(WORKS, ground=Ground(kind="ext4", kernel=False, writable=False)))
    assert (found["overlay"].state, found["overlay"].found) == ("limited", "none: no tests in containers")
    assert "the kernel has no overlay file system" in found["store"].found
