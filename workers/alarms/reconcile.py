"""From what the rules say to what the alarms must say: pure, so that it can be run again.

Stored alarms are matched with the chains derived from all evidence. A chain without an alarm raises
one; an alarm without a chain stood on evidence that was corrected since, and is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from workers.alarms import lifecycle, rules
from workers.alarms.engine import Chain
from workers.alarms.spans import MAPPING_CHANGED, RECOVERED, Span

#: Who acts when no person does.
RULES = "rules"
DATA_CORRECTED, DATA_QUALITY = "data_corrected", "data_quality"
#: While these are seen, efficiencies of the vehicle mean nothing.
_BLOCKING = (rules.EXCEEDS, rules.SKEW)
_FOREVER = datetime.max.replace(tzinfo=UTC)

#: Columns that go with a state and are emptied when the alarm is raised again.
_EMPTY = {
    f"{what}_{column}": None
    for what, columns in {
        "acknowledged": ("at", "by", "note"),
        "shelved": ("until", "by", "note"),
        "resolved": ("at", "by", "reason", "note"),
    }.items()
    for column in columns
}


@dataclass(frozen=True, slots=True)
class Step:
    """One transition of an alarm."""

    at: datetime
    action: str
    from_state: str | None
    to_state: str
    who: str = RULES
    note: str | None = None


@dataclass(slots=True)
class Change:
    """A new alarm (`alarm_id` is None), or what changes in a stored one."""

    alarm_id: int | None
    rule: str
    fields: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.fields or self.steps)


class Draft:
    """An alarm being changed: the stored row, and what becomes of it."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self.change = Change(row.get("id"), row["rule"])

    def __getitem__(self, column: str) -> Any:
        return self.change.fields.get(column, self._row.get(column))

    def set(self, **values: Any) -> None:
        """Change columns; what is the same already is no change."""
        for column, value in values.items():
            if column not in self._row or self._row[column] != value:
                self.change.fields[column] = value
            else:
                self.change.fields.pop(column, None)

    def act(self, action: str, at: datetime, who: str = RULES, note: str | None = None) -> str:
        """Take one action. Raises NotPossible."""
        state = self["state"]
        seen = self["acknowledged_at"] is not None
        target = lifecycle.next_state(state, action, acknowledged=seen)
        self.set(state=target)
        self.change.steps.append(Step(at, action, state, target, who, note))
        return target

    def note(self, action: str, at: datetime) -> None:
        """Something worth telling that changes no state."""
        self.change.steps.append(Step(at, action, self["state"], self["state"]))

    def resolved(
        self, at: datetime, reason: str, who: str = RULES, note: str | None = None
    ) -> None:
        """Columns of a resolved alarm."""
        self.set(
            resolved_at=at,
            resolved_by=who,
            resolved_reason=reason,
            resolved_note=note,
            shelved_until=None,
            suppressed_reason=None,
            stale=False,
        )


def reconcile(
    stored: Iterable[Mapping[str, Any]],
    chains: Iterable[Chain],
    *,
    vehicle_id: str,
    now: datetime,
) -> list[Change]:
    """What must change so that one vehicle's alarms say what the evidence says.

    In the order in which it must be written: one alarm of a rule ends before the next begins.
    """
    ordered = sorted(chains, key=lambda chain: chain.spans[0].opened_at)
    pairs, orphans = _match(stored, ordered)
    drafts = [_withdrawn(row, now) for row in orphans]
    incidents = _incidents(vehicle_id, ordered)
    blocked = any(c.rule in _BLOCKING and c.newest.cleared_at is None for c in ordered)
    newest = {chain.rule: chain for chain in ordered}
    for chain, row in pairs:
        draft = _raised(chain, now) if row is None else _followed(row, chain)
        draft.set(**_facts(chain, incidents.get(id(chain))))
        if newest[chain.rule] is not chain:
            _supersede(draft, chain)
        _suppress(draft, blocked, now)
        pass_time(draft, now)
        drafts.append(draft)
    return [draft.change for draft in drafts if draft.change]


