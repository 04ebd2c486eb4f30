"""The summary of many steady vehicles at once: the columns of `vehicle_performance_24h`.

The rules are those of workers/energy.py (`judge`), quality.py and charging.py, written for columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.clock import HOUR_US, SECOND_US, from_us
from workers import quality
from workers.charging import PAUSE_US, US_PER_UWH, UWH_PER_KWH
from workers.energy import MAX_RATIO, MIN_ENERGY_KWH, NOISE_KWH, UNIT_RATIOS, Span
from workers.performance import KWH_DIGITS, PCT_DIGITS, RATIO_DIGITS, TEMP_DIGITS
from workers.quality import Quality
from workers.steady.registers import BORDER_US, HOURS
from workers.steady.window import Cut, Look, border_numbers, cut, steps_uwh

Array = npt.NDArray[Any]
Columns = dict[str, Any]


def summarise(ac: Look, dc: Look) -> tuple[Array, Columns]:
    """(which vehicles these are the numbers of, columns by name); of the others nothing is said.

    `ac` and `dc` are the two sides of the same vehicles in the same window.
    """
    window = ac.span
    end_us = np.minimum(ac.last_us, dc.last_us)
    ac_cut, dc_cut = cut(ac, end_us), cut(dc, end_us)
    ac_uwh, ac_known = steps_uwh(ac, ac_cut, end_us)
    dc_uwh, dc_known = steps_uwh(dc, dc_cut, end_us)
    fits = ac.fits & dc.fits & ac_cut.fits & dc_cut.fits & ac_known & dc_known
    fits &= end_us > window.from_us
    whole_us = window.to_us - window.from_us
    covered_pct = rounded(100 * (1 - (window.to_us - end_us) / whole_us), PCT_DIGITS)
    return fits, {
        "effective_from": np.full(len(end_us), window.from_us),
        "effective_to": end_us,
        "coverage_pct": covered_pct,
        "ac_samples": ac.samples,
        "dc_samples": dc.samples,
        "ac_quality": _quality(ac),
        "dc_quality": _quality(dc),
        **_battery(dc),
        **_efficiency(ac_cut, dc_cut, 100 * (end_us - window.from_us) / whole_us, covered_pct),
        **_split(window, end_us, ac_uwh, dc_uwh),
    }


def joined(parts: Iterable[tuple[Array, Columns]]) -> tuple[Array, Columns]:
    """What `summarise` says of several groups of vehicles, as of one."""
    fits, columns = zip(*parts, strict=True)
    together = {name: _joined([found[name] for found in columns]) for name in columns[0]}
    return np.concatenate(fits), together


def _joined(values: Sequence[Any]) -> Any:
    return np.concatenate(values) if isinstance(values[0], np.ndarray) else [*chain(*values)]


def rounded(values: Array, digits: int) -> Array:
    """As workers/performance.py rounds."""
    scale = 10.0**digits
    found: Array = np.rint(values * scale) / scale
    return found


def _efficiency(ac: Cut, dc: Cut, support_pct: Array, covered_pct: Array) -> Columns:
    """The energies and their ratio, how sure that is, or why there is none."""
    ac_kwh, dc_kwh = ac.energy_kwh, dc.energy_kwh
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.where(ac_kwh > 0, dc_kwh / ac_kwh, np.nan)
        least_ac_kwh = ac_kwh - ac.doubt_kwh
        low = (dc_kwh - dc.doubt_kwh) / (ac_kwh + ac.doubt_kwh)
        high = np.where(least_ac_kwh > 0, (dc_kwh + dc.doubt_kwh) / least_ac_kwh, np.nan)
    little = ac_kwh < MIN_ENERGY_KWH - NOISE_KWH
    conditions = {
        "DC_WITHOUT_AC": little & (dc_kwh >= MIN_ENERGY_KWH - NOISE_KWH),
        "INSUFFICIENT_ENERGY": little,
        "UNIT_MISMATCH": (dc_kwh > 0) & ((raw < UNIT_RATIOS[0]) | (raw > UNIT_RATIOS[1])),
        "DC_EXCEEDS_AC": raw > MAX_RATIO + NOISE_KWH,
    }
    reason = np.select(list(conditions.values()), list(conditions), "")
    known = reason == ""
    efficiency, low, high = (np.where(known, value, np.nan) for value in (raw, low, high))
    return {
        "reason": [name or None for name in reason.tolist()],
        "confidence": _confidence(efficiency, (low, high), support_pct, covered_pct, ac_kwh),
        "ac_kwh": rounded(ac_kwh, KWH_DIGITS),
        "dc_kwh": rounded(dc_kwh, KWH_DIGITS),
        "efficiency": rounded(efficiency, RATIO_DIGITS),
        "efficiency_low": rounded(low, RATIO_DIGITS),
        "efficiency_high": rounded(high, RATIO_DIGITS),
        "raw_ratio": rounded(raw, RATIO_DIGITS),
    }


def _confidence(
    efficiency: Array,
    bounds: tuple[Array, Array],
    support_pct: Array,
    coverage_pct: Array,
    ac_kwh: Array,
) -> list[str]:
    degrees = {
        degree: (support_pct >= demand.support_pct)
        & (ac_kwh >= demand.ac_kwh - NOISE_KWH)
        & (bounds[1] - bounds[0] <= demand.width + NOISE_KWH)
        & (coverage_pct >= demand.coverage_pct)
        for degree, demand in quality.DEMANDS.items()
    }
    conditions = {
        quality.NONE: np.isnan(efficiency),
        quality.LOW: (efficiency > 1) | np.isnan(bounds[1]),
    } | degrees
    found: list[str] = np.select(list(conditions.values()), list(conditions), quality.LOW).tolist()
    return found


def _split(window: Span, end_us: Array, ac_uwh: Array, dc_uwh: Array) -> Columns:
    """Charging and idling, by steps."""
    instants = np.concatenate(
        [[window.from_us], border_numbers(window) * BORDER_US, [window.to_us]]
    )
    ends_us = np.minimum(instants[None, 1:], end_us[:, None])
    begins_us = np.minimum(instants[None, :-1], end_us[:, None])
    length_us = ends_us - begins_us
    charging = dc_uwh * US_PER_UWH > length_us
    # The end of the last charging step before each step; long ago where there is none.
    ended_us = np.maximum.accumulate(np.where(charging, ends_us, -PAUSE_US), axis=1)
    pause_us = begins_us[:, 1:] - ended_us[:, :-1]
    sessions = charging[:, 0] + (charging[:, 1:] & (pause_us >= PAUSE_US)).sum(axis=1)

    def energy_kwh(uwh: Array, where: Array) -> Array:
        return rounded(np.where(where, uwh, 0).sum(axis=1) / UWH_PER_KWH, KWH_DIGITS)

    def hours(where: Array) -> Array:
        return rounded(np.where(where, length_us, 0).sum(axis=1) / HOUR_US, KWH_DIGITS)

    return {
        "charging_ac_kwh": energy_kwh(ac_uwh, charging),
        "charging_dc_kwh": energy_kwh(dc_uwh, charging),
        "charging_hours": hours(charging),
        "charging_sessions": sessions,
        "idle_ac_kwh": energy_kwh(ac_uwh, ~charging),
        "idle_hours": hours(~charging),
    }


def _battery(dc: Look) -> Columns:
    raw = np.where(dc.inside, dc.at("raw_temp_c"), 0.0)
    cut_sum = np.cumsum(raw, axis=1)[:, -1]  # one after the other, as SQL adds
    sums = np.concatenate([cut_sum[:, None], dc.hours("temp_sum_c", 0.0)], axis=1)
    total_c = np.cumsum(sums, axis=1)[:, -1]
    cold = np.where(dc.inside, dc.at("raw_temp_c"), np.inf).min(axis=1)
    warm = np.where(dc.inside, dc.at("raw_temp_c"), -np.inf).max(axis=1)
    some = dc.inside.any(axis=1)
    first = np.argmax(dc.inside, axis=1)
    row, newest = np.arange(len(first)), dc.at("newest_hour") % HOURS
    soc = np.where(some, dc.at("raw_soc_pct")[row, first], dc.hours("soc_first_pct", np.nan)[:, 0])
    return {
        "battery_temp_avg_c": rounded(total_c / np.maximum(dc.samples, 1), TEMP_DIGITS),
        "battery_temp_min_c": np.minimum(cold, dc.hours("temp_min_c", np.inf).min(axis=1)),
        "battery_temp_max_c": np.maximum(warm, dc.hours("temp_max_c", -np.inf).max(axis=1)),
        "soc_first_pct": soc,
        "soc_last_pct": dc.registers["soc_last_pct"][dc.slots, newest],
    }


def _quality(side: Look) -> list[str]:
    """`Quality` of each vehicle's side, as JSON."""
    length_us = side.span.to_us - side.span.from_us
    expected = np.rint(length_us / np.maximum(side.spacing_us, 1)).astype(np.int64)
    newest = side.at("newest_hour") % HOURS
    quickest, slowest = (side.registers[n][side.slots, newest] for n in ("lag_min_s", "lag_max_s"))
    live = side.registers["samples"][side.slots, newest] >= quality.LIVE_SAMPLES
    live &= slowest - quickest <= quality.LIVE_SPREAD_SECONDS
    encode = msgspec.json.Encoder().encode
    return [
        encode(
            Quality(
                samples,
                expected_,
                gap_s,
                0,
                0,
                refused,
                from_us(last),
                lag,
                skew if live_ else None,
            )
        ).decode()
        for samples, expected_, gap_s, refused, last, lag, skew, live_ in zip(
            side.samples.tolist(),
            expected.tolist(),
            (side.max_gap_us / SECOND_US).tolist(),
            side.conflicts.tolist(),
            side.last_us.tolist(),
            ((side.span.to_us - side.last_us) / SECOND_US).tolist(),
            rounded(quickest, 1).tolist(),
            live.tolist(),
            strict=True,
        )
    ]
