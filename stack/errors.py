"""What can go wrong while starting, told to a person."""

from __future__ import annotations


class StackError(Exception):
    """A start cannot go on. The message is complete: it is shown as it is, without a traceback."""
