"""Steady registers, kept in memory from tick to tick: the roll-up's way for nearly all vehicles.

A register is steady while it only rises, no faster than its device can, with samples at most five
minutes apart and none of them judged. For these the arithmetic of workers/performance.py comes down
to a few numbers per hour, which change little from one tick to the next, and are the same for each
vehicle, so whole columns of them are added up at once. Everything else goes the general way.

    registers.py    the columns: hours, newest samples; what a new sample changes
    window.py       what 24 h show of both sides, and of their common ground
    summary.py      efficiency, bounds, confidence, the split of the loss, as columns
    memory.py       both kinds together, and when they may be believed

Both ways must say the same to the last digit: tests/integration/test_steady.py holds them together.
"""
