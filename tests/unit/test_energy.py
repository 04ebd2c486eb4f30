"""The energy arithmetic against numbers worked out by hand.

S03, S13 and so on are the cases of the domain's reference, which the summary meets as well
(tests/integration/test_rollup.py).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ratings import Rating
from workers import energy, register
from workers.energy import Piece, Sample, Span, judge, support

SECOND, HOUR = 1_000_000, 3_600_000_000
DAY = Span(0, 24 * HOUR)
#: Wider than any gap: every edge is bridged.
ANY_GAP = 1e18
#: Of a device that nobody has described.
RATING = Rating()


def samples(*points: tuple[float, float]) -> list[Sample]:
    """Samples from (hours, kWh)."""
    return [Sample(round(hours * HOUR), kwh) for hours, kwh in points]


def piece_of(shown: list[Sample], from_us: int, to_us: int, rating: Rating = RATING) -> Piece:
    """The piece of a register, each of its samples judged before."""
    points = [point for _, point in register.walk(None, shown, rating)]
    return register.piece_of(points, from_us, to_us)


def day_of(*points: tuple[float, float]) -> Piece:
    return piece_of(samples(*points), *DAY)


# --- pieces --------------------------------------------------------------------------------------


def test_a_piece_knows_the_nearest_samples_on_both_sides() -> None:
    piece = piece_of(samples((-9, 1), (-1, 2), (2, 3), (5, 7), (25, 8), (30, 9)), *DAY)
    assert (piece.before, piece.after) == (Sample(-HOUR, 2), Sample(25 * HOUR, 8))
    assert (piece.first, piece.last) == (Sample(2 * HOUR, 3), Sample(5 * HOUR, 7))
    assert (piece.energy_kwh, piece.samples, piece.spacing_us) == (4, 2, 3 * HOUR)


def test_samples_exactly_at_both_ends_are_inside() -> None:
    piece = day_of((0, 100), (24, 130))
    assert (piece.before, piece.after, piece.samples) == (None, None, 2)
    assert energy.energy(piece, DAY) == 30


# --- edges ----------------------------------------------------------------------------------------


def test_energy_at_an_edge_between_samples_is_shared_out() -> None:  # S13
    ac = day_of((-30 / 3600, 50.00), (30 / 3600, 50.20), (12, 70.10), (24, 70.10))
    dc = day_of((-53 / 3600, 45.000), (7 / 3600, 45.180), (12, 63.159), (24, 63.159))
    assert support(ac, 60 * SECOND) == support(dc, 60 * SECOND) == DAY
    assert energy.energy(ac, DAY) == pytest.approx(70.10 - 50.10)  # midway between 50.00 and 50.20
    # 53 of 60 seconds on the way from 45.000 to 45.180
    assert energy.energy(dc, DAY) == pytest.approx(63.159 - 45.159)


def test_a_window_ends_with_the_slower_side() -> None:  # S14
    end = 24 * HOUR
    ac = piece_of(
        [
            Sample(0, 49.8),
            Sample(end - 140 * SECOND, 69.6),
            Sample(end - 80 * SECOND, 69.8),
            Sample(end - 20 * SECOND, 70.0),
        ],
        *DAY,
    )
    dc = piece_of(
        [Sample(0, 45.0), Sample(end - 140 * SECOND, 62.82), Sample(end - 80 * SECOND, 63.0)], *DAY
    )
    assert support(ac, 300 * SECOND) == Span(0, end - 20 * SECOND)
    assert support(dc, 300 * SECOND) == Span(0, end - 80 * SECOND)


def test_energy_in_an_interior_gap_is_kept() -> None:  # S15
    meter = day_of((0, 100), (6, 100), (9, 133), (24, 133))
    assert support(meter, 300 * SECOND) == DAY
    assert energy.energy(meter, DAY) == 33


STRADDLING = ((-2, 100.0), (1, 120.0), (2, 123.0), (11, 150.0), (24, 150.0))  # S16


def test_a_window_shrinks_by_a_gap_that_straddles_its_start() -> None:
    meter = day_of(*STRADDLING)
    span = support(meter, HOUR)
    assert span == Span(HOUR, 24 * HOUR)
    assert energy.energy(meter, span) == 30  # naive: 150 - 120 against a DC side of 24 hours


def test_a_window_shrinks_by_a_gap_that_straddles_its_end() -> None:
    meter = day_of((0, 100), (20, 150), (26, 170))
    span = support(meter, HOUR)
    assert span == Span(0, 20 * HOUR)
    assert energy.energy(meter, span) == 50


@pytest.mark.parametrize(("gap_us", "begin"), [(3 * HOUR, 0), (3 * HOUR - 1, HOUR)])
def test_a_gap_is_bridged_up_to_its_limit(gap_us: int, begin: int) -> None:
    assert support(day_of(*STRADDLING), gap_us) == Span(begin, 24 * HOUR)


@pytest.mark.parametrize(("rise", "begin"), [(0.0, 0), (0.01, 0), (0.02, 1)])
def test_any_gap_is_bridged_when_no_energy_moved_in_it(rise: float, begin: int) -> None:
    meter = day_of((-70, 100.0), (1, 100.0 + rise), (24, 130.0))
    assert support(meter, 0) == Span(begin * HOUR, 24 * HOUR)


def test_a_sample_exactly_at_the_edge_needs_no_neighbour() -> None:
    assert support(day_of((0, 100), (24, 130)), 0) == DAY
    assert support(day_of((0, 100), (23, 130)), 0) == Span(0, 23 * HOUR)


def test_a_restart_at_the_edge_is_shared_out_as_well() -> None:
    meter = day_of((-30 / 3600, 990), (30 / 3600, 2), (24, 12))
    assert energy.energy(meter, DAY) == 1 + 10  # half of the 2 kWh counted since the restart


def test_one_sample_covers_no_time() -> None:
    span = support(day_of((5, 100)), ANY_GAP)
    assert span == Span(5 * HOUR, 5 * HOUR)
    assert energy.energy(day_of((5, 100)), span) == 0


def test_samples_on_one_side_of_the_window_cover_nothing() -> None:
    assert support(day_of((-3, 1), (-2, 2)), ANY_GAP) is None
    assert support(day_of((25, 1), (26, 2)), ANY_GAP) is None
    assert support(day_of(), ANY_GAP) is None


def test_a_window_between_two_samples_gets_its_share_or_nothing() -> None:
    short = piece_of(samples((0, 100), (4, 112)), HOUR, 2 * HOUR)
    assert support(short, 4 * HOUR) == Span(HOUR, 2 * HOUR)
    assert energy.energy(short, Span(HOUR, 2 * HOUR)) == 3  # one hour of four, 12 kWh
    assert support(short, 4 * HOUR - 1) is None


def test_two_streams_without_common_time_do_not_overlap() -> None:
    ac, dc = support(day_of((1, 1), (2, 9)), 0), support(day_of((3, 1), (4, 9)), 0)
    assert ac is not None
    assert dc is not None
    assert min(ac.to_us, dc.to_us) < max(ac.from_us, dc.from_us)


def test_the_bridged_gap_is_three_spacings_and_at_least_five_minutes() -> None:
    assert energy.edge_gap_us(day_of((0, 1), (1, 2), (3, 3))) == 3 * 1.5 * HOUR
    assert energy.edge_gap_us(day_of((0, 1), (1 / 60, 2))) == 300 * SECOND
    assert energy.edge_gap_us(day_of((0, 1))) == 300 * SECOND
    assert energy.edge_gap_us(day_of()) == 300 * SECOND


# --- the null rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ac", "dc", "efficiency", "raw", "reason"),
    [
        (30, 27, 0.9, 0.9, None),
        # not enough energy
        (0.5, 0.4, 0.8, 0.8, None),
        (0.5 - 1e-12, 0.4, 0.8, 0.8, None),  # 1.0 - 0.5 of two registers may miss by a bit
        (0.4999, 0.4, None, 0.8002, "INSUFFICIENT_ENERGY"),
        (0.4, 0.2, None, 0.5, "INSUFFICIENT_ENERGY"),  # S23
        (0.6, 0.5, 0.8333, 0.8333, None),  # S24
        (0, 0, None, None, "INSUFFICIENT_ENERGY"),  # S19
        (0.4, 0.4999, None, 1.2498, "INSUFFICIENT_ENERGY"),
        (0.4, 0.5, None, 1.25, "DC_WITHOUT_AC"),
        (0, 10, None, None, "DC_WITHOUT_AC"),  # S20
        # more out than in
        (10, 10.15, 1.015, 1.015, None),  # S21: metering tolerance, not clamped
        (10, 10.2, 1.02, 1.02, None),
        (0.57, 0.5814, 1.02, 1.02, None),  # 1.0200000000000002 to a computer
        (10, 10.201, None, 1.0201, "DC_EXCEEDS_AC"),
        (10, 11, None, 1.1, "DC_EXCEEDS_AC"),  # S22
        # Wh for kWh
        (1, 10, None, 10, "DC_EXCEEDS_AC"),
        (1, 10.01, None, 10.01, "UNIT_MISMATCH"),
        (30, 27_000, None, 900, "UNIT_MISMATCH"),
        (100, 1, 0.01, 0.01, None),
        (100, 0.99, None, 0.0099, "UNIT_MISMATCH"),
        (30_000, 27, None, 0.0009, "UNIT_MISMATCH"),
        (30, 0, 0, 0, None),  # known: nothing arrived
    ],
)
def test_a_ratio_that_cannot_be_known_has_a_named_reason(
    ac: float, dc: float, efficiency: float | None, raw: float | None, reason: str | None
) -> None:
    verdict = judge(ac, dc)
    assert verdict.reason == reason
    assert verdict.efficiency == (None if efficiency is None else pytest.approx(efficiency, 1e-4))
    assert verdict.raw_ratio == (None if raw is None else pytest.approx(raw, 1e-4))


# --- laws -----------------------------------------------------------------------------------------


def _register(moves: list[tuple[int, int]]) -> list[Sample]:
    at, hundredths, made = -40_000, 1000, []
    for seconds, change in moves:
        at += seconds
        hundredths = max(0, hundredths + change)
        made.append(Sample(at * SECOND, hundredths / 100))
    return made


#: A register: whole seconds apart, in hundredths of a kWh, falling now and then.
registers = st.lists(
    st.tuples(st.integers(1, 40_000), st.integers(-3000, 3000)), min_size=1, max_size=25
).map(_register)
windows = st.tuples(st.integers(-40_000, 300_000), st.integers(1, 200_000)).map(
    lambda w: Span(w[0] * SECOND, (w[0] + w[1]) * SECOND)
)


@given(registers, windows)
def test_energy_is_never_negative_and_never_more_than_all_steps(shown, window) -> None:
    piece = piece_of(shown, *window)
    span = support(piece, ANY_GAP)
    if span is not None:
        whole = piece_of(shown, shown[0].at_us, shown[-1].at_us).energy_kwh
        assert -1e-9 <= energy.energy(piece, span) <= whole + 1e-9


@given(registers, windows, st.data())
def test_energy_adds_up_over_neighbouring_windows(shown, window, data) -> None:
    seam = data.draw(st.sampled_from(shown)).at_us
    a, c = min(seam, window.from_us), max(seam, window.to_us)
    parts = [energy.energy(piece_of(shown, *span), span) for span in (Span(a, seam), Span(seam, c))]
    whole = energy.energy(piece_of(shown, a, c), Span(a, c))
    assert whole == pytest.approx(sum(parts), abs=1e-6)


@given(registers, windows, st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_energy_scales_with_the_register(shown, window, factor) -> None:
    scaled = [Sample(at, kwh * factor) for at, kwh in shown]
    rating = Rating(400 * factor, 0.01 * factor, 1.0 * factor)
    once = energy.energy(piece_of(shown, *window), window)
    assert energy.energy(piece_of(scaled, *window, rating), window) == pytest.approx(once * factor)


@given(registers, windows, st.integers(0, 10**15))
def test_energy_does_not_depend_on_the_date(shown, window, shift) -> None:
    later = [Sample(at + shift, kwh) for at, kwh in shown]
    span = Span(window.from_us + shift, window.to_us + shift)
    once, then = piece_of(shown, *window), piece_of(later, *span)
    assert energy.energy(then, span) == energy.energy(once, window)
    assert then.spacing_us == once.spacing_us


@given(registers, windows, st.integers(0, 10**11), st.integers(0, 10**11))
def test_support_lies_in_the_window_and_grows_with_the_bridged_gap(
    shown, window, one_gap, other_gap
) -> None:
    piece = piece_of(shown, *window)
    narrow, wide = (support(piece, gap) for gap in sorted((one_gap, other_gap)))
    if narrow is not None:
        assert wide is not None
        assert window.from_us <= wide.from_us <= narrow.from_us
        assert narrow.to_us <= wide.to_us <= window.to_us
