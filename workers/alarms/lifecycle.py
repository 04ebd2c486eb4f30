"""The life of an alarm (ISA-18.2 in small): which action leads from which state to which.

`stale` is no state of its own: an alarm without fresh evaluations keeps its state and says so.
"""

from __future__ import annotations

from datetime import timedelta

OPEN, ACKNOWLEDGED, RTN_UNACK = "open", "acknowledged", "rtn_unack"
SHELVED, SUPPRESSED, RESOLVED = "shelved", "suppressed", "resolved"
STATES = (OPEN, ACKNOWLEDGED, RTN_UNACK, SHELVED, SUPPRESSED, RESOLVED)

#: What the evidence does.
RAISE, RETURN, WITHDRAW = "raise", "return", "withdraw"
SUPPRESS, UNSUPPRESS, EXPIRE = "suppress", "unsuppress", "expire"
#: What people do.
ACKNOWLEDGE, SHELVE, UNSHELVE, RESOLVE = "acknowledge", "shelve", "unshelve", "resolve"
BY_PEOPLE = (ACKNOWLEDGE, SHELVE, UNSHELVE, RESOLVE)
ACTIONS = (RAISE, RETURN, WITHDRAW, SUPPRESS, UNSUPPRESS, EXPIRE, *BY_PEOPLE)

MAX_SHELVED = timedelta(days=7)
#: Without a qualified evaluation for this long an alarm is stale.
STALE_AFTER = timedelta(days=7)
#: An unresolved critical alarm speaks up again this often.
RENOTIFY_EVERY = timedelta(hours=24)

#: The state that an alarm was in before it was shelved or suppressed, from whether it was seen.
_BACK = "back"
_LIFE: dict[str, dict[str, str]] = {
    OPEN: {
        RETURN: RTN_UNACK,
        WITHDRAW: RESOLVED,
        SUPPRESS: SUPPRESSED,
        ACKNOWLEDGE: ACKNOWLEDGED,
        SHELVE: SHELVED,
        RESOLVE: RESOLVED,
    },
    ACKNOWLEDGED: {
        RETURN: RESOLVED,
        WITHDRAW: RESOLVED,
        SUPPRESS: SUPPRESSED,
        SHELVE: SHELVED,
        RESOLVE: RESOLVED,
    },
    RTN_UNACK: {
        RAISE: OPEN,
        WITHDRAW: RESOLVED,
        ACKNOWLEDGE: RESOLVED,
        RESOLVE: RESOLVED,
    },
    SHELVED: {
        RETURN: RESOLVED,
        WITHDRAW: RESOLVED,
        EXPIRE: _BACK,
        UNSHELVE: _BACK,
        RESOLVE: RESOLVED,
    },
    SUPPRESSED: {
        RETURN: RESOLVED,
        WITHDRAW: RESOLVED,
        UNSUPPRESS: _BACK,
        SHELVE: SHELVED,
        RESOLVE: RESOLVED,
    },
    RESOLVED: {RAISE: OPEN},
}


class NotPossible(Exception):
    """The action does not fit the state."""

    def __init__(self, state: str, action: str) -> None:
        self.state, self.action = state, action
        super().__init__(f"An alarm that is {state} cannot be {past_tense(action)}.")


def next_state(state: str, action: str, *, acknowledged: bool = False) -> str:
    """Where `action` leads from `state`. Raises NotPossible.

    `acknowledged`: whether somebody had seen it before it was shelved or suppressed.
    """
    target = _LIFE[state].get(action)
    if target is None:
        raise NotPossible(state, action)
    if target == _BACK:
        return ACKNOWLEDGED if acknowledged else OPEN
    return target


def past_tense(action: str) -> str:
    """acknowledge -> acknowledged."""
    irregular = {WITHDRAW: "withdrawn", SUPPRESS: "suppressed", UNSUPPRESS: "unsuppressed"}
    return irregular.get(action) or action + ("d" if action.endswith("e") else "ed")
