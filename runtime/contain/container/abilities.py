"""What containers of this user can do here: the facts of `contain.host`, corrected by what a trial and the kernel's answers say.

`judge` decides, from values; `probe_abilities` asks. A container that does nothing is really made, so that what is said holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from contain.container.storage import (
    Ground,
    Storage,
    choose_kept,
    choose_thrown_away,
    describe_reason,
    parse_storage,
    probe_ground,
    storage_remedy,
)
from contain.container.trial import Trial
from contain.host import Finding
from contain.linux.forwarding import Finding as Obstacle
from contain.linux.uplink import UplinkProgram
from contain.linux.usernamespace import MORE_IDS
from contain.values import dataclass

_DELEGATE = "systemd-run --user --scope -p Delegate=yes contain ...; for other ways see docs/rootless.md, 'Control groups'"
_WRITABLE = "in a container: start the outer one with --privileged, or with a writable /sys/fs/cgroup"
_OVERLAY = "as the machine's root: modprobe overlay"
_TRIED = ("CAP_SYS_ADMIN", "user namespaces", "/proc")  # what the trial answers better than the facts, if it works


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was asked. ``limits``: the controllers in which this process may make groups; ``uplink`` None: it may make links itself, and
    ``bridge`` is what stands in their way."""

    rootless: bool
    trial: Trial
    limits: frozenset[str]
    can_pause: bool
    uplink: UplinkProgram | None
    bridge: tuple[Obstacle, ...] = ()
    store: str
    store_kind: str
    ground: Ground
    asked: Storage | None = None


def judge(findings: Sequence[Finding], answers: Answers) -> tuple[Finding, ...]:
    """The rows of ``contain doctor``. Pure."""
    rows: list[Finding] = []
    trial = answers.trial
    for row in findings:
        if row.name in _TRIED and (trial.works or (answers.rootless and row.name == "CAP_SYS_ADMIN")):
            continue
        controller = row.name.removeprefix("cgroup ")
        if controller != row.name and row.state == "good" and controller not in answers.limits:
            rows.append(_undelegated(row, controller, rootless=answers.rootless))
        elif row.name == "overlay" and trial.works and answers.ground.kernel:
            rows.append(Finding(name=row.name, state="good", found="the kernel's is in use", needed=True))
        elif row.name == "overlay" and trial.works:
            rows.append(Finding(name=row.name, state="limited", found="none: no tests in containers", remedy=_OVERLAY))
        else:
            rows.append(row)
        if row.name == "user" and answers.rootless and trial.works:
            rows.append(_ids(trial))
    if trial.works:
        rows.append(Finding(name="container", state="good", found="one was made, and ended", needed=True))
    else:
        rows.append(
            Finding(
                name="container",
                state="missing",
                found=f"none can be made: {trial.message}",
                needed=True,
                remedy=trial.remedy or "the other rows say what is missing; if none does, please report it",
            )
        )
    if not answers.can_pause:
        rows.append(
            Finding(
                name="pause",
                state="limited",
                found="no control group in which processes can be held",
                remedy=_DELEGATE if answers.rootless else _WRITABLE,
            )
        )
    if answers.uplink is not None:
        rows.append(_network(answers.uplink))
    else:
        rows += _bridge(answers.bridge)
    rows.append(_store(answers))
    return tuple(rows)


def _undelegated(row: Finding, controller: str, *, rootless: bool) -> Finding:
    why = "no group is delegated to this user" if rootless else "no group can be made there"
    lost = (
        "no process limits, also not the one that every container otherwise has"
        if controller == "pids"
        else f"no {controller} limits"
    )
    return Finding(
        name=row.name, state="limited", found=f"{row.found}, but {why}: {lost}", remedy=_DELEGATE if rootless else _WRITABLE
    )


def _ids(trial: Trial) -> Finding:
    if trial.ids > 1:
        return Finding(name="ids", state="good", found=f"{trial.ids} inside a container")
    found = "one: images with files of several owners, and their other users, are refused"
    return Finding(name="ids", state="limited", found=found, remedy=MORE_IDS)


def _store(answers: Answers) -> Finding:
    found = f"{answers.store} ({answers.store_kind or 'unknown file system'})"
    kept, thrown = choose_kept(answers.asked, answers.ground), choose_thrown_away(answers.asked, answers.ground)
    if kept is not Storage.COPY:
        if answers.ground.writable:
            return Finding(name="store", state="good", found=found)
        found += f": {describe_reason(answers.asked, answers.ground)}; CONTAIN_STORAGE=overlay: what would be kept is refused"
        return Finding(name="store", state="limited", found=found, remedy="leave out CONTAIN_STORAGE=overlay")
    copying = "in full copies of their images, which takes time and disk"
    if thrown is Storage.MEMORY:
        found += f": no overlay can be written onto it; `run --rm` and tests keep what they write in memory, all else {copying}"
    else:
        found += f": {describe_reason(answers.asked, answers.ground)}; containers keep what they write {copying}"
    return Finding(name="store", state="limited", found=found, remedy=storage_remedy(answers.asked))


def _network(uplink: UplinkProgram) -> Finding:
    if uplink.path:
        found = f"through {uplink.path}; containers reach each other on networks of your own only"
        return Finding(name="network", state="good", found=found)
    found = f"loopback only, and no published ports; networks of your own reach nothing outside: {uplink.why}"
    return Finding(name="network", state="limited", found=found, remedy=uplink.remedy)


def _bridge(obstacles: Sequence[Obstacle]) -> list[Finding]:
    """Of links of one's own: what keeps their packets from the outside, one row each."""
    if not obstacles:
        return [Finding(name="network", state="good", found="bridges of our own, with names; published ports")]
    return [Finding(name="network", state="limited", found=each.message, remedy=each.remedy) for each in obstacles]


def probe_abilities(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Ask this machine. ``findings``: of `contain.host.probe_host`."""
    from contain.container.trial import try_container
    from contain.linux.cgroups import probe_hierarchies
    from contain.linux.forwarding import probe_forwarding
    from contain.linux.freezer import probe_freezer
    from contain.linux.obstacles import filesystem_of
    from contain.linux.uplink import find_uplink_program
    from contain.linux.usernamespace import is_rootless, owns_network
    from contain.paths import store_home

    home = store_home()
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    rootless = is_rootless()
    uplink = None if not rootless and owns_network() else find_uplink_program()
    return judge(
        findings,
        Answers(
            rootless=rootless,
            trial=try_container(),
            limits=frozenset[str]().union(*(each.controllers for each in probe_hierarchies())),
            can_pause=probe_freezer() is not None,
            uplink=uplink,
            bridge=tuple(probe_forwarding()) if uplink is None else (),
            store=str(home),
            store_kind=filesystem_of(str(place)),
            ground=probe_ground(home),
            asked=parse_storage(os.environ),
        ),
    )
