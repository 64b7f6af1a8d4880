"""The lifecycle as a table: nothing from a wrong state, nothing that is half done, and a document that shows it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.container.lifecycle.states import COMMANDS, TABLE, Action, Event, State, decide, render_diagram, render_table
from contain.errors import Conflict

DOCUMENT = Path(__file__).parents[3] / "docs/lifecycle.md"
ALIVE = (State.RUNNING, State.PAUSED, State.RESTARTING)
AT_REST = (State.CREATED, State.EXITED, State.DEAD)

states = st.sampled_from([state for state in State if state is not State.REMOVED])
events = st.sampled_from(list(Event))


def test_the_document_shows_the_table_that_the_code_uses() -> None:
    text = DOCUMENT.read_text()
    assert f"<!-- diagram -->\n```mermaid\n{render_diagram()}```\n<!-- end -->" in text
    assert f"<!-- table -->\n{render_table()}<!-- end -->" in text


@given(states, events)
def test_what_the_table_does_not_have_is_refused_and_what_it_has_is_done(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert decide(state, event) is TABLE[state, event]
    else:
        with pytest.raises(Conflict):
            decide(state, event, name="web", container_id="1" * 64)


@given(st.lists(events, max_size=30))
def test_no_order_of_events_leads_anywhere_but_to_a_known_state_and_nothing_follows_a_removal(order: list[Event]) -> None:
    state = State.CREATED
    for event in order:
        if state is State.REMOVED:
            assert not any(known is state for known, _ in TABLE)
            return
        try:
            step = decide(state, event)
        except Conflict:
            continue
        assert step.state in State
        state = step.state


@pytest.mark.parametrize("state", AT_REST)
def test_nobody_signals_or_freezes_what_does_not_run(state: State) -> None:
    for event in COMMANDS:
        step = TABLE.get((state, event))
        assert step is None or set(step.actions) <= {Action.LAUNCH, Action.DELETE}


@pytest.mark.parametrize("state", ALIVE)
def test_nothing_that_lives_is_deleted_or_started_before_its_supervisor_has_gone(state: State) -> None:
    for event in COMMANDS:
        step = TABLE.get((state, event))
        if step is None:
            continue
        for action in (Action.DELETE, Action.LAUNCH):
            if action in step.actions:
                assert Action.AWAIT_END in step.actions[: step.actions.index(action)]


@pytest.mark.parametrize("event", [Event.STOP, Event.REMOVE_FORCE, Event.RESTART])
@pytest.mark.parametrize("state", ALIVE)
def test_whoever_ends_a_container_first_notes_that_nobody_wants_it(state: State, event: Event) -> None:
    assert TABLE[state, event].actions[0] is Action.NOTE_STOP


@pytest.mark.parametrize("event", [Event.STOP, Event.REMOVE_FORCE, Event.RESTART])
def test_what_is_paused_goes_on_before_its_end_is_waited_for(event: Event) -> None:
    actions = TABLE[State.PAUSED, event].actions
    assert actions.index(Action.THAW) < actions.index(Action.AWAIT_END)


@pytest.mark.parametrize("state", ALIVE)
def test_every_living_state_ends_with_its_program_its_supervisor_and_the_machine(state: State) -> None:
    ends = {event: TABLE[state, event].state for event in (Event.PROGRAM_ENDED, Event.SUPERVISOR_LOST, Event.MACHINE_RESTARTED)}
    assert ends == {
        Event.PROGRAM_ENDED: State.EXITED,
        Event.SUPERVISOR_LOST: State.DEAD,
        Event.MACHINE_RESTARTED: State.EXITED,
    }


@pytest.mark.parametrize("state", [state for state in State if state is not State.REMOVED])
def test_every_state_can_be_left_by_removal(state: State) -> None:
    assert TABLE[state, Event.REMOVE_FORCE].state is State.REMOVED


@pytest.mark.parametrize(
    ("state", "event", "words"),
    [
        (State.RUNNING, Event.REMOVE, 'cannot remove container "/web": container is running: stop the container before'),
        (State.RESTARTING, Event.REMOVE, 'cannot remove container "/web": container is restarting: stop the container before'),
        (State.PAUSED, Event.REMOVE, 'cannot remove container "/web": container is paused: unpause and then stop'),
        (State.PAUSED, Event.START, "cannot start a paused container, try unpause instead"),
        (State.EXITED, Event.KILL, "cannot kill container: web: container abc is not running"),
        (State.RESTARTING, Event.PAUSE, "Container abc is restarting, wait until the container is running"),
        (State.EXITED, Event.ATTACH, "You cannot attach to a stopped container, start it first"),
        (State.RUNNING, Event.UNPAUSE, "Container abc is not paused"),
    ],
)
def test_refusals_are_in_dockers_words(state: State, event: Event, words: str) -> None:
    with pytest.raises(Conflict) as refused:
        decide(state, event, name="web", container_id="abc")
    assert str(refused.value).startswith(words)
