"""The shape of real charging sessions, as small tables: power, energy and hour of arrival.

Sources, both MIT licensed; only the aggregates below are kept, no session is reproduced:

* AC: "ROBUST-NL paused EV charging", ev_sample_data.csv, 100 Dutch sessions of 2022.
  Copyright (c) 2024 Nico Brinkel et al. (ROBUST-NL/paused_ev_charging on GitHub).
* DC fast: "Level 3 EV charging dataset", Session_data, 1,878 CCS sessions.
  Copyright (c) 2025 DESL, EPFL (DESL-EPFL/Level-3-EV-charging-dataset on GitHub).

The MIT licence: permission is granted, free of charge, to any person obtaining a copy, to deal in
the data without restriction, provided that the copyright notices above and this permission notice
are included in all copies or substantial portions. It is provided "as is", without warranty.

How the tables were derived (tests/unit/test_seed_sessions_data.py does it again from the CSV files
where they are at hand):

1. Sessions are put into classes by their peak power, because energy and peak power belong
   together: a car on a socket cannot take 60 kWh over night. Bounds: 5 and 8 kW (AC: socket, one
   phase, three phases), 75 and 120 kW (DC).
2. Per class, peak power and energy become a ladder of 11 rungs: percentiles 1, 10, 20 ... 90, 99
   (`statistics.quantiles`, n=100, inclusive), rounded to 0.1. The ends are p1 and p99 and not
   minimum and maximum: one 269 kWh truck would otherwise stretch the top tenth of all draws.
3. `mean_of_peak` of a DC class is the median of energy / stay / peak power, rounded to 0.01. It
   says how strongly the power tapers. An AC session holds its power: 1.
4. Arrivals are counted by local hour of the clock.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

#: Rising values at LADDER_PERCENTILES.
Ladder = tuple[float, ...]

#: Rungs of a ladder, as percentiles.
LADDER_PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


@dataclass(frozen=True, slots=True)
class SessionShape:
    """One class of charging sessions."""

    name: str
    #: Sessions of the source in this class.
    sessions: int
    #: Mean power over peak power, 0..1.
    mean_of_peak: float
    peak_kw: Ladder
    energy_kwh: Ladder
    #: Arrivals per hour of the day, of the class's whole source.
    arrivals: tuple[int, ...]


AC_ARRIVALS = (2, 0, 0, 1, 0, 0, 0, 2, 4, 1, 2, 2, 4, 6, 3, 8, 10, 11, 8, 14, 6, 4, 6, 6)
DC_ARRIVALS = (
    *(12, 16, 7, 5, 4, 13, 30, 35, 65, 105, 99, 141),
    *(133, 124, 128, 153, 145, 149, 156, 114, 79, 90, 48, 27),
)

AC_SHAPES = (
    SessionShape(
        name="AC socket",
        sessions=26,
        mean_of_peak=1.0,
        peak_kw=(2.3, 3.2, 3.3, 3.5, 3.5, 3.5, 3.6, 3.7, 3.7, 3.8, 4.2),
        energy_kwh=(0.6, 3.4, 4.5, 5.2, 6.2, 7.8, 8.1, 10.2, 11.9, 19.4, 24.1),
        arrivals=AC_ARRIVALS,
    ),
    SessionShape(
        name="AC one phase",
        sessions=17,
        mean_of_peak=1.0,
        peak_kw=(5.4, 5.7, 5.9, 6.1, 6.3, 6.7, 6.8, 7.2, 7.2, 7.3, 7.5),
        energy_kwh=(2.3, 7.6, 10.7, 12.7, 23.3, 28.8, 30.1, 30.8, 35.2, 40.4, 58.6),
        arrivals=AC_ARRIVALS,
    ),
    SessionShape(
        name="AC three phases",
        sessions=57,
        mean_of_peak=1.0,
        peak_kw=(8.3, 10.3, 10.4, 10.7, 10.9, 11.0, 11.1, 11.3, 11.4, 12.2, 17.3),
        energy_kwh=(4.6, 11.1, 18.8, 24.1, 28.4, 32.6, 36.2, 41.1, 48.7, 51.6, 73.1),
        arrivals=AC_ARRIVALS,
    ),
)

DC_SHAPES = (
    SessionShape(
        name="DC up to 75 kW",
        sessions=623,
        mean_of_peak=0.68,
        peak_kw=(22.3, 37.5, 47.5, 51.6, 54.6, 56.4, 60.8, 63.6, 66.6, 70.2, 74.7),
        energy_kwh=(2.8, 7.2, 10.6, 12.6, 15.2, 17.3, 20.7, 23.8, 27.0, 33.2, 48.0),
        arrivals=DC_ARRIVALS,
    ),
    SessionShape(
        name="DC 75 to 120 kW",
        sessions=578,
        mean_of_peak=0.64,
        peak_kw=(75.2, 79.0, 84.1, 87.2, 92.6, 95.6, 99.7, 104.4, 109.6, 114.0, 119.0),
        energy_kwh=(5.0, 14.1, 19.3, 23.6, 27.6, 31.4, 35.6, 39.4, 43.5, 49.6, 62.7),
        arrivals=DC_ARRIVALS,
    ),
    SessionShape(
        name="DC above 120 kW",
        sessions=677,
        mean_of_peak=0.59,
        peak_kw=(120.4, 128.5, 137.4, 144.7, 149.9, 155.5, 157.6, 159.7, 162.6, 168.2, 173.2),
        energy_kwh=(9.6, 21.9, 28.1, 34.1, 38.9, 43.2, 47.8, 52.2, 57.1, 63.0, 106.2),
        arrivals=DC_ARRIVALS,
    ),
)


def on_ladder(ladder: Ladder, share: float) -> float:
    """The value below which `share` (0..1) of the sessions lie, linear between the rungs."""
    place = share * (len(ladder) - 1)
    rung = min(int(place), len(ladder) - 2)
    return ladder[rung] + (ladder[rung + 1] - ladder[rung]) * (place - rung)


def arrival_minute(shape: SessionShape, share: float) -> int:
    """The minute of the day before which `share` (0..1) of the cars have arrived."""
    before = list(accumulate(shape.arrivals, initial=0))
    count = share * before[-1]
    hour = min(bisect_right(before, count) - 1, len(shape.arrivals) - 1)
    return int(60 * (hour + (count - before[hour]) / shape.arrivals[hour]))
