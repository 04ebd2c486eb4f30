"""A vehicle's performance over a window: both registers read, cut to common ground, judged.

Works on many vehicles at once: every round asks the database two questions (one per side) about all
vehicles that are not settled yet. Most settle in the first round, those whose window shrinks in the
second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection

from models import events, windows
from models.clock import SECOND_US, from_us, to_us
from models.kinds import METER, VEHICLE, Kind
from models.ratings import RESOLUTION_KWH
from models.rollups import Supply
from models.windows import Register, Segment, Temperatures
from workers import energy
from workers.energy import Piece, Sample, Span, Verdict

#: What the API shows: a tenth of a watt-hour, a hundredth of a percent, a hundredth of a degree.
KWH_DIGITS, RATIO_DIGITS, TEMP_DIGITS = 4, 4, 2


@dataclass(slots=True)
class Side:
    """AC or DC of one vehicle: the registers that served it, one after the other in time."""

    sources: list[tuple[int, Span]]  # (device key, when it served)
    span: Span
    pieces: list[Piece] = field(default_factory=list)
    # Of the whole window, as the first round saw it:
    gap_us: float = 0.0
    samples: int = 0
    events: Counter[str] = field(default_factory=Counter)
    known: int = 0
    own_kwh: float | None = None
    temperatures: Temperatures | None = None

    def segments(self) -> list[Segment]:
        """What to read: each register over the part of the present span that it served."""
        parts = [
            (key, max(served.from_us, self.span.from_us), min(served.to_us, self.span.to_us))
            for key, served in self.sources
        ]
        return [Segment(key, from_us(a), from_us(b)) for key, a, b in parts if b > a]

    def look(self, registers: Sequence[Register]) -> None:
        """Note what the whole window shows, before anything is cut."""
        self.gap_us = max(map(energy.edge_gap_us, self.pieces), default=0.0)
        self.samples = sum(piece.samples for piece in self.pieces)
        # Samples on one side of the window alone tell nothing about it.
        if self.samples or any(piece.before and piece.after for piece in self.pieces):
            edges = [s for p in self.pieces for s in (p.before, p.after) if s is not None]
            self.known = self.samples + len(edges)
        self.own_kwh = self.energy() if self.known > 1 else None
        self.temperatures = next((r.temperatures for r in registers), None)

    def supports(self) -> list[tuple[Piece, Span]]:
        """Each register that covers something of the span, with what it covers."""
        found = [(piece, energy.support(piece, self.gap_us)) for piece in self.pieces]
        return [(piece, span) for piece, span in found if span is not None]

    def hole(self) -> str | None:
        """Why energy is missing in the middle of the present span, if it is."""
        served = [span for _, span in self.sources]
        inside = [s for s in served if s.from_us < self.span.to_us and s.to_us > self.span.from_us]
        if any(after.from_us > before.to_us for before, after in pairwise(inside)):
            return "UNASSIGNED"
        return "MISSING_AC" if len(self.supports()) < len(self.pieces) else None

    def energy(self) -> float:
        """kWh over what is covered of the present span."""
        return sum(energy.energy(piece, span) for piece, span in self.supports())


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


def _judge(conn: Connection, vehicles: Sequence[Vehicle]) -> list[dict[str, Any]]:
    _read(conn, METER, [v.ac for v in vehicles], first_look=True)
    _read(conn, VEHICLE, [v.dc for v in vehicles], first_look=True)
    open_ones = [v for v in vehicles if v.ac.known > 1 and v.dc.known > 1]
    while open_ones := [v for v in open_ones if v.cut()]:
        _read(conn, METER, [v.ac for v in open_ones])
        _read(conn, VEHICLE, [v.dc for v in open_ones])
    return [_row(vehicle) for vehicle in vehicles]


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


def _read(conn: Connection, kind: Kind, sides: Sequence[Side], *, first_look: bool = False) -> None:
    """Read the present span of each side, all sides in one query."""
    parts = [side.segments() for side in sides]
    registers = iter(windows.read_registers(conn, kind, [s for part in parts for s in part]))
    for side, part in zip(sides, parts, strict=True):
        found = [next(registers) for _ in part]
        side.pieces = [_piece(s, r) for s, r in zip(part, found, strict=True)]
        if first_look:
            side.look(found)
    if first_look:
        _count_events(conn, kind, sides, parts)


def _count_events(
    conn: Connection, kind: Kind, sides: Sequence[Side], parts: Sequence[Sequence[Segment]]
) -> None:
    counts = iter(events.count(conn, kind, [s for part in parts for s in part]))
    for side, part in zip(sides, parts, strict=True):
        for _ in part:
            side.events.update(next(counts))


def _piece(segment: Segment, r: Register) -> Piece:
    return Piece(
        to_us(segment.from_at),
        to_us(segment.to_at),
        before=_sample(r.before_at, r.before_kwh),
        after=_sample(r.after_at, r.after_kwh),
        first=_sample(r.first_at, r.first_kwh),
        last=_sample(r.last_at, r.last_kwh),
        energy_kwh=r.energy_kwh or 0.0,
        samples=r.samples or 0,
        entry_kwh=r.entry_kwh or 0.0,
        exit_kwh=r.exit_kwh or 0.0,
        spacing_us=_us(r.spacing_seconds),
        set_gap_us=_us(r.edge_gap_seconds),
        resolution_kwh=RESOLUTION_KWH if r.resolution_kwh is None else r.resolution_kwh,
    )


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * SECOND_US


def _sample(at: datetime | None, kwh: float | None) -> Sample | None:
    return None if at is None or kwh is None else Sample(to_us(at), kwh)


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
    if min(ac, dc) < 2:  # noqa: PLR2004  (two points make a difference)
        return "INSUFFICIENT_SAMPLES"
    covered = vehicle.span.to_us > vehicle.span.from_us
    return vehicle.ac.hole() if covered else "NO_OVERLAP"


def _row(vehicle: Vehicle) -> dict[str, Any]:
    reason = _reason_without_judgement(vehicle)
    ac_kwh, span = vehicle.ac.own_kwh, None
    # Without a meter's figure, what the battery took cannot be laid at any meter's door.
    dc_kwh = vehicle.dc.own_kwh if vehicle.ac.known else None
    verdict = Verdict(None, None, reason)
    if reason is None:
        ac_kwh, dc_kwh, span = vehicle.ac.energy(), vehicle.dc.energy(), vehicle.span
        verdict = energy.judge(ac_kwh, dc_kwh)
    return {
        "vehicle_key": vehicle.supply.vehicle_key,
        "fleet_id": vehicle.supply.fleet_id,
        "vehicle_id": vehicle.supply.vehicle_id,
        "meter_id": vehicle.supply.meter_id,
        "window_from": from_us(vehicle.window.from_us),
        "window_to": from_us(vehicle.window.to_us),
        "effective_from": from_us(span.from_us) if span else None,
        "effective_to": from_us(span.to_us) if span else None,
        "ac_kwh": _rounded(ac_kwh, KWH_DIGITS),
        "dc_kwh": _rounded(dc_kwh, KWH_DIGITS),
        "efficiency": _rounded(verdict.efficiency, RATIO_DIGITS),
        "raw_ratio": _rounded(verdict.raw_ratio, RATIO_DIGITS),
        "reason": verdict.reason,
        **_battery(vehicle.dc),
        "ac_samples": vehicle.ac.samples,
        "dc_samples": vehicle.dc.samples,
        "ac_events": vehicle.ac.events,
        "dc_events": vehicle.dc.events,
    }


def _battery(side: Side) -> dict[str, float | None]:
    t = side.temperatures
    return {
        "battery_temp_avg_c": _rounded(t.sum_c / side.samples, TEMP_DIGITS) if t else None,
        "battery_temp_min_c": t.min_c if t else None,
        "battery_temp_max_c": t.max_c if t else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


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
    _read(conn, kind, [side], first_look=True)
    covered = [span for _, span in side.supports()]
    if side.own_kwh is None or not covered:
        return RegisterEnergy(None, None, None, side.samples, side.events)
    return RegisterEnergy(
        _rounded(side.own_kwh, KWH_DIGITS),
        from_us(covered[0].from_us),
        from_us(covered[-1].to_us),
        side.samples,
        side.events,
    )
