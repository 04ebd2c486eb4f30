"""What the product does per second on this machine, each figure beside its bare floor.

`python -m bench` starts a whole product of its own (durable settings, free ports, a folder that is
removed at the end), loads it in alternating rounds and prints the medians. docs/performance.md says
what each figure means. Nothing here asserts a speed; a run fails only when something is broken.
"""

from __future__ import annotations


class Broken(Exception):  # noqa: N818  (a finding about the product, not a programming error)
    """An answer, or a count of rows, that should not be. The message is complete."""
