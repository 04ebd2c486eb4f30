"""A vehicle's performance over a window: both registers read, cut to common ground, judged.

Works on many vehicles at once: every round asks the database two questions (one per side) about all
vehicles that are not settled yet. Most settle in the first round, those whose window shrinks in the
second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection

from models import windows
from models.clock import SECOND_US, from_us, to_us
from models.hours import Segment
from models.kinds import METER, VEHICLE, Kind
from models.rollups import Supply
from models.windows import Instant
from workers import charging, energy
from workers.charging import Split
from workers.energy import Piece, Span
from workers.quality import NONE, Quality, bounds, confidence, coverage_pct, skew_seconds
from workers.timeline import Timeline

#: What the API shows: a tenth of a watt-hour, a hundredth of a percent, a hundredth of a degree.
KWH_DIGITS, RATIO_DIGITS, PCT_DIGITS, TEMP_DIGITS = 4, 4, 2, 2
_TWO = 2  # points make a difference


@dataclass(slots=True)
class Side:
    """AC or DC of one vehicle: the registers that served it, one after the other in time."""

    sources: list[tuple[int, Span]]  # (device key, when it served)
    span: Span
    #: What the first look found, of the whole window.
    timelines: list[Timeline] = field(default_factory=list)
    gap_us: float = 0.0
    known: int = 0
    _supports: tuple[Span, list[tuple[Piece, Span]]] | None = None
    conflicts: int = 0

    def segments(self) -> list[tuple[int, Span]]:
        """Each register and the part of the window that it served."""
        parts = [(key, _common(served, self.span)) for key, served in self.sources]
        return [(key, part) for key, part in parts if part.to_us > part.from_us]

    def look(self, timelines: Sequence[Timeline]) -> None:
        """Note what the whole window shows, before anything is cut."""
        self.timelines = list(timelines)
        pieces = self.pieces()
        self.gap_us = max(map(energy.edge_gap_us, pieces), default=0.0)
        # Samples on one side of the window alone tell nothing about it.
        if self.samples or any(piece.before and piece.after for piece in pieces):
            edges = [s for p in pieces for s in (p.before, p.after) if s is not None]
            self.known = self.samples + len(edges)

    def own_kwh(self) -> float | None:
        """kWh over what this side covers of the window, whatever the other side does."""
        if self.known < _TWO:
            return None
        pieces = [timeline.piece(timeline.span) for timeline in self.timelines]
        covered = [(piece, energy.support(piece, self.gap_us)) for piece in pieces]
        return sum(energy.energy(piece, span) for piece, span in covered if span is not None)

    @property
    def samples(self) -> int:
        """How many samples lie in the window."""
        return sum(timeline.samples for timeline in self.timelines)

    @property
    def events(self) -> Counter[str]:
        """How often the registers did something else than rise, by event."""
        return sum((timeline.events for timeline in self.timelines), Counter())

    def serving(self) -> list[tuple[Timeline, Span]]:
        """Each register that serves in the present span, and when."""
        parts = [(t, _common(t.span, self.span)) for t in self.timelines]
        return [(timeline, part) for timeline, part in parts if part.to_us > part.from_us]

    def missing(self) -> list[tuple[Timeline, int]]:
        """Instants around which samples must be looked up before the span can be read."""
        return [
            (timeline, instant)
            for timeline, part in self.serving()
            for instant in (part.from_us - 1, part.to_us)
            if instant not in timeline.around
        ]

    def pieces(self) -> list[Piece]:
        """Each register's part of the present span."""
        return [timeline.piece(part) for timeline, part in self.serving()]

    def supports(self) -> list[tuple[Piece, Span]]:
        """Each register that covers something of the span, with what it covers."""
        if self._supports is None or self._supports[0] != self.span:
            found = [(piece, energy.support(piece, self.gap_us)) for piece in self.pieces()]
            covering = [(piece, span) for piece, span in found if span is not None]
            self._supports = self.span, covering
        return self._supports[1]

    def hole(self) -> str | None:
        """Why energy is missing in the middle of the present span, if it is."""
        served = [span for _, span in self.sources]
        inside = [s for s in served if s.from_us < self.span.to_us and s.to_us > self.span.from_us]
        if any(after.from_us > before.to_us for before, after in pairwise(inside)):
            return "UNASSIGNED"
        return "MISSING_AC" if len(self.supports()) < len(self.serving()) else None

    def energy(self) -> float:
        """kWh over what is covered of the present span."""
        return sum(energy.energy(piece, span) for piece, span in self.supports())

    def doubt_kwh(self) -> float:
        """kWh by which that may be off."""
        cut = sum(energy.doubt_kwh(piece, span) for piece, span in self.supports())
        return cut + sum(timeline.uncertain_kwh for timeline in self.timelines)

    def kwh_at(self, instants: Sequence[int]) -> list[float]:
        """All registers together, unrolled, at instants in the present span."""
        serving = self.serving()
        if len(serving) == 1 and serving[0][1] == self.span:
            return serving[0][0].kwh_at(instants)
        total = [0.0] * len(instants)
        for timeline, part in serving:
            held = [min(max(instant, part.from_us), part.to_us) for instant in instants]
            read = timeline.kwh_at(held)
            total = [sum_ + kwh - read[0] for sum_, kwh in zip(total, read, strict=True)]
        return total

    def gaps(self, window: Span) -> list[Span]:
        """Where the window is not seen by any register of this side."""
        found = [gap for t in self.timelines for gap in t.gaps(self.gap_us)]
        reached_us = window.from_us
        for timeline in self.timelines:
            found.append(Span(reached_us, timeline.span.from_us))
            reached_us = timeline.span.to_us
        return [*found, Span(reached_us, window.to_us)]

    def quality(self, window: Span) -> Quality:
        """How well this side was seen in the window."""
        spacing_us = next((t.spacing_us for t in reversed(self.timelines) if t.spacing_us), None)
        hours = [hour for timeline in self.timelines for hour in timeline.hours]
        events, last_us = self.events, hours[-1].last_us if hours else None
        longest = [t.max_gap_us for t in self.timelines if t.max_gap_us is not None]
        return Quality(
            samples=self.samples,
            expected=round((window.to_us - window.from_us) / spacing_us) if spacing_us else None,
            max_gap_seconds=max(longest) / SECOND_US if longest else None,
            resets=events["RESET"] + events["REBASE"],
            dropped=sum(timeline.dropped for timeline in self.timelines),
            conflicts=self.conflicts,
            last_at=None if last_us is None else from_us(last_us),
            lag_seconds=None if last_us is None else (window.to_us - last_us) / SECOND_US,
            skew_seconds=skew_seconds(hours[-1]) if hours else None,
        )


