"""POST /ingestion/meter and /ingestion/vehicle: readings in, 202 out, and 202 is a promise.

202 means: every accepted reading is in the stream, written as durably as the stream's server is
configured (`appendfsync always`: on disk), and will be in history whatever process dies next. Any
other answer means: send again, or correct it; a reading sent twice is stored once.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import cache

import msgspec
from flask import Response, g, request
from flask_smorest import Blueprint
from prometheus_client import Counter as Counted

import settings
from models.kinds import KINDS, METER, VEHICLE, Kind
from web import body, headers
from web.admission import Admission
from web.auth import Caller, KeyRing, admit, protect
from web.door import Lawful, Verdict, judge
from web.express import Answer, Environ, Express
from web.openapi import INGEST_DOCS
from web.quota import Quota
from web.refusals import READING_REFUSALS, Refused
from workers import doorbell, stream
from workers.metrics import READINGS_ACCEPTED, READINGS_REJECTED


def blueprint(keys: KeyRing, admission: Admission) -> Blueprint:
    """The two routes of the door."""
    blp = Blueprint("ingestion", __name__, url_prefix="/ingestion", description="Readings in")
    protect(blp, keys, "ingest")

    def through(kind: Kind) -> Response:
        content = _ingest(kind, g.caller, request.environ, admission, keys.quota)
        return Response(content, 202, content_type="application/json")

    @blp.route("/meter", methods=["POST"])
    @blp.doc(**INGEST_DOCS[METER.name])
    def ingest_meter() -> Response:
        """Take in meter readings: one, an array, or NDJSON"""
        return through(METER)

    @blp.route("/vehicle", methods=["POST"])
    @blp.doc(**INGEST_DOCS[VEHICLE.name])
    def ingest_vehicle() -> Response:
        """Take in vehicle readings: one, an array, or NDJSON"""
        return through(VEHICLE)

    return blp


def express(keys: KeyRing, admission: Admission) -> Express:
    """Both routes without Flask."""

    def take(environ: Environ, kind_name: str) -> Answer | None:
        kind = KINDS.get(kind_name)
        if kind is None:
            return None
        caller = admit(keys, environ.get("HTTP_AUTHORIZATION", ""), "ingest")
        content = _ingest(kind, caller, environ, admission, keys.quota)
        length = ("Content-Length", str(len(content)))
        return Answer("202 ACCEPTED", [*headers.JSON, length], content)

    return take


def _ingest(
    kind: Kind, caller: Caller, environ: Environ, admission: Admission, quota: Quota
) -> bytes:
    """What a 202 says. Raises Refused and StreamUnavailable."""
    limits, shape = settings.load(), body.shape(environ)
    admission.check()
    verdict = judge(
        kind,
        shape,
        body.read(environ, limits.max_body_bytes),
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
    _accepted(kind).inc(verdict.accepted)
    quota.count_readings(caller.key_id, verdict.accepted)
    return msgspec.json.encode({"accepted": verdict.accepted, "rejected": verdict.rejected})


@cache  # finding the counter of a label takes longer than counting
def _accepted(kind: Kind) -> Counted:
    return READINGS_ACCEPTED.labels(kind.name)


def _nothing_acceptable(verdict: Verdict) -> Refused:
    """A lone reading's own code and fields stand in front, where its sender looks first."""
    if len(verdict.rejected) == 1:
        only = verdict.rejected[0]
        detail = READING_REFUSALS[only.code]
        return Refused("NO_VALID_READING", detail, errors=only.errors, rejected=verdict.rejected)
    return Refused("NO_VALID_READING", rejected=verdict.rejected)


def _count(kind: Kind, verdict: Verdict) -> None:
    if not verdict.rejected:
        return
    for code, number in Counter(r.code for r in verdict.rejected).items():
        READINGS_REJECTED.labels(kind.name, code).inc(number)


assert set(INGEST_DOCS) == set(KINDS)  # noqa: S101  (checked at import)
