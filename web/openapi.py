"""The OpenAPI document at /openapi.json, made from the schemas and routes; Swagger UI at /docs."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from flask import Blueprint as FlaskBlueprint
from flask import Response, redirect, send_from_directory
from flask_smorest import Api
from marshmallow import Schema, fields
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from models.kinds import KINDS, Kind
from web.errors import PROBLEM_JSON, from_http_exception
from web.refusals import REQUEST_REFUSALS
from web.schemas import schema_of

VERSION = "0.1.0"

CONFIG = {
    "API_TITLE": "Energy Ingestion Engine",
    "API_VERSION": VERSION,
    "OPENAPI_VERSION": "3.1.0",
    "OPENAPI_URL_PREFIX": "/",
    "OPENAPI_JSON_PATH": "openapi.json",
    "API_SPEC_OPTIONS": {
        "info": {
            "description": "AC energy in from smart meters, DC energy in from vehicles, out comes "
            "the share that arrived: per vehicle, over the last 24 hours."
        },
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    },
}


class RejectedSchema(Schema):
    """One reading that was not accepted."""

    index = fields.Integer(required=True, metadata={"description": "Its place in the request"})
    code = fields.String(required=True)
    errors = fields.Dict(required=True, keys=fields.String(), values=fields.List(fields.String()))


class ProblemSchema(Schema):
    """RFC 9457 problem details, with the refusal's code."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True, metadata={"enum": sorted(REQUEST_REFUSALS)})
    instance = fields.String(required=True)
    errors = fields.Dict(
        keys=fields.String(), values=fields.List(fields.String()),
        metadata={"description": "Messages by field or parameter"},
    )  # fmt: skip
    rejected = fields.List(fields.Nested(RejectedSchema))


class IngestedSchema(Schema):
    """What became of a request's readings."""

    accepted = fields.Integer(required=True)
    rejected = fields.List(fields.Nested(RejectedSchema), required=True)


class EnergyApi(Api):  # type: ignore[misc]
    """flask-smorest's Api with problem details for every refusal."""

    ERROR_SCHEMA = ProblemSchema

    def handle_http_exception(self, error: HTTPException) -> Response:
        return from_http_exception(error)

    def _register_responses(self) -> None:
        super()._register_responses()
        responses = self.spec.components.responses_lazy
        for response in responses.values():
            if "content" in response:
                response["content"] = {PROBLEM_JSON: response["content"]["application/json"]}
        refused = "Refused: `code` says why, docs/refusals.md what to do about it"
        responses[self.DEFAULT_ERROR_RESPONSE_NAME]["description"] = refused


def _ingest_doc(kind: Kind) -> dict[str, Any]:
    one = schema_of(kind)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"oneOf": [one, {"type": "array", "items": one}]},
                    "example": _EXAMPLES[kind.name],
                },
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": {
            "202": {
                "description": "The accepted readings are kept, whatever happens next",
                "content": {"application/json": {"schema": IngestedSchema}},
            }
        },
    }


_EXAMPLES = {
    "meter": {
        "meterId": "meter-001",
        "kwhConsumedAc": 100.5,
        "voltage": 230,
        "timestamp": "2023-10-27T10:00:00Z",
    },
    "vehicle": {
        "vehicleId": "vehicle-001",
        "soc": 55,
        "kwhDeliveredDc": 98.0,
        "batteryTemp": 32.5,
        "timestamp": "2023-10-27T10:00:00Z",
    },
}
INGEST_DOCS = {kind.name: _ingest_doc(kind) for kind in KINDS.values()}


# --- /docs ----------------------------------------------------------------------------------------

#: Swagger UI's own page has an inline script, which our Content-Security-Policy forbids.
_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Energy Ingestion Engine: API</title>
  <link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="/docs/assets/swagger-ui-bundle.js"></script>
  <script src="/docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
_ASSETS = str(files("flask_swagger_ui") / "dist")


pages = FlaskBlueprint("docs", __name__)


@pages.get("/")
def home() -> WerkzeugResponse:
    """Who opens the address in a browser finds the documentation."""
    return redirect("/docs")


@pages.get("/docs")
def page() -> Response:
    """Swagger UI out of an installed package: no CDN, works offline."""
    return Response(_PAGE, mimetype="text/html")


@pages.get("/docs/start.js")
def start() -> Response:
    """What an inline script would have done."""
    return Response(_START, mimetype="text/javascript")


@pages.get("/docs/assets/<path:name>")
def assets(name: str) -> Response:
    """Swagger UI's own files."""
    return send_from_directory(_ASSETS, name)