@dataclass(slots=True)
class Vehicle:
    """A vehicle being judged."""

    supply: Supply
    window: Span
    ac: Side
    dc: Side

    @property
    def span(self) -> Span:
        """What both sides are cut to at present."""
        return self.dc.span

    def cut(self) -> bool:
        """Cut both sides to common ground; whether that changed anything that must be read."""
        ac, dc = self.ac.supports(), self.dc.supports()
        common = Span(self.span.to_us, self.span.to_us)
        if ac and dc:
            begin = max(ac[0][1].from_us, dc[0][1].from_us)
            end = min(ac[-1][1].to_us, dc[-1][1].to_us)
            common = Span(begin, max(begin, end))
        changed = common != self.span
        self.ac.span = self.dc.span = common
        return changed and common.to_us > common.from_us


def summarise(
    conn: Connection, supplies: Sequence[Supply], from_at: datetime, to_at: datetime
) -> list[dict[str, Any]]:
    """Rows for `vehicle_performance_24h`, without `data_complete_through` and `computed_at`.

    Shapes: `supplies` sorted by vehicle and time; one row per vehicle, in that order.
    """
    window = Span(to_us(from_at), to_us(to_at))
    by_vehicle = groupby(supplies, key=attrgetter("vehicle_key"))
    return _judge(conn, [_vehicle(list(group), window) for _, group in by_vehicle])


def over_windows(
    conn: Connection, supplies: Sequence[Supply], spans: Sequence[tuple[datetime, datetime]]
) -> list[dict[str, Any]]:
    """Rows as of `summarise` for one vehicle over several windows, all read together.

    `supplies` are the vehicle's over all of the windows.
    """
    windows_us = [Span(to_us(from_at), to_us(to_at)) for from_at, to_at in spans]
    return _judge(conn, [_vehicle(supplies, window) for window in windows_us])


def charging_steps(
    conn: Connection, supplies: Sequence[Supply], span: tuple[datetime, datetime]
) -> list[charging.Step]:
    """One vehicle's steps over the part of a window that both sides cover; none without one."""
    vehicle = _vehicle(supplies, Span(to_us(span[0]), to_us(span[1])))
    _settle(conn, [vehicle])
    return [] if _reason_without_judgement(vehicle) else _steps(vehicle)