def pass_time(draft: Draft, now: datetime) -> None:
    """What happens without new evidence: shelves end, alarms go stale, critical ones speak up."""
    if draft["state"] == lifecycle.SHELVED and now >= draft["shelved_until"]:
        draft.act(lifecycle.EXPIRE, draft["shelved_until"])
        draft.set(shelved_until=None, shelved_by=None, shelved_note=None)
    active = draft["state"] != lifecycle.RESOLVED and draft["returned_at"] is None
    silent = now - draft["last_evaluated_at"] > lifecycle.STALE_AFTER
    stale = active and silent and draft["rule"] in rules.EVALUATED_RULES
    if stale and not draft["stale"]:
        draft.note("stale", draft["last_evaluated_at"] + lifecycle.STALE_AFTER)
    draft.set(stale=stale)
    speaks = draft["state"] == lifecycle.OPEN and draft["severity"] == "critical"
    if speaks and now - draft["notified_at"] >= lifecycle.RENOTIFY_EVERY:
        draft.note("renotify", now)
        draft.set(notified_at=now)


# --- which alarm is about which chain -------------------------------------------------------------


def _match(
    stored: Iterable[Mapping[str, Any]], chains: Sequence[Chain]
) -> tuple[list[tuple[Chain, Mapping[str, Any] | None]], list[Mapping[str, Any]]]:
    """Each chain with its alarm, by overlap in time; and the unresolved alarms that have none."""
    free = sorted(
        (row for row in stored if row["resolved_reason"] != DATA_CORRECTED),
        key=lambda row: (row["first_opened_at"], row["id"]),
    )
    pairs: list[tuple[Chain, Mapping[str, Any] | None]] = []
    for chain in chains:
        mine = next((row for row in free if _about(row, chain)), None)
        if mine is not None:
            free.remove(mine)
        pairs.append((chain, mine))
    return pairs, [row for row in free if row["state"] != lifecycle.RESOLVED]


def _about(row: Mapping[str, Any], chain: Chain) -> bool:
    return (
        row["rule"] == chain.rule
        and row["first_opened_at"] <= (chain.newest.cleared_at or _FOREVER)
        and chain.spans[0].opened_at <= (row["returned_at"] or _FOREVER)
    )


def _incidents(vehicle_id: str, chains: Sequence[Chain]) -> dict[int, str]:
    """A name for each group of efficiency alarms that overlap in time, by the chain's identity."""
    names: dict[int, str] = {}
    name, until = "", datetime.min.replace(tzinfo=UTC)
    for chain in chains:
        if chain.rule not in rules.EFFICIENCY_RULES:
            continue
        begin = chain.spans[0].opened_at
        if begin > until:
            name = f"{vehicle_id}@{begin.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        until = max(until, chain.newest.cleared_at or _FOREVER)
        names[id(chain)] = name
    return names


# --- one alarm ------------------------------------------------------------------------------------


def _raised(chain: Chain, now: datetime) -> Draft:
    """A new alarm, taken through all its spans."""
    first = chain.spans[0]
    draft = Draft({"rule": chain.rule})
    draft.set(state=lifecycle.OPEN, stale=False, notified_at=now, suppressed_reason=None, **_EMPTY)
    opened = Step(first.opened_at, lifecycle.RAISE, None, lifecycle.OPEN)
    draft.change.steps.append(opened)
    _end(draft, first)
    _go_through(draft, chain.spans[1:])
    return draft


def _followed(row: Mapping[str, Any], chain: Chain) -> Draft:
    """A stored alarm, taken from the span it has seen to the newest."""
    draft, spans = Draft(row), chain.spans
    was_active, seen = row["returned_at"] is None, row["occurrences"]
    if len(spans) > seen:
        if was_active:
            _end(draft, spans[seen - 1])
        _go_through(draft, spans[seen:])
    elif was_active:
        _end(draft, spans[-1])
    elif spans[-1].cleared_at is None:
        _go_through(draft, spans[-1:])
    return draft


