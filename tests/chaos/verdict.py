"""What a run has shown, on one screen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.chaos.oracle import Findings

#: What must be 0, in this order.
LAW = (
    "lost",
    "unexpected",
    "unexpected device",
    "twice",
    "latest",
    "hourly",
    "summary",
    "hours left dirty",
    "dead letter not planned",
    "poison not buried",
    "stream not empty",
    "pending",
    "wrong answer",
    "not recovered",
    "sender not done",
)
Interval = Sequence[float]
#: How recoveries from two faults at the same moment are listed: they are nobody's alone.
TOGETHER = "two at once"


@dataclass(slots=True)
class Run:
    """What a run was and what was seen of it."""

    seed: int
    seconds: float
    faults: str
    longest_freeze: float
    struck: Counter[str] = field(default_factory=Counter)
    #: Seconds until a new reading got through again, by fault.
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    senders: list[dict[str, Any]] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    drain_seconds: float = 0.0

    def total(self, name: str) -> int:
        """A figure of all senders together."""
        return sum(int(sender.get(name, 0)) for sender in self.senders)

    def counted(self, name: str) -> Counter[str]:
        """A table of all senders together."""
        together: Counter[str] = Counter()
        for sender in self.senders:
            together.update(sender.get(name, {}))
        return together

    def seconds_of(self, name: str) -> float:
        """For how long at least one sender saw it."""
        return union(i for sender in self.senders for i in sender.get(name, []))

    @property
    def passed(self) -> bool:
        """Whether everything that must be 0 is 0, and something was tried at all."""
        return not self.findings.wrong.total() and self.findings.compared["acknowledged"] > 0


def union(intervals: Iterable[Interval]) -> float:
    """The length of time that `intervals` cover together."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(map(tuple, intervals)):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _fault_line(name: str, run: Run) -> str:
    seen = run.recoveries.get(name, [])
    struck = run.struck[name] or len(seen)
    times = f"{median(seen):>23.1f}{max(seen):>8.1f}" if seen else f"{'-':>23}{'-':>8}"
    return f"  {name:<24}{struck:>6}{times}"


def screen(run: Run) -> str:
    """The verdict."""
    compared, wrong = run.findings.compared, run.findings.wrong
    lines = [
        "",
        f"chaos: {run.seconds:.0f} s, seed {run.seed}, faults {run.faults}",
        "",
        f"  acknowledged readings {run.total('acknowledged'):>9,}   requests "
        f"{run.total('requests'):,} in {run.total('tries'):,} tries",
        f"  compared              {compared['acknowledged']:>9,} different ones with "
        f"{compared['history']:,} in history and {compared['conflicts']:,} conflicts,",
        f"                                  {compared['latest']:,} latest, "
        f"{compared['hours']:,} hours, {compared['summaries']:,} summaries, "
        f"{compared['dead letters']:,} dead letters",
        f"  503 (send again)      {run.seconds_of('unavailable'):>9.1f} s   no answer "
        f"{run.seconds_of('unanswered'):.1f} s   drained {run.drain_seconds:.1f} s after the load",
        "",
        f"  {'fault':<24}{'times':>6}   recovery (s): median   worst",
    ]
    lines += [_fault_line(name, run) for name in sorted(run.struck)]
    lines.append(_fault_line(TOGETHER, run))
    lines.append(f"  {'all':<24}{run.struck.total():>6}")
    refused = ", ".join(f"{code} {n}" for code, n in sorted(run.counted("refused").items()))
    statuses = ", ".join(f"{code} {n}" for code, n in sorted(run.counted("statuses").items()))
    lines += ["", f"  bad input refused: {refused or 'none tried'}", f"  answers: {statuses}", ""]
    lines += [f"  {name:<24}{wrong[name]:>6}" for name in LAW if name in LAW[:6] or wrong[name]]
    lines += [f"    {example[:160]}" for example in run.findings.examples[:20]]
    replay = (
        f"make chaos SECONDS={run.seconds:.0f} SEED={run.seed} FAULTS='{run.faults}'"
        f" ARGS='--freeze {run.longest_freeze:.0f}'"
    )
    lines += ["", f"{'PASSED' if run.passed else 'FAILED'}   to play it again: {replay}"]
    return "\n".join(lines)
