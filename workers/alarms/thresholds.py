"""The numbers of the rules, in one place. Each can be overridden for a replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

#: Efficiencies are fractions; the rules speak of points (pt): hundredths of the AC energy.
PT = 0.01
#: Sums of decimals in binary: two numbers closer than this are the same number.
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What the rules compare with. The defaults come from measured cars and a simulated fleet."""

    # --- what counts as an evaluation ---
    #: Overhead per session costs 9 pt of 1 kWh, but only 1.8 pt of 5 kWh.
    min_evaluation_kwh: float = 5.0
    min_hours_between: float = 6.0

    # --- A1 EFFICIENCY_LOW: by mean AC power, since the electronics weigh more at low power ---
    floor: float = 0.85
    floor_medium_power: float = 0.80
    floor_low_power: float = 0.72
    high_power_kw: float = 5.0
    low_power_kw: float = 3.0
    low_evaluations: int = 2
    low_clear_evaluations: int = 2
    deadband_pts: float = 2.0

    # --- A2 EFFICIENCY_DROP: against the vehicle's own median ---
    drop_pts: float = 5.0
    drop_clear_pts: float = 3.0
    drop_evaluations: int = 2
    baseline_evaluations: int = 30
    baseline_min: int = 14
    baseline_lag: int = 3

    # --- A3 EFFICIENCY_SHIFT: CUSUM over normalised residuals ---
    cusum_k: float = 1.0
    cusum_h: float = 8.0
    z_clip: float = 4.0
    sigma_floor_pts: float = 1.0
    shift_clear_z: float = -1.0
    shift_clear_evaluations: int = 2
    fit_min: int = 20
    fit_max: int = 120
    fit_lag: int = 14
    refit_every: int = 15

    # --- A4 IDLE_DRAW ---
    idle_watts: float = 100.0
    idle_clear_watts: float = 70.0
    idle_critical_watts: float = 300.0
    idle_min_hours: float = 6.0
    idle_days: int = 2

    # --- A5 DC_EXCEEDS_AC, A6 AC_WITHOUT_DC, A7 DC_WITHOUT_AC, A9 COUNTER_EVENT ---
    max_ratio: float = 1.02
    ratio_min_kwh: float = 2.0
    one_sided_kwh: float = 2.0
    one_sided_other_kwh: float = 0.1
    dc_without_ac_days: int = 2
    dc_without_ac_within_days: int = 7
    counter_events_per_day: int = 3

    # --- severity ---
    critical_pts: float = 10.0

    # --- A8 STREAM_STALE, A10 CLOCK_SKEW: on the present state, not on evaluations ---
    stale_min_seconds: float = 900.0
    stale_intervals: float = 10.0
    stale_on_seconds: float = 900.0
    stale_off_seconds: float = 300.0
    skew_seconds: float = 120.0
    skew_clear_seconds: float = 60.0
    skew_on_seconds: float = 1800.0
    skew_off_seconds: float = 0.0

    def floor_at(self, power_kw: float | None) -> float:
        """The efficiency below which a vehicle charging at this mean AC power is too low.

        Without a known power the lowest floor holds: nobody is accused on a guess.
        """
        if power_kw is None or power_kw < self.low_power_kw:
            return self.floor_low_power
        return self.floor if power_kw >= self.high_power_kw else self.floor_medium_power

    def class_at(self, power_kw: float) -> str:
        """The class of this mean AC power, as `floor_at` tells them apart."""
        low, high = f"{self.low_power_kw:g}", f"{self.high_power_kw:g}"
        if power_kw < self.low_power_kw:
            return f"<{low}kW"
        return f">={high}kW" if power_kw >= self.high_power_kw else f"{low}-{high}kW"

    def changed(self, *, floor: float | None = None, **others: Any) -> Thresholds:
        """With other numbers; a floor moves those of lower powers by as many points."""
        if floor is not None:
            by = floor - self.floor
            others |= {
                "floor": floor,
                "floor_medium_power": max(0.0, self.floor_medium_power + by),
                "floor_low_power": max(0.0, self.floor_low_power + by),
            }
        return replace(self, **others)


DEFAULTS = Thresholds()
