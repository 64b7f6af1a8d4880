"""The lifecycle of a container as a table: in which state, on which event, what is done, and which state follows. Pure.

The verbs (`contain.container.lifecycle.verbs`) do the actions that stand here and nothing else; the records
(`contain.container.lifecycle.records`) take their next state from here. What the table does not hold is refused in Docker's
words. The diagram in ``docs/lifecycle.md`` is rendered from it. Source of states and words: docker/cli ``container_ls.md``,
Docker's ``container/state.go`` and its errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from contain.errors import Conflict
from contain.values import dataclass


class State(StrEnum):
    """What ``contain ps`` shows. ``removed`` is the end, which nobody sees."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    DEAD = "dead"
    REMOVED = "removed"


class Event(StrEnum):
    """What somebody asks for, and what happens by itself."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    RESTART = "restart"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    EXEC = "exec"
    ATTACH = "attach"
    REMOVE = "rm"
    REMOVE_FORCE = "rm -f"
    PROGRAM_STARTED = "program started"
    START_FAILED = "start failed"
    PROGRAM_ENDED = "program ended"
    PROGRAM_ENDED_TO_RESTART = "program ended, policy restarts it"
    SUPERVISOR_LOST = "supervisor killed"
    MACHINE_RESTARTED = "machine restarted"


COMMANDS = frozenset(
    {
        Event.START,
        Event.STOP,
        Event.KILL,
        Event.RESTART,
        Event.PAUSE,
        Event.UNPAUSE,
        Event.EXEC,
        Event.ATTACH,
        Event.REMOVE,
        Event.REMOVE_FORCE,
    }
)
"""The events that are somebody's wish; the others just happen."""


class Action(StrEnum):
    """One thing that a verb does."""

    NOTE_STOP = "note that nobody wants it to run"
    NOTE_STOP_IF_FATAL = "with SIGKILL or its stop signal: note that nobody wants it to run"
    SEND_STOP_SIGNAL = "send its stop signal"
    SEND_SIGNAL = "send the signal"
    SEND_KILL = "send SIGKILL"
    THAW = "let its processes go on"
    THAW_IF_FATAL = "with SIGKILL or its stop signal: let its processes go on"
    FREEZE = "hold its processes"
    AWAIT_GRACE = "wait for the grace time, then send SIGKILL"
    AWAIT_END = "wait for its supervisor's end"
    LAUNCH = "start its supervisor and its program"
    JOIN = "join its namespaces"
    DELETE = "delete it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done, in this order, and the state after it."""

    state: State
    actions: tuple[Action, ...] = ()


_A = Action
_STOP = (_A.NOTE_STOP, _A.SEND_STOP_SIGNAL, _A.AWAIT_GRACE, _A.AWAIT_END)
_STOP_PAUSED = (_A.NOTE_STOP, _A.SEND_STOP_SIGNAL, _A.THAW, _A.AWAIT_GRACE, _A.AWAIT_END)
_END_RESTARTS = (_A.NOTE_STOP, _A.AWAIT_END)


def _at_rest(state: State) -> dict[tuple[State, Event], Step]:
    """A container without processes."""
    return {
        (state, Event.START): Step(state=State.RUNNING, actions=(_A.LAUNCH,)),
        (state, Event.RESTART): Step(state=State.RUNNING, actions=(_A.LAUNCH,)),
        (state, Event.STOP): Step(state=state),
        (state, Event.REMOVE): Step(state=State.REMOVED, actions=(_A.DELETE,)),
        (state, Event.REMOVE_FORCE): Step(state=State.REMOVED, actions=(_A.DELETE,)),
        (state, Event.PROGRAM_STARTED): Step(state=State.RUNNING),
        (state, Event.START_FAILED): Step(state=State.CREATED if state is State.CREATED else State.EXITED),
    }


