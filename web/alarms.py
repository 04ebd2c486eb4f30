"""Alarms: what is wrong with which vehicle, what people did about it, and what other thresholds
would have raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from flask import Response, g
from flask_smorest import Blueprint
from marshmallow import RAISE, Schema, fields, validate
from sqlalchemy import Connection

from models import alarms, episodes
from models.engine import reading, transaction
from web.answers import answer, page_of
from web.auth import KeyRing, protect
from web.pages import PageQuery, decode_cursor, page
from web.refusals import Refused
from web.schemas import Timestamp
from workers.alarms import book, lifecycle, rules, spans
from workers.alarms.engine import chains, judge
from workers.alarms.public import named, shown
from workers.alarms.source import as_day, as_episode, in_force
from workers.alarms.thresholds import Thresholds

_MAX_ID = 2**63 - 1
#: Where a page ended: an alarm, a transition or a vehicle.
_Position = Annotated[int, msgspec.Meta(ge=0, le=_MAX_ID)]
#: A what-if judges this many vehicles at most in one request, each over this many days.
MAX_VEHICLES, MAX_DAYS = 50, 366
#: What the rules learn from before the days asked about.
LEAD_IN = timedelta(days=180)

#: Public name -> column, of an evaluation in the evidence and of a transition.
_EVIDENCE = {
    "at": "at",
    "value": "value",
    "threshold": "threshold",
    "breach": "breach",
    "acKwh": "ac_kwh",
    "dcKwh": "dc_kwh",
    "baseline": "baseline",
    "z": "z",
}
_TRANSITION = {
    "id": "id",
    "at": "at",
    "who": "who",
    "action": "action",
    "from": "from_state",
    "to": "to_state",
    "note": "note",
}


# --- schemas --------------------------------------------------------------------------------------


def _instant(*, null: bool = True) -> fields.AwareDateTime:
    return fields.AwareDateTime(required=True, allow_none=null)


def _number(description: str, *, null: bool = True) -> fields.Float:
    return fields.Float(required=True, allow_none=null, metadata={"description": description})


def _text(*, null: bool = True) -> fields.String:
    return fields.String(required=True, allow_none=null)


def _one_of(names: tuple[str, ...]) -> fields.String:
    return fields.String(required=True, validate=validate.OneOf(names))


class AlarmSchema(Schema):
    """An alarm. `value` and `threshold` are in the rule's own unit (docs/alarms.md)."""

    id = fields.Integer(required=True)
    rule = _one_of(rules.RULES)
    vehicleId = _text(null=False)
    meterId = _text()
    severity = _one_of(spans.SEVERITIES)
    state = _one_of(lifecycle.STATES)
    stale = fields.Boolean(required=True)
    firstOpenedAt = _instant(null=False)
    openedAt = _instant(null=False)
    since = _instant(null=False)
    lastEvaluatedAt = _instant(null=False)
    returnedAt = _instant()
    value = _number("What the rule saw last", null=False)
    threshold = _number("What it compared with", null=False)
    baseline = _number("The vehicle's own median efficiency, a fraction")
    deltaPts = _number("Efficiency minus baseline, points of the AC energy")
    z = _number("The last residual, standard deviations; negative is worse")
    avoidableKwh = _number("Energy lost beyond what is usual since it opened, kWh", null=False)
    avoidableCost = _number("avoidableKwh at TARIFF_PER_KWH; null when none is set")
    occurrences = fields.Integer(required=True)
    reopenedFrom = fields.Integer(required=True, allow_none=True)
    incident = _text()
    suppressedReason = _text()
    ackAt = _instant()
    ackBy = _text()
    ackNote = _text()
    shelvedUntil = _instant()
    shelvedBy = _text()
    shelvedNote = _text()
    resolvedAt = _instant()
    resolvedBy = _text()
    resolvedReason = _text()
    resolvedNote = _text()


