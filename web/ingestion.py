"""POST /ingestion/meter and /ingestion/vehicle: readings in, 202 out, and 202 is a promise.

202 means: every accepted reading is in the stream, written as durably as the stream's server is
configured (`appendfsync always`: on disk), and will be in history whatever process dies next. Any
other answer means: send again, or correct it; a reading sent twice is stored once.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import msgspec
from flask import Response, g, request
from flask_smorest import Blueprint

import settings
from models.kinds import KINDS, METER, VEHICLE, Kind
from web import body
from web.admission import Admission
from web.auth import Caller, KeyRing, protect
from web.door import Lawful, Verdict, judge
from web.openapi import INGEST_DOCS
from web.quota import Quota
from web.refusals import READING_REFUSALS, Refused
from workers import doorbell, stream
from workers.metrics import READINGS_ACCEPTED, READINGS_REJECTED


def blueprint(keys: KeyRing, admission: Admission) -> Blueprint:
    """The two routes of the door."""
    blp = Blueprint("ingestion", __name__, url_prefix="/ingestion", description="Readings in")
    protect(blp, keys, "ingest")

    @blp.route("/meter", methods=["POST"])
    @blp.doc(**INGEST_DOCS[METER.name])
    def ingest_meter() -> Response:
        """Take in meter readings: one, an array, or NDJSON"""
        return _ingest(METER, admission, keys.quota)

    @blp.route("/vehicle", methods=["POST"])
    @blp.doc(**INGEST_DOCS[VEHICLE.name])
    def ingest_vehicle() -> Response:
        """Take in vehicle readings: one, an array, or NDJSON"""
        return _ingest(VEHICLE, admission, keys.quota)

    return blp


def _ingest(kind: Kind, admission: Admission, quota: Quota) -> Response:
    limits, caller = settings.load(), g.caller
    assert isinstance(caller, Caller)  # noqa: S101  (set by `protect`)
    shape = body.shape(request)
    admission.check()
    verdict = judge(
        kind,
        shape,
        body.read(request, limits.max_body_bytes),
        Lawful.at(
            datetime.now(UTC),
            age_days=limits.max_reading_age_days,
            future_seconds=limits.max_future_seconds,
            readings=limits.max_batch_readings,
            devices=caller.full_registries.get(kind.name),
        ),
    )
    _count(kind, verdict)
    if not verdict.accepted:
        raise _nothing_acceptable(verdict)
    if stream.append(kind, caller.fleet_id, verdict.accepted, verdict.body):
        doorbell.ring(kind)
    READINGS_ACCEPTED.labels(kind.name).inc(verdict.accepted)
    quota.count_readings(caller.key_id, verdict.accepted)
    answer = {"accepted": verdict.accepted, "rejected": verdict.rejected}
    return Response(msgspec.json.encode(answer), 202, content_type="application/json")


def _nothing_acceptable(verdict: Verdict) -> Refused:
    """A lone reading's own code and fields stand in front, where its sender looks first."""
    if len(verdict.rejected) == 1:
        only = verdict.rejected[0]
        detail = READING_REFUSALS[only.code]
        return Refused("NO_VALID_READING", detail, errors=only.errors, rejected=verdict.rejected)
    return Refused("NO_VALID_READING", rejected=verdict.rejected)


def _count(kind: Kind, verdict: Verdict) -> None:
    for code, number in Counter(r.code for r in verdict.rejected).items():
        READINGS_REJECTED.labels(kind.name, code).inc(number)


assert set(INGEST_DOCS) == set(KINDS)  # noqa: S101  (checked at import)
