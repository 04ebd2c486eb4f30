"""HTTP in, HTTP out: no SQL, no Redis command, no energy arithmetic in this room."""

from web.app import create_app, create_front

__all__ = ["create_app", "create_front"]