def _go_through(draft: Draft, spans: Sequence[Span]) -> None:
    for span in spans:
        if draft["state"] in {lifecycle.RESOLVED, lifecycle.RTN_UNACK}:
            draft.act(lifecycle.RAISE, span.opened_at)
            draft.set(**_EMPTY)
        _end(draft, span)


def _end(draft: Draft, span: Span) -> None:
    """The condition ended, or went with the meter, or a person has said so (who did the rest)."""
    if span.cleared_at is None or draft["state"] == lifecycle.RESOLVED:
        return
    if span.cleared_by == MAPPING_CHANGED:
        draft.act(lifecycle.WITHDRAW, span.cleared_at, note=MAPPING_CHANGED)
        draft.resolved(span.cleared_at, MAPPING_CHANGED)
    elif draft["state"] != lifecycle.RTN_UNACK:
        state = draft.act(lifecycle.RETURN, span.cleared_at)
        if state == lifecycle.RESOLVED:
            draft.resolved(span.cleared_at, RECOVERED)


def _withdrawn(row: Mapping[str, Any], now: datetime) -> Draft:
    draft = Draft(row)
    draft.act(lifecycle.WITHDRAW, now, note=DATA_CORRECTED)
    draft.resolved(now, DATA_CORRECTED)
    draft.set(returned_at=now)
    return draft


def _supersede(draft: Draft, chain: Chain) -> None:
    """A newer alarm of the rule speaks for the vehicle: nobody need acknowledge the older one."""
    if draft["state"] != lifecycle.RESOLVED:
        at = chain.newest.cleared_at
        assert at is not None  # noqa: S101  (only a chain that ended can have a successor)
        draft.act(lifecycle.WITHDRAW, at, note="superseded by a newer alarm of the same rule")
        draft.resolved(at, RECOVERED)


def _suppress(draft: Draft, blocked: bool, now: datetime) -> None:
    blocked = blocked and draft["rule"] in rules.EFFICIENCY_RULES
    if blocked and draft["state"] in {lifecycle.OPEN, lifecycle.ACKNOWLEDGED}:
        draft.act(lifecycle.SUPPRESS, now, note=DATA_QUALITY)
        draft.set(suppressed_reason=DATA_QUALITY)
    elif not blocked and draft["state"] == lifecycle.SUPPRESSED:
        draft.act(lifecycle.UNSUPPRESS, now)
        draft.set(suppressed_reason=None)


def _facts(chain: Chain, incident: str | None) -> dict[str, Any]:
    """The columns that only the evidence decides."""
    span, seen = chain.newest, chain.newest.newest
    reference = seen.baseline if chain.rule in rules.EFFICIENCY_RULES else None
    ratio = seen.dc_kwh / seen.ac_kwh if reference and seen.dc_kwh and seen.ac_kwh else None
    return {
        "rule": chain.rule,
        "severity": span.severity,
        "first_opened_at": chain.spans[0].opened_at,
        "opened_at": span.opened_at,
        "since": span.since,
        "last_evaluated_at": seen.at,
        "returned_at": span.cleared_at,
        "value": round(seen.value, 6),
        "threshold": round(seen.threshold, 6),
        "baseline": _rounded(reference),
        "delta_pts": None
        if ratio is None or reference is None
        else round(100 * (ratio - reference), 4),
        "z": _rounded(seen.z),
        "avoidable_kwh": round(span.avoidable_kwh, 4),
        "evidence": [_shown(asdict(e)) for e in span.evidence],
        "occurrences": len(chain.spans),
        "incident": incident,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _shown(evidence: dict[str, Any]) -> dict[str, Any]:
    """As it is stored in JSON: what is read back compares equal with what was written."""
    return {
        name: f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        if isinstance(value, datetime)
        else (round(float(value), 6) if isinstance(value, float) else value)
        for name, value in evidence.items()
    }
