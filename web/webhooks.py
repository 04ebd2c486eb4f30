"""/v1/webhooks: where a fleet hears of its events, and how the deliveries go. Scope admin."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
from flask import Response, g
from flask_smorest import Blueprint
from marshmallow import RAISE, Schema, fields, validate
from sqlalchemy import Connection, Row

import settings
from models import webhooks
from models.engine import reading, transaction
from models.webhooks import Endpoint
from web.answers import answer, page_of
from web.auth import KeyRing, protect
from web.pages import PageQuery, decode_cursor, page
from web.refusals import Refused
from workers import webhook_target
from workers.webhook_target import MAX_URL_CHARS, TargetRefused

MAX_EVENT_TYPES = 50
#: Where a page of endpoints, or of deliveries, ended.
_EndpointPosition = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_DeliveryPosition = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_ONE = "/<int(max=2147483647):webhook_id>"
_EventType = validate.Regexp(r"[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,31}){1,3}\Z")


class NewWebhook(Schema):
    """Where to send which events; without `eventTypes`, all."""

    url = fields.String(required=True, validate=validate.Length(1, MAX_URL_CHARS))
    eventTypes = fields.List(
        fields.String(validate=_EventType),
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, MAX_EVENT_TYPES),
    )


class WebhookSchema(Schema):
    """A registered address; `eventTypes` null: all; `disabledAt`: it answered 410 Gone."""

    id = fields.Integer(required=True)
    url = fields.String(required=True)
    eventTypes = fields.List(fields.String(), required=True, allow_none=True)
    createdAt = fields.AwareDateTime(required=True)
    disabledAt = fields.AwareDateTime(required=True, allow_none=True)


class RegisteredWebhookSchema(WebhookSchema):
    """A new address with the secret that signs what is sent there, shown this once."""

    secret = fields.String(required=True)


class WebhookEventSchema(Schema):
    """An event that is on its way."""

    eventId = fields.UUID(required=True)


class DeliverySchema(Schema):
    """One event on its way to one address."""

    eventId = fields.UUID(required=True)
    type = fields.String(required=True)
    subject = fields.String(required=True, metadata={"description": "What the event is about"})
    createdAt = fields.AwareDateTime(required=True)
    state = fields.String(
        required=True,
        metadata={"enum": [webhooks.PENDING, webhooks.DELIVERED, webhooks.DEAD]},
    )
    attempts = fields.Integer(required=True)
    nextAttemptAt = fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "Null when none will come"}
    )
    lastStatusCode = fields.Integer(required=True, allow_none=True)
    lastError = fields.String(required=True, allow_none=True)
    deliveredAt = fields.AwareDateTime(required=True, allow_none=True)


def blueprint(keys: KeyRing) -> Blueprint:
    """Endpoints and their deliveries."""
    blp = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks", description="Events out")
    protect(blp, keys, "admin")
    _add_addresses(blp)
    _add_deliveries(blp)
    return blp


def _add_addresses(blp: Blueprint) -> None:
    @blp.route("", methods=["POST"])
    @blp.arguments(NewWebhook, unknown=RAISE)
    @blp.response(201, RegisteredWebhookSchema)
    def register(wanted: dict[str, Any]) -> Response:
        """Register an address for events; the answer alone shows its secret"""
        _check(wanted["url"])
        try:
            with transaction() as conn:
                made, secret = webhooks.add_endpoint(
                    conn, g.caller.fleet_id, wanted["url"], wanted["eventTypes"]
                )
        except webhooks.TooMany as full:
            raise Refused("TOO_MANY_WEBHOOKS") from full
        return answer({**_shown(made), "secret": secret}, 201)

    @blp.route("", methods=["GET"])
    @blp.arguments(PageQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("WebhookPage", WebhookSchema))
    def listed(query: dict[str, Any]) -> Response:
        """The fleet's addresses, oldest first"""
        after, limit = decode_cursor(query["cursor"], _EndpointPosition) or 0, query["limit"]
        with reading() as conn:
            rows = webhooks.endpoints(conn, g.caller.fleet_id, after=after, limit=limit + 1)
        return page(rows, limit, _shown, lambda row: row.id)

    @blp.route(_ONE, methods=["DELETE"])
    @blp.response(204)
    def remove(webhook_id: int) -> Response:
        """Forget an address, and what was still to be sent there"""
        with transaction() as conn:
            if not webhooks.remove_endpoint(conn, g.caller.fleet_id, webhook_id):
                raise Refused("UNKNOWN_WEBHOOK")
        return Response(status=204)


