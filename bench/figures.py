"""Numbers of several rounds: medians, percentiles, and how they are written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

#: What one measurement found: name of a figure -> value, or all samples of one round.
Figures = Mapping[str, float | Sequence[float]]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


class Rounds:
    """All figures of all rounds, in the order in which they were found."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self._samples: defaultdict[str, list[Sequence[float]]] = defaultdict(list)

    def add(self, figures: Figures) -> None:
        """One more round of these figures."""
        for name, value in figures.items():
            samples = value if isinstance(value, Sequence) else [value]
            self._values[name] += samples
            self._samples[name].append(samples)

    def clear(self) -> None:
        """Begin anew."""
        self._values.clear()
        self._samples.clear()

    def values(self, name: str) -> list[float]:
        """A figure in every round; empty when it was not measured."""
        return self._values.get(name, [])

    def median(self, name: str) -> float | None:
        """A figure's median; None when it was not measured."""
        values = self.values(name)
        return median(values) if values else None

    def percentile(self, name: str, share: float) -> float | None:
        """Of all samples of a figure; None when it was not measured."""
        values = self.values(name)
        return percentile(values, share) if values else None

    def percentiles(self, name: str, share: float) -> list[float]:
        """The percentile of each round's samples, round by round."""
        return [percentile(samples, share) for samples in self._samples.get(name, []) if samples]

    def median_percentile(self, name: str, share: float) -> float | None:
        """The median of the rounds' own: one stall of the machine is one round's affair."""
        found = self.percentiles(name, share)
        return median(found) if found else None

    def ratio(self, name: str, floor: str) -> float | None:
        """The median over the rounds of name / floor; each round is compared with itself."""
        pairs = zip(self.values(name), self.values(floor), strict=False)
        ratios = [value / under for value, under in pairs if under]
        return median(ratios) if ratios else None

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the figures' names, in the order in which they came."""
        return [name.removeprefix(prefix) for name in self._values if name.startswith(prefix)]


def number(value: float | None) -> str:
    """Three digits, thousands parted: 12,300, 123, 12.3, 1.23, 0.0123; a dash for None."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def spread(values: Sequence[float]) -> str:
    """From the lowest to the highest round."""
    return f"{number(min(values))} - {number(max(values))}" if values else "-"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it can be read on a terminal; numbers to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    written = [_line(line, widths) for line in lines]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([written[0], _line(rule, widths), *written[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"