def _alive(state: State) -> dict[tuple[State, Event], Step]:
    """What can happen to every container with a supervisor."""
    return {
        (state, Event.SUPERVISOR_LOST): Step(state=State.DEAD),
        (state, Event.MACHINE_RESTARTED): Step(state=State.EXITED),
        (state, Event.START_FAILED): Step(state=State.EXITED),
        (state, Event.PROGRAM_ENDED): Step(state=State.EXITED),
    }


TABLE: Mapping[tuple[State, Event], Step] = MappingProxyType(
    {
        **_at_rest(State.CREATED),
        **_at_rest(State.EXITED),
        **_at_rest(State.DEAD),
        **_alive(State.RUNNING),
        (State.RUNNING, Event.START): Step(state=State.RUNNING),
        (State.RUNNING, Event.STOP): Step(state=State.EXITED, actions=_STOP),
        (State.RUNNING, Event.KILL): Step(state=State.RUNNING, actions=(_A.NOTE_STOP_IF_FATAL, _A.SEND_SIGNAL)),
        (State.RUNNING, Event.RESTART): Step(state=State.RUNNING, actions=(*_STOP, _A.LAUNCH)),
        (State.RUNNING, Event.PAUSE): Step(state=State.PAUSED, actions=(_A.FREEZE,)),
        (State.RUNNING, Event.EXEC): Step(state=State.RUNNING, actions=(_A.JOIN,)),
        (State.RUNNING, Event.ATTACH): Step(state=State.RUNNING),
        (State.RUNNING, Event.REMOVE_FORCE): Step(
            state=State.REMOVED, actions=(_A.NOTE_STOP, _A.SEND_KILL, _A.AWAIT_END, _A.DELETE)
        ),
        (State.RUNNING, Event.PROGRAM_ENDED_TO_RESTART): Step(state=State.RESTARTING),
        **_alive(State.PAUSED),
        (State.PAUSED, Event.STOP): Step(state=State.EXITED, actions=_STOP_PAUSED),
        (State.PAUSED, Event.KILL): Step(state=State.PAUSED, actions=(_A.NOTE_STOP_IF_FATAL, _A.SEND_SIGNAL, _A.THAW_IF_FATAL)),
        (State.PAUSED, Event.RESTART): Step(state=State.RUNNING, actions=(*_STOP_PAUSED, _A.LAUNCH)),
        (State.PAUSED, Event.UNPAUSE): Step(state=State.RUNNING, actions=(_A.THAW,)),
        (State.PAUSED, Event.REMOVE_FORCE): Step(
            state=State.REMOVED, actions=(_A.NOTE_STOP, _A.SEND_KILL, _A.THAW, _A.AWAIT_END, _A.DELETE)
        ),
        (State.PAUSED, Event.PROGRAM_ENDED_TO_RESTART): Step(state=State.RESTARTING),
        **_alive(State.RESTARTING),
        (State.RESTARTING, Event.START): Step(state=State.RESTARTING),
        (State.RESTARTING, Event.STOP): Step(state=State.EXITED, actions=_END_RESTARTS),
        (State.RESTARTING, Event.KILL): Step(state=State.EXITED, actions=_END_RESTARTS),
        (State.RESTARTING, Event.RESTART): Step(state=State.RUNNING, actions=(*_END_RESTARTS, _A.LAUNCH)),
        (State.RESTARTING, Event.REMOVE_FORCE): Step(state=State.REMOVED, actions=(*_END_RESTARTS, _A.DELETE)),
        (State.RESTARTING, Event.PROGRAM_STARTED): Step(state=State.RUNNING),
    }
)
"""A verb's state is what follows if all goes well; that a program then ends is an event of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is said; ``{id}``, ``{name}`` and ``{state}`` are filled in."""

    message: str
    code: str
    remedy: str = ""


_REMOVE = 'cannot remove container "/{name}": container is {state}: '
_IS_RESTARTING = Refusal(
    message="Container {id} is restarting, wait until the container is running",
    code="restarting",
    remedy="contain stop {name}, if it never is",
)