def _add_deliveries(blp: Blueprint) -> None:
    @blp.route(f"{_ONE}/deliveries", methods=["GET"])
    @blp.arguments(PageQuery, location="query", unknown=RAISE)
    @blp.response(200, page_of("DeliveryPage", DeliverySchema))
    def deliveries(query: dict[str, Any], webhook_id: int) -> Response:
        """What was sent there and how it went, newest first"""
        before, limit = decode_cursor(query["cursor"], _DeliveryPosition), query["limit"]
        with reading() as conn:
            _known(conn, webhook_id)
            rows = webhooks.deliveries(conn, webhook_id, before=before, limit=limit + 1)
        return page(rows, limit, _shown_delivery, lambda row: row.id)

    @blp.route(f"{_ONE}/test", methods=["POST"])
    @blp.response(202, WebhookEventSchema)
    def test(webhook_id: int) -> Response:
        """Send a `webhook.test` event there"""
        try:
            with transaction() as conn:
                event_id = webhooks.enqueue_test(conn, g.caller.fleet_id, webhook_id)
        except webhooks.Disabled as disabled:
            raise Refused("WEBHOOK_DISABLED") from disabled
        if event_id is None:
            raise Refused("UNKNOWN_WEBHOOK")
        return answer({"eventId": event_id}, 202)

    @blp.route(f"{_ONE}/deliveries/<uuid:event_id>/redeliver", methods=["POST"])
    @blp.response(202, WebhookEventSchema)
    def redeliver(webhook_id: int, event_id: uuid.UUID) -> Response:
        """Send an event there again, delivered or not"""
        try:
            with transaction() as conn:
                _known(conn, webhook_id)
                if not webhooks.redeliver(conn, g.caller.fleet_id, webhook_id, event_id):
                    raise Refused("UNKNOWN_DELIVERY")
        except webhooks.Disabled as disabled:
            raise Refused("WEBHOOK_DISABLED") from disabled
        return answer({"eventId": event_id}, 202)


def _check(url: str) -> None:
    """Whether a webhook may go there; asked again at each delivery. Raises Refused."""
    try:
        target = webhook_target.parse(url)
        allow_private = settings.load().webhook_allow_private
        webhook_target.resolve(target, allow_private=allow_private)
    except TargetRefused as refused:
        text = f"No webhook is sent there: {refused}."
        raise Refused("WEBHOOK_TARGET_REFUSED", text, errors={"url": [text]}) from refused


def _known(conn: Connection, webhook_id: int) -> None:
    """Raises Refused when the calling fleet has no such endpoint."""
    if webhooks.endpoint(conn, g.caller.fleet_id, webhook_id) is None:
        raise Refused("UNKNOWN_WEBHOOK")


def _shown(row: Endpoint) -> dict[str, Any]:
    return {
        "id": row.id,
        "url": row.url,
        "eventTypes": row.event_types,
        "createdAt": row.created_at,
        "disabledAt": row.disabled_at,
    }


def _shown_delivery(row: Row[Any]) -> dict[str, Any]:
    return {
        "eventId": row.event_id,
        "type": row.type,
        "subject": row.subject,
        "createdAt": row.created_at,
        "state": row.state,
        "attempts": row.attempts,
        "nextAttemptAt": row.next_attempt_at if row.state == webhooks.PENDING else None,
        "lastStatusCode": row.last_status_code,
        "lastError": row.last_error,
        "deliveredAt": row.delivered_at,
    }