class EvidenceSchema(Schema):
    """One evaluation, as the rule saw it."""

    at = _instant(null=False)
    value = _number("In the rule's own unit", null=False)
    threshold = _number("What it was compared with", null=False)
    breach = fields.Boolean(required=True)
    acKwh = _number("kWh drawn from the grid")
    dcKwh = _number("kWh that reached the battery")
    baseline = _number("The vehicle's own median efficiency at that time")
    z = _number("Residual, standard deviations")


class AlarmWithEvidenceSchema(AlarmSchema):
    """An alarm, with the evaluations that opened it and the newest ones."""

    evaluations = fields.List(fields.Nested(EvidenceSchema), required=True)


class TransitionSchema(Schema):
    """What happened to an alarm."""

    class Meta:
        include = {"from": _text()}  # noqa: RUF012

    id = fields.Integer(required=True)
    at = _instant(null=False)
    who = _text(null=False)
    action = _text(null=False)
    to = _text(null=False)
    note = _text()


class RulesSchema(Schema):
    """The rules, and the thresholds in force."""

    rules = fields.List(fields.String(), required=True)
    thresholds = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)


class RuleCountSchema(Schema):
    """How many alarms a rule would have raised."""

    rule = _one_of(rules.EVALUATED_RULES)
    current = fields.Integer(required=True)
    proposed = fields.Integer(required=True)


class ReplaySchema(Schema):
    """What other thresholds would have raised over stored evaluations, for a page of vehicles."""

    class Meta:
        include = {"from": _instant(null=False), "to": _instant(null=False)}  # noqa: RUF012

    vehicles = fields.Integer(required=True)
    evaluations = fields.Integer(required=True)
    current = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    proposed = fields.Dict(keys=fields.String(), values=fields.Float(), required=True)
    rules = fields.List(fields.Nested(RuleCountSchema), required=True)
    next = _text()


# --- what is asked --------------------------------------------------------------------------------


class AlarmQuery(PageQuery):
    """Which alarms: `state` may also be `stale`."""

    state = fields.String(load_default=None, validate=validate.OneOf((*lifecycle.STATES, "stale")))
    rule = fields.String(load_default=None, validate=validate.OneOf(rules.RULES))
    severity = fields.String(load_default=None, validate=validate.OneOf(spans.SEVERITIES))
    vehicleId = fields.String(load_default=None, validate=validate.Predicate("isprintable"))


def _limit(lowest: float, highest: float) -> fields.Float:
    return fields.Float(load_default=None, validate=validate.Range(lowest, highest))


class ReplayQuery(PageQuery):
    """The last `days`, and what differs from the thresholds in force. A page is of vehicles."""

    limit = fields.Integer(load_default=25, validate=validate.Range(1, MAX_VEHICLES))
    days = fields.Integer(load_default=90, validate=validate.Range(1, MAX_DAYS))
    floorPct = _limit(0, 100)
    dropPts = _limit(0.1, 100)
    cusumK = _limit(0, 4)
    cusumH = _limit(0.1, 100)
    sigmaFloorPts = _limit(0.01, 20)
    lowEvaluations = fields.Integer(load_default=None, validate=validate.Range(1, 20))
    dropEvaluations = fields.Integer(load_default=None, validate=validate.Range(1, 20))
    idleWatts = _limit(1, 100_000)
    minEvaluationKwh = _limit(0.5, 1000)


def _note(*, required: bool = False) -> fields.String:
    printable = [validate.Length(min=1, max=1000), validate.ContainsNoneOf("\x00")]
    if required:
        return fields.String(required=True, validate=printable)
    return fields.String(load_default=None, validate=printable)


class ActionBody(Schema):
    """A remark, and who says so (by default the key that is used)."""

    note = _note()
    by = fields.String(
        load_default=None,
        validate=[validate.Length(min=1, max=100), validate.Predicate("isprintable")],
    )


class ShelfBody(ActionBody):
    """Until when, at most seven days, and why."""

    note = _note(required=True)
    until = Timestamp()


# --- routes ---------------------------------------------------------------------------------------


def blueprints(keys: KeyRing) -> list[Blueprint]:
    """Reading alarms, acting on them, and the rules themselves."""
    return [_reading(keys), _acting(keys), _rules(keys)]


