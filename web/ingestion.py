"""POST /ingestion/meter and /ingestion/vehicle: readings in, 202 out, and 202 is a promise.

202 means: every accepted reading is in the stream, written as durably as the stream's server is
configured (`appendfsync always`: on disk), and will be in history whatever process dies next. Any
other answer means: send again, or correct it; a reading sent twice is stored once.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress
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
from web.auth import Caller, KeyRing, at_hand, protect
from web.body import Environ
from web.door import Lawful, Verdict, accept_all, judge
from web.express import Answer, Express
from web.openapi import INGEST_DOCS
from web.quota import Quota
from web.refusals import READING_REFUSALS, Refused
from web.rsgi import Asked
from workers import append, doorbell, stream
from workers.metrics import READINGS_ACCEPTED, READINGS_REJECTED

#: A larger body takes so long to judge that others should not wait for it: it goes to a thread.
EXPRESS_BYTES = 128 * 1024
_LENGTH = re.compile("[0-9]{1,9}")


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
    """Both routes for a body that is small, lawful beyond doubt, and from a sender who is known."""

    async def take(asked: Asked, kind_name: str) -> Answer | None:
        kind, length = KINDS.get(kind_name), _small_length(asked)
        shape = body.shape_of(asked.only("content-type"))
        caller = at_hand(keys, asked.only("authorization"), "ingest")
        if kind is None or shape is None or caller is None or not length:
            return None
        if not keys.quota.has_left(caller.key_id):
            return None
        sent = await asked.read()
        if len(sent) != length or not admission.is_open():
            return None
        verdict = accept_all(kind, shape, sent, _lawful(kind, caller))
        if verdict is None:
            return None
        keys.quota.count_request(caller.key_id)
        if await append.soon(kind, caller.fleet_id, verdict.accepted, verdict.body):
            _ring_beside(kind)
        content = _accepted(kind, caller, verdict, keys.quota)
        return Answer(202, [*headers.JSON, ("Content-Length", str(len(content)))], content)

    return take


def _ring_beside(kind: Kind) -> None:
    # A system that starts no further thread loses a ring, and must not make a promise an error.
    with suppress(RuntimeError):
        asyncio.get_running_loop().run_in_executor(None, doorbell.ring, kind)


def _small_length(asked: Asked) -> int:
    """The length that is declared for a body which may be read and judged between two others'.

    0: it is too large, or in parts, or has to be inflated first.
    """
    declared, encoded = asked.only("content-length"), {"transfer-encoding", "content-encoding"}
    if not _LENGTH.fullmatch(declared) or any(name in asked.headers for name in encoded):
        return 0
    length = int(declared)
    return length if length <= min(EXPRESS_BYTES, settings.load().max_body_bytes) else 0


def _ingest(
    kind: Kind, caller: Caller, environ: Environ, admission: Admission, quota: Quota
) -> bytes:
    """What a 202 says. Raises Refused and StreamUnavailable."""
    shape = body.shape(environ)
    admission.check()
    sent = body.read(environ, settings.load().max_body_bytes)
    verdict = judge(kind, shape, sent, _lawful(kind, caller))
    _count(kind, verdict)
    if not verdict.accepted:
        raise _nothing_acceptable(verdict)
    if stream.append(kind, caller.fleet_id, verdict.accepted, verdict.body):
        doorbell.ring(kind)
    return _accepted(kind, caller, verdict, quota)


def _lawful(kind: Kind, caller: Caller) -> Lawful:
    limits = settings.load()
    return Lawful.at(
        datetime.now(UTC),
        age_days=limits.max_reading_age_days,
        future_seconds=limits.max_future_seconds,
        readings=limits.max_batch_readings,
        devices=caller.full_registries.get(kind.name),
    )


def _accepted(kind: Kind, caller: Caller, verdict: Verdict, quota: Quota) -> bytes:
    """Count what is in the stream now; what a 202 says of it."""
    _counter(kind).inc(verdict.accepted)
    quota.count_readings(caller.key_id, verdict.accepted)
    return msgspec.json.encode({"accepted": verdict.accepted, "rejected": verdict.rejected})


@cache  # finding the counter of a label takes longer than counting
def _counter(kind: Kind) -> Counted:
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
