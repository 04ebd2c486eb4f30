"""Keyset pages: a cursor says where the last page ended, so page 1,000 costs as much as page 1."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from flask import Response, request
from marshmallow import Schema, fields, validate

from web.answers import answer
from web.refusals import Refused

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000

Row = TypeVar("Row")


class PageQuery(Schema):
    """?limit and ?cursor."""

    limit = fields.Integer(load_default=DEFAULT_LIMIT, validate=validate.Range(1, MAX_LIMIT))
    cursor = fields.String(load_default=None)


def decode_cursor(cursor: str | None, position: Any) -> Any:
    """Where the page before ended, as the type `position` (to msgspec, with its limits).

    None for the first page. Raises Refused for a cursor that no page can have given out.
    """
    if cursor is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()), type=position)
    except (ValueError, UnicodeError) as error:  # msgspec's and base64's errors are ValueErrors
        text = "Not a cursor of this list."
        raise Refused("BAD_QUERY", text, errors={"cursor": [text]}) from error


def page(
    rows: Sequence[Row],
    limit: int,
    shown: Callable[[Row], Any],
    position: Callable[[Row], Any],
) -> Response:
    """One page, from up to limit + 1 rows: the surplus one means "go on"."""
    items = [shown(row) for row in rows[:limit]]
    if len(rows) <= limit:
        return answer({"items": items, "next": None})
    encoded = msgspec.json.encode(position(rows[limit - 1]))
    cursor = base64.urlsafe_b64encode(encoded).decode()
    query = urlencode({**request.args.to_dict(), "cursor": cursor})
    link = {"Link": f'<{request.path}?{query}>; rel="next"'}
    return answer({"items": items, "next": cursor}, headers=link)