def _reading(keys: KeyRing) -> Blueprint:
    blp = Blueprint("alarms", __name__, url_prefix="/v1/alarms", description="Alarms")
    protect(blp, keys, "read")

    @blp.route("")
    @blp.arguments(AlarmQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("AlarmPage", AlarmSchema))
    def listed(query: dict[str, Any]) -> Response:
        """The fleet's alarms, newest first"""
        limit = query["limit"]
        with reading() as conn:
            rows = alarms.listed(
                conn,
                g.caller.fleet_id,
                state=query["state"],
                rule=query["rule"],
                vehicle_id=query["vehicleId"],
                severity=query["severity"],
                before=decode_cursor(query["cursor"], _Position),
                limit=limit + 1,
            )
        return page(rows, limit, shown, lambda row: row["id"])

    @blp.route(f"/<int(max={_MAX_ID}):alarm_id>")
    @blp.response(200, AlarmWithEvidenceSchema)
    def one(alarm_id: int) -> Response:
        """One alarm, with the evaluations it stands on"""
        with reading() as conn:
            row = _known(conn, alarm_id)
        evaluations = [named(_EVIDENCE, seen) for seen in row["evidence"]]
        return answer({**shown(row), "evaluations": evaluations})

    @blp.route(f"/<int(max={_MAX_ID}):alarm_id>/history")
    @blp.arguments(PageQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("TransitionPage", TransitionSchema))
    def history(query: dict[str, Any], alarm_id: int) -> Response:
        """What happened to an alarm, oldest first"""
        after, limit = decode_cursor(query["cursor"], _Position) or 0, query["limit"]
        with reading() as conn:
            _known(conn, alarm_id)
            rows = alarms.history(conn, alarm_id, after=after, limit=limit + 1)
        return page(rows, limit, lambda row: named(_TRANSITION, row), lambda row: row["id"])

    return blp


def _acting(keys: KeyRing) -> Blueprint:
    blp = Blueprint("alarm-actions", __name__, url_prefix="/v1/alarms", description="Alarms")
    protect(blp, keys, "admin")
    path = f"/<int(max={_MAX_ID}):alarm_id>"

    @blp.route(f"{path}/acknowledge", methods=["POST"])
    @blp.arguments(ActionBody, unknown=RAISE)
    @blp.response(200, AlarmSchema)
    def acknowledge(body: dict[str, Any], alarm_id: int) -> Response:
        """Say that somebody has seen it"""
        return _act(alarm_id, lifecycle.ACKNOWLEDGE, body)

    @blp.route(f"{path}/shelve", methods=["POST"])
    @blp.arguments(ShelfBody, unknown=RAISE)
    @blp.response(200, AlarmSchema)
    def shelve(body: dict[str, Any], alarm_id: int) -> Response:
        """Put it aside until later (seven days at most)"""
        now = datetime.now(UTC)
        if not now < body["until"] <= now + lifecycle.MAX_SHELVED:
            text = "Must be later than now, and not later than in seven days."
            raise Refused("BAD_FIELD", text, errors={"until": [text]})
        return _act(alarm_id, lifecycle.SHELVE, body)

    @blp.route(f"{path}/unshelve", methods=["POST"])
    @blp.arguments(ActionBody, unknown=RAISE)
    @blp.response(200, AlarmSchema)
    def unshelve(body: dict[str, Any], alarm_id: int) -> Response:
        """Take it from the shelf before its time"""
        return _act(alarm_id, lifecycle.UNSHELVE, body)

    @blp.route(f"{path}/resolve", methods=["POST"])
    @blp.arguments(ActionBody, unknown=RAISE)
    @blp.response(200, AlarmSchema)
    def resolve(body: dict[str, Any], alarm_id: int) -> Response:
        """Close it by hand; fresh evidence of the same raises it again"""
        return _act(alarm_id, lifecycle.RESOLVE, body)

    return blp