def _judge(conn: Connection, vehicles: Sequence[Vehicle]) -> list[dict[str, Any]]:
    _settle(conn, vehicles)
    return [_row(vehicle) for vehicle in vehicles]


def _settle(conn: Connection, vehicles: Sequence[Vehicle]) -> None:
    """Read both sides of each vehicle, and cut them to common ground."""
    _look(conn, METER, [v.ac for v in vehicles])
    _look(conn, VEHICLE, [v.dc for v in vehicles])
    open_ones = [v for v in vehicles if v.ac.known > 1 and v.dc.known > 1]
    while open_ones := [v for v in open_ones if v.cut()]:
        _look_around(conn, METER, [v.ac for v in open_ones])
        _look_around(conn, VEHICLE, [v.dc for v in open_ones])


def _vehicle(supplies: Sequence[Supply], window: Span) -> Vehicle:
    served = [(s, Span(to_us(s.from_at), to_us(s.to_at))) for s in supplies]
    meters = [
        (s, span)
        for s, span in served
        if span.from_us < window.to_us and span.to_us > window.from_us
    ]
    sources = [(s.meter_key, span) for s, span in meters if s.meter_key is not None]
    last = meters[-1][0] if meters else supplies[-1]._replace(meter_id=None)
    return Vehicle(last, window, Side(sources, window), Side([(last.vehicle_key, window)], window))


def _look(conn: Connection, kind: Kind, sides: Sequence[Side]) -> None:
    """Read the window of each side, all sides together."""
    parts = [side.segments() for side in sides]
    segments = [Segment(key, from_us(a), from_us(b)) for part in parts for key, (a, b) in part]
    seen = iter(windows.read(conn, kind, segments))
    conflicts = iter(windows.conflicts(conn, kind, segments))
    for side, part in zip(sides, parts, strict=True):
        side.look([Timeline(key, span, next(seen)) for key, span in part])
        side.conflicts = sum(next(conflicts) for _ in part)


def _look_around(conn: Connection, kind: Kind, sides: Sequence[Side]) -> None:
    """Read what lies around the ends of each side's present span, where that is not known yet."""
    missing = [one for side in sides for one in side.missing()]
    instants = [Instant(timeline.device_key, from_us(at)) for timeline, at in missing]
    found = windows.brackets(conn, kind, instants)
    for (timeline, at), bracket in zip(missing, found, strict=True):
        timeline.around[at] = bracket


def _common(a: Span, b: Span) -> Span:
    return Span(max(a.from_us, b.from_us), min(a.to_us, b.to_us))


def _reason_without_judgement(vehicle: Vehicle) -> str | None:
    """Why the two energies can't be compared at all; None when they can."""
    ac, dc = vehicle.ac.known, vehicle.dc.known
    if vehicle.supply.meter_id is None:
        return "UNASSIGNED"
    if not ac and not dc:
        return "NO_DATA"
    if not ac:
        return "MISSING_AC"
    if not dc:
        return "MISSING_DC"
    if min(ac, dc) < _TWO:
        return "INSUFFICIENT_SAMPLES"
    covered = vehicle.span.to_us > vehicle.span.from_us
    return vehicle.ac.hole() if covered else "NO_OVERLAP"


def _row(vehicle: Vehicle) -> dict[str, Any]:
    reason = _reason_without_judgement(vehicle)
    window, ac, dc = vehicle.window, vehicle.ac, vehicle.dc
    covered_pct = rounded(coverage_pct(window, ac.gaps(window) + dc.gaps(window)), PCT_DIGITS)
    row = {
        "vehicle_key": vehicle.supply.vehicle_key,
        "fleet_id": vehicle.supply.fleet_id,
        "vehicle_id": vehicle.supply.vehicle_id,
        "meter_id": vehicle.supply.meter_id,
        "window_from": from_us(window.from_us),
        "window_to": from_us(window.to_us),
        **_battery(dc),
        "ac_samples": ac.samples,
        "dc_samples": dc.samples,
        "ac_events": ac.events,
        "dc_events": dc.events,
        "ac_quality": msgspec.to_builtins(ac.quality(window), builtin_types=(datetime,)),
        "dc_quality": msgspec.to_builtins(dc.quality(window), builtin_types=(datetime,)),
        "coverage_pct": covered_pct,
    }
    if reason is not None:
        # Without a meter's figure, what the battery took cannot be laid at any meter's door.
        own = {"ac_kwh": ac.own_kwh(), "dc_kwh": dc.own_kwh() if ac.known else None}
        return row | _NOTHING | _rounded_all(own, KWH_DIGITS) | {"reason": reason}
    return row | _compared(vehicle, covered_pct)