_REFUSALS: Mapping[tuple[State | None, Event], Refusal] = MappingProxyType(
    {
        (State.PAUSED, Event.START): Refusal(
            message="cannot start a paused container, try unpause instead", code="paused", remedy="contain unpause {name}"
        ),
        (State.PAUSED, Event.PAUSE): Refusal(message="Container {id} is already paused", code="paused"),
        (State.RESTARTING, Event.PAUSE): _IS_RESTARTING,
        (None, Event.PAUSE): Refusal(message="Container {id} is not running", code="not-running"),
        (None, Event.UNPAUSE): Refusal(message="Container {id} is not paused", code="not-paused"),
        (State.PAUSED, Event.EXEC): Refusal(
            message="Container {name} is paused, unpause the container before exec",
            code="paused",
            remedy="contain unpause {name}",
        ),
        (State.RESTARTING, Event.EXEC): _IS_RESTARTING,
        (None, Event.EXEC): Refusal(
            message="Container {id} is not running", code="not-running", remedy="`contain ps -a` shows how it ended"
        ),
        (State.PAUSED, Event.ATTACH): Refusal(
            message="You cannot attach to a paused container, unpause it first", code="paused", remedy="contain unpause {name}"
        ),
        (State.RESTARTING, Event.ATTACH): Refusal(
            message="You cannot attach to a restarting container, wait until it is running", code="restarting"
        ),
        (None, Event.ATTACH): Refusal(
            message="You cannot attach to a stopped container, start it first",
            code="not-running",
            remedy="contain start {name}",
        ),
        (None, Event.KILL): Refusal(
            message="cannot kill container: {name}: container {id} is not running",
            code="not-running",
            remedy="`contain ps -a` shows how it ended",
        ),
        (State.PAUSED, Event.REMOVE): Refusal(
            message=_REMOVE + "unpause and then stop the container before removing or force remove",
            code="container-running",
            remedy="contain rm -f {name}",
        ),
        (None, Event.REMOVE): Refusal(
            message=_REMOVE + "stop the container before removing or force remove",
            code="container-running",
            remedy="contain rm -f {name}",
        ),
    }
)
"""In a state, or without one: in every other."""


def decide(state: State, event: Event, *, name: str = "", container_id: str = "") -> Step:
    """What is done. Raises `Conflict` where the table has nothing, in Docker's words if they are somebody's wish."""
    step = TABLE.get((state, event))
    if step is not None:
        return step
    refusal = _REFUSALS.get((state, event)) or _REFUSALS.get((None, event))
    if refusal is None:
        raise Conflict(f"container {name or container_id}: {event.value!r} cannot be while it is {state}", code="wrong-state")
    facts = {"name": name or container_id[:12], "id": container_id, "state": state.value}
    raise Conflict(refusal.message.format(**facts), code=refusal.code, remedy=refusal.remedy.format(**facts))


def render_diagram() -> str:
    """The table as a Mermaid state diagram: an arrow for each pair of states, with the events that lead along it."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), step in TABLE.items():
        if step.state is not state or event is Event.RESTART:
            arrows.setdefault((state, step.state), []).append(event.value)
    lines = ["stateDiagram-v2", "    [*] --> created: create, run"]
    lines += [
        f"    {before} --> {'[*]' if after is State.REMOVED else after}: {', '.join(events)}"
        for (before, after), events in arrows.items()
    ]
    return "\n".join(lines) + "\n"


def render_table() -> str:
    """The commands of the table in Markdown: a row for each command, a column for each state, in a cell what is done."""
    states = [state for state in State if state is not State.REMOVED]
    rows = [["", *states], ["---"] * (len(states) + 1)]
    for event in Event:
        if event not in COMMANDS:
            continue
        cells = []
        for state in states:
            step = TABLE.get((state, event))
            if step is None:
                cells.append("refused")
            else:
                cells.append("; ".join([*(action.value for action in step.actions), f"→ {step.state}"]))
        rows.append([f"`{event}`", *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