def _rules(keys: KeyRing) -> Blueprint:
    blp = Blueprint("rules", __name__, url_prefix="/v1/analytics/rules", description="Rules")
    protect(blp, keys, "read")

    @blp.route("")
    @blp.response(200, RulesSchema)
    def thresholds() -> Response:
        """The rules, and the thresholds in force"""
        return answer({"rules": rules.RULES, "thresholds": _numbers(in_force())})

    @blp.route("/replay")
    @blp.arguments(ReplayQuery, location="query", unknown=RAISE)
    @blp.response(200, ReplaySchema)
    def replay(query: dict[str, Any]) -> Response:
        """How many alarms other thresholds would have raised"""
        return _replay(query, datetime.now(UTC))

    return blp


def _known(conn: Connection, alarm_id: int, *, lock: bool = False) -> dict[str, Any]:
    """The calling fleet's alarm. Raises Refused."""
    row = alarms.one(conn, g.caller.fleet_id, alarm_id, lock=lock)
    if row is None:
        raise Refused("UNKNOWN_ALARM")
    return row


def _act(alarm_id: int, action: str, body: dict[str, Any]) -> Response:
    try:
        with transaction() as conn:
            row = book.act(
                conn,
                _known(conn, alarm_id, lock=True),
                action,
                who=body["by"] or g.caller.key_id,
                note=body["note"],
                now=datetime.now(UTC),
                until=body.get("until"),
            )
    except lifecycle.NotPossible as refusal:
        raise Refused("ALARM_STATE", str(refusal)) from refusal
    return answer(shown(row))


# --- what-if --------------------------------------------------------------------------------------

#: Parameter -> threshold; those in percent are divided on the way.
_CHANGEABLE = {
    "dropPts": "drop_pts",
    "cusumK": "cusum_k",
    "cusumH": "cusum_h",
    "sigmaFloorPts": "sigma_floor_pts",
    "lowEvaluations": "low_evaluations",
    "dropEvaluations": "drop_evaluations",
    "idleWatts": "idle_watts",
    "minEvaluationKwh": "min_evaluation_kwh",
}


def _replay(query: dict[str, Any], now: datetime) -> Response:
    begin, limit = now - timedelta(days=query["days"]), query["limit"]
    current = in_force()
    proposed = _proposed(current, query)
    counts = {rule: [0, 0] for rule in rules.EVALUATED_RULES}
    evaluations, after = 0, decode_cursor(query["cursor"], _Position) or 0
    with reading() as conn:
        keys = episodes.charged_since(conn, g.caller.fleet_id, begin, after=after, limit=limit + 1)
        for key in keys[:limit]:
            known = list(map(as_episode, episodes.of_vehicle(conn, key, begin - LEAD_IN)))
            first_day = (begin - LEAD_IN).date()
            days = list(map(as_day, episodes.days_of_vehicle(conn, key, first_day)))
            for column, limits in enumerate((current, proposed)):
                found = judge(known, days, limits)
                for chain in chains(found.spans):
                    counts[chain.rule][column] += chain.spans[0].opened_at >= begin
            evaluations += sum(e.at >= begin for e in found.evaluations)
    more = page(keys, limit, lambda key: key, lambda key: key)
    told = {
        "from": begin,
        "to": now,
        "vehicles": len(keys[:limit]),
        "evaluations": evaluations,
        "current": _numbers(current),
        "proposed": _numbers(proposed),
        "rules": [
            {"rule": rule, "current": one, "proposed": other}
            for rule, (one, other) in counts.items()
        ],
        "next": msgspec.json.decode(more.get_data())["next"],
    }
    link = {"Link": more.headers["Link"]} if "Link" in more.headers else {}
    return answer(told, headers=link)


def _proposed(current: Thresholds, query: Mapping[str, Any]) -> Thresholds:
    asked = {column: query[name] for name, column in _CHANGEABLE.items() if query[name] is not None}
    floor = None if query["floorPct"] is None else query["floorPct"] / 100
    return current.changed(floor=floor, **asked)


def _numbers(limits: Thresholds) -> dict[str, float]:
    """Thresholds by their public names."""
    return {_camel(name): value for name, value in asdict(limits).items()}


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)
