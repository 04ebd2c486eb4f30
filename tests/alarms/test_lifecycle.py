"""The life of an alarm: every state and every action."""

from __future__ import annotations

import pytest

from workers.alarms.lifecycle import ACTIONS, STATES, NotPossible, next_state

#: state -> where each action leads; what is not here is not possible. "seen": as it was before.
TABLE = {
    "open": "return:rtn_unack withdraw:resolved suppress:suppressed acknowledge:acknowledged"
    " shelve:shelved resolve:resolved",
    "acknowledged": "return:resolved withdraw:resolved suppress:suppressed shelve:shelved"
    " resolve:resolved",
    "rtn_unack": "raise:open withdraw:resolved acknowledge:resolved resolve:resolved",
    "shelved": "return:resolved withdraw:resolved expire:seen unshelve:seen resolve:resolved",
    "suppressed": "return:resolved withdraw:resolved unsuppress:seen shelve:shelved"
    " resolve:resolved",
    "resolved": "raise:open",
}


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_state_and_action(state: str, action: str, acknowledged: bool) -> None:
    leads = dict(step.split(":") for step in TABLE[state].split())
    if action not in leads:
        with pytest.raises(NotPossible, match=f"An alarm that is {state} cannot be "):
            next_state(state, action, acknowledged=acknowledged)
        return
    target = leads[action]
    if target == "seen":
        target = "acknowledged" if acknowledged else "open"
    assert next_state(state, action, acknowledged=acknowledged) == target


def test_the_table_has_every_state() -> None:
    assert TABLE.keys() == set(STATES)