#: What is known of two sides that cannot be compared.
_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        "effective_from",
        "effective_to",
        "efficiency",
        "efficiency_low",
        "efficiency_high",
        "raw_ratio",
        *Split._fields,
    )
) | {"confidence": NONE}


def _compared(vehicle: Vehicle, covered_pct: float) -> dict[str, Any]:
    """The efficiency of two sides that share some time, and where the loss sits."""
    ac, dc, span = vehicle.ac, vehicle.dc, vehicle.span
    ac_kwh, dc_kwh = ac.energy(), dc.energy()
    verdict = energy.judge(ac_kwh, dc_kwh)
    low: float | None = None
    high: float | None = None
    if verdict.efficiency is not None:
        low, high = bounds(ac_kwh, dc_kwh, ac.doubt_kwh(), dc.doubt_kwh())
    split = charging.split(_steps(vehicle))
    length, whole = span.to_us - span.from_us, vehicle.window.to_us - vehicle.window.from_us
    ratios = {
        "efficiency": verdict.efficiency,
        "efficiency_low": low,
        "efficiency_high": high,
        "raw_ratio": verdict.raw_ratio,
    }
    return {
        "effective_from": from_us(span.from_us),
        "effective_to": from_us(span.to_us),
        "reason": verdict.reason,
        "confidence": confidence(
            verdict.efficiency,
            bounds=(low, high),
            support_pct=100 * length / whole,
            coverage_pct=covered_pct,
            ac_kwh=ac_kwh,
            events={*ac.events, *dc.events},
        ),
        **_rounded_all({"ac_kwh": ac_kwh, "dc_kwh": dc_kwh}, KWH_DIGITS),
        **_rounded_all(ratios, RATIO_DIGITS),
        **_rounded_all(split._asdict(), KWH_DIGITS),
        "charging_sessions": split.charging_sessions,
    }


def _steps(vehicle: Vehicle) -> list[charging.Step]:
    moving = [s for t in vehicle.dc.timelines for s in t.moving(charging.STILL_KWH)]
    instants = charging.borders(vehicle.span, moving)
    ac_kwh, dc_kwh = vehicle.ac.kwh_at(instants), vehicle.dc.kwh_at(instants)
    return charging.steps(instants, ac_kwh, dc_kwh)


def _battery(side: Side) -> dict[str, float | None]:
    hours = [hour for timeline in side.timelines for hour in timeline.hours]
    warm = [hour.temperatures for hour in hours if hour.temperatures]
    total_c = sum(t.sum_c for t in warm)
    return {
        "battery_temp_avg_c": rounded(total_c / side.samples, TEMP_DIGITS) if warm else None,
        "battery_temp_min_c": min((t.min_c for t in warm), default=None),
        "battery_temp_max_c": max((t.max_c for t in warm), default=None),
        "soc_first_pct": hours[0].soc_first_pct if hours else None,
        "soc_last_pct": hours[-1].soc_last_pct if hours else None,
    }


def _rounded_all(values: Mapping[str, float | None], digits: int) -> dict[str, float | None]:
    return {name: _rounded(value, digits) for name, value in values.items()}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else rounded(value, digits)


def rounded(value: float, digits: int) -> float:
    """As `round`, by a rule that whole columns can follow: half to even of the scaled value."""
    scale = 10.0**digits
    return float(round(value * scale) / scale)


@dataclass(frozen=True, slots=True)
class RegisterEnergy:
    """One register's energy on the part of a window that it covers; None where nothing is known."""

    energy_kwh: float | None
    effective_from: datetime | None
    effective_to: datetime | None
    samples: int
    events: dict[str, int]


def register_energy(
    conn: Connection, kind: Kind, device_key: int, from_at: datetime, to_at: datetime
) -> RegisterEnergy:
    """One register's energy over a window; its edges are read between samples."""
    window = Span(to_us(from_at), to_us(to_at))
    side = Side([(device_key, window)], window)
    _look(conn, kind, [side])
    covered = [span for _, span in side.supports()]
    own_kwh = side.own_kwh()
    if own_kwh is None or not covered:
        return RegisterEnergy(None, None, None, side.samples, side.events)
    return RegisterEnergy(
        _rounded(own_kwh, KWH_DIGITS),
        from_us(covered[0].from_us),
        from_us(covered[-1].to_us),
        side.samples,
        side.events,
    )
