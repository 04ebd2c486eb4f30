"""Every judgement on a register by hand, and the laws that hold for any register.

The table's inputs are those of the domain's reference, which the incumbents read otherwise.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ratings import Rating
from workers.energy import Sample
from workers.register import Event, Point, State, piece_of, walk

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
#: A meter at a 22 kW charging point: a register of two decimals, dips of two digits.
METER = Rating(22.0, 0.01, 0.02)
VEHICLE = Rating(22.0, 0.01, 1.0)

RESET, GLITCH, SPIKE, JUMP = Event.RESET, Event.GLITCH, Event.SPIKE, Event.JUMP
DIP, ROLLOVER, REBASE = Event.DIP, Event.ROLLOVER, Event.REBASE


def every(spacing_us: int, *values: float) -> list[Sample]:
    return [Sample(n * spacing_us, kwh) for n, kwh in enumerate(values)]


def judged(samples: list[Sample], rating: Rating) -> list[Point]:
    return [point for _, point in walk(None, samples, rating)]


def energies(points: list[Point]) -> list[float]:
    return [round(point.energy_kwh, 6) for point in points]


def events(points: list[Point]) -> list[Event | None]:
    return [point.event for point in points]


# --- each event by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "spacing_us", "rating", "kwh", "found"),
    [
        ((990, 995, 0, 4, 12), HOUR, METER, [0, 5, 0, 4, 8], {2: RESET}),
        ((500, 506, 2.5, 8.5), HOUR, METER, [0, 6, 2.5, 6], {2: RESET}),
        ((40, 47, 3, 9, 0, 5), HOUR, METER, [0, 7, 3, 6, 0, 5], {2: RESET, 4: RESET}),
        ((10, 20, 19.48, 20.10, 25), HOUR, VEHICLE, [0, 10, 0, 0.1, 4.9], {2: DIP}),
        (
            (40482.83, 0, 40482.83, 40484.52),
            62 * SECOND,
            Rating(),
            [0, 0, 0, 1.69],
            {1: GLITCH},
        ),
        (
            (999_998.5, 3.0),
            30 * MINUTE,
            Rating(22.0, rollover_kwh=1_000_000),
            [0, 1.5 + 3.0],
            {1: ROLLOVER},
        ),
        ((5321.3, 5321.4, 12.7, 12.9), MINUTE, METER, [0, 0.1, 0, 0.2], {2: REBASE}),
        ((100, 100.1, 4200, 100.3), MINUTE, METER, [0, 0.1, 0, 0.2], {2: SPIKE}),
        ((100, 100.1, 4200, 4200.2), MINUTE, METER, [0, 0.1, 0, 0.2], {2: JUMP}),
        # a register that can't have rolled over: it was nowhere near its end
        ((0.40, 0.4929, 0.05, 0.12), HOUR, Rating(22.0, rollover_kwh=3137, dip_tolerance_kwh=0.02),
         [0, 0.0929, 0.05, 0.07], {2: RESET}),
        # nothing happened
        ((7, 7, 7), HOUR, METER, [0, 0, 0], {}),
        ((0, 26.41), HOUR, METER, [0, 26.41], {}),  # 1.2 * 22 kWh and a digit: admitted
        ((0, 26.42), HOUR, METER, [0, 0], {1: JUMP}),
    ],
)  # fmt: skip
def test_an_event_is_told_from_the_others(
    values: tuple[float, ...],
    spacing_us: int,
    rating: Rating,
    kwh: list[float],
    found: dict[int, Event],
) -> None:
    points = judged(every(spacing_us, *values), rating)
    assert energies(points) == kwh
    assert {n: event for n, event in enumerate(events(points)) if event} == found


def test_a_dip_gives_no_energy_on_its_way_back_up() -> None:
    """10, 20, 19.48, 19.9, 20.10, 25 is 15 kWh, whatever is seen of the recovery."""
    points = judged(every(HOUR, 10, 20, 19.48, 19.9, 20.10, 25), VEHICLE)
    assert energies(points) == [0, 10, 0, 0, 0.1, 4.9]
    assert sum(energies(points)) == 15
    assert events(points) == [None, None, DIP, None, None, None]
    # The climb is kept: none of these three is simply this sample minus the one before.
    assert [point.special for point in points] == [False, False, True, True, True, False]


def test_a_dip_is_small_in_both_respects() -> None:
    assert events(judged(every(HOUR, 100, 99, 99.5), VEHICLE))[1] is DIP  # 1 kWh and 1 %
    assert events(judged(every(HOUR, 100, 98.9, 99.5), VEHICLE))[1] is not DIP  # 1.1 kWh
    assert events(judged(every(HOUR, 5, 4.4, 4.5), VEHICLE))[1] is not DIP  # 12 %
    assert events(judged(every(HOUR, 100, 99.5, 99.6), METER))[1] is not DIP  # a certified meter


def test_a_second_dip_is_measured_from_the_highest_value() -> None:
    points = judged(every(HOUR, 20, 19.5, 19.2, 19.05, 21), VEHICLE)
    assert events(points) == [None, DIP, DIP, DIP, None]
    assert energies(points) == [0, 0, 0, 0, 1]


def test_two_glitches_apart_are_both_dropped() -> None:
    points = judged(every(MINUTE, 100, 0, 100.1, 0, 100.2), METER)
    assert events(points) == [None, GLITCH, None, GLITCH, None]
    assert energies(points) == [0, 0, 0.1, 0, 0.1]


def test_two_zeros_in_a_row_are_a_restart_and_what_comes_back_a_jump() -> None:
    """One sample of look-ahead can't tell; what can't have flowed is not counted all the same."""
    points = judged(every(MINUTE, 100, 0, 0, 100.1, 100.2), METER)
    assert events(points) == [None, RESET, None, JUMP, None]
    assert energies(points) == [0, 0, 0, 0, 0.1]


def test_a_spike_and_then_a_restart() -> None:
    """4200 does not come back to 100, so it is a jump; then the register begins at 0.2."""
    points = judged(every(MINUTE, 100, 100.1, 4200, 0.2, 0.4), METER)
    assert events(points) == [None, None, JUMP, RESET, None]
    assert energies(points) == [0, 0.1, 0, 0.2, 0.2]


def test_a_spike_is_dropped_even_during_a_dip() -> None:
    points = judged(every(MINUTE, 20, 19.5, 400, 19.6, 20.2), VEHICLE)
    assert events(points) == [None, DIP, SPIKE, None, None]
    assert energies(points) == [0, 0, 0, 0, 0.2]


def test_what_may_have_flowed_unseen_is_told() -> None:
    _, _, reset, _ = judged(every(HOUR, 500, 506, 2.5, 8.5), METER)
    assert reset.uncertain_kwh == 22 - 2.5
    _, _, rebase, _ = judged(every(MINUTE, 5321.3, 5321.4, 12.7, 12.9), METER)
    assert rebase.uncertain_kwh == pytest.approx(22 / 60)
    assert all(p.uncertain_kwh == 0 for p in judged(every(MINUTE, 100, 100.1, 4200, 100.3), METER))


@pytest.mark.parametrize("high", [999_998.5, 1_000_000.0, 1_000_250.0, 2_000_000.0])
def test_a_register_beyond_its_supposed_end_yields_no_negative_energy(high: float) -> None:
    points = judged(every(30 * MINUTE, high, 3.0, 4.0), Rating(22.0, rollover_kwh=1_000_000))
    assert min(energies(points)) >= 0
    assert sum(energies(points)) <= 4.5 + 1


# --- the live edge --------------------------------------------------------------------------------


def test_a_fall_without_a_sample_behind_it_may_still_be_anything() -> None:
    fallen = every(MINUTE, 100, 100.1, 0.2)
    last = judged(fallen, METER)[-1]
    assert (last.event, last.energy_kwh, last.final) == (RESET, 0.2, False)
    # It returns: it was a glitch.
    points = judged([*fallen, Sample(3 * MINUTE, 100.2)], METER)
    assert events(points) == [None, None, GLITCH, None]
    assert energies(points) == [0, 0.1, 0, 0.1]
    # It goes on: it was a restart.
    stayed = judged([*fallen, Sample(3 * MINUTE, 0.3)], METER)[2]
    assert (stayed.event, stayed.final) == (RESET, True)


def test_at_the_live_edge_nothing_is_counted_that_cannot_have_flowed() -> None:
    rebase = judged(every(MINUTE, 5321.3, 5321.4, 12.7), METER)[-1]
    assert (rebase.event, rebase.energy_kwh, rebase.final) == (REBASE, 0, False)
    jump = judged(every(MINUTE, 100, 100.1, 4200), METER)[-1]
    assert (jump.event, jump.energy_kwh, jump.final) == (JUMP, 0, False)


def test_dips_and_rollovers_need_no_look_ahead() -> None:
    assert judged(every(HOUR, 20, 19.5), VEHICLE)[-1].final
    assert judged(every(HOUR, 999_999, 3), Rating(22.0, rollover_kwh=1_000_000))[-1].final


def test_a_piece_leaves_out_what_was_dropped() -> None:
    points = judged(every(HOUR, 100, 110, 0, 120, 130), Rating())
    piece = piece_of(points, HOUR, 3 * HOUR)
    assert (piece.before, piece.after) == (Sample(0, 100), Sample(4 * HOUR, 130))
    assert (piece.first, piece.last) == (Sample(HOUR, 110), Sample(3 * HOUR, 120))
    assert (piece.samples, piece.energy_kwh) == (2, 10)
    assert (piece.entry_kwh, piece.exit_kwh) == (10, 10)


# --- laws -----------------------------------------------------------------------------------------

ratings = st.builds(
    Rating,
    max_power_kw=st.sampled_from([3.7, 22.0, 400.0]),
    dip_tolerance_kwh=st.sampled_from([0.0, 0.02, 1.0]),
    rollover_kwh=st.sampled_from([None, 100.0, 1000.0]),
)
#: What a register does next: it rises, or is in trouble.
moves = st.one_of(
    st.tuples(st.just("rise"), st.integers(0, 300)),
    st.tuples(st.just("fall"), st.integers(1, 120)),
    st.tuples(st.just("show"), st.integers(0, 100_000)),
    st.tuples(st.just("back"), st.integers(0, 50)),
)


@st.composite
def registers(draw: st.DrawFn) -> list[Sample]:
    """Registers in hundredths of a kWh; "back" is the value before the last one, and a bit."""
    at_us, shown, made = 0, [9000], [Sample(0, 90.0)]
    for spacing, (move, size) in draw(
        st.lists(st.tuples(st.integers(1, 7200), moves), max_size=20)
    ):
        at_us += spacing * SECOND
        value = {
            "rise": shown[-1] + size,
            "fall": max(0, shown[-1] - size),
            "show": size,
            "back": shown[-2:][0] + size,
        }[move]
        shown.append(value)
        made.append(Sample(at_us, value / 100))
    return made


@given(registers(), ratings)
def test_energy_is_never_negative_and_never_more_than_the_rating_admits(
    shown: list[Sample], rating: Rating
) -> None:
    states: list[State] = []
    for state, point in walk(None, shown, rating):
        assert point.energy_kwh >= 0
        assert point.uncertain_kwh >= 0
        if states:
            span_us = point.sample.at_us - states[-1].at_us
            assert point.energy_kwh <= rating.limit_kwh(span_us)
        if point.dropped:
            assert (point.energy_kwh, state) == (0, states[-1])
        states.append(state)


@given(registers(), ratings)
def test_a_plain_step_is_the_difference_and_nothing_else(
    shown: list[Sample], rating: Rating
) -> None:
    """What the hours in SQL rely on: the exceptions alone need to be kept."""
    previous: Sample | None = None
    for state, point in walk(None, shown, rating):
        if not point.special and previous is not None:
            assert point.energy_kwh == point.sample.kwh - previous.kwh
        if not point.special:
            assert (point.event, point.uncertain_kwh, point.final) == (None, 0, True)
            assert state == (point.sample.at_us, point.sample.kwh, point.sample.kwh)
        if not point.dropped:
            previous = point.sample


@given(registers(), ratings)
def test_a_walk_from_anywhere_is_the_walk_from_the_beginning(
    shown: list[Sample], rating: Rating
) -> None:
    whole = list(walk(None, shown, rating))
    for index, (state, _) in enumerate(whole):
        assert list(walk(state, shown[index + 1 :], rating)) == whole[index + 1 :]


@given(registers(), ratings)
def test_what_is_final_no_later_sample_changes(shown: list[Sample], rating: Rating) -> None:
    whole = judged(shown, rating)
    for length in range(1, len(shown)):
        begun = judged(shown[:length], rating)
        for early, late in zip(begun, whole, strict=False):
            assert early == late or not early.final
        assert all(point.final for point in begun[:-1])


@given(registers(), ratings, st.sampled_from([0.25, 0.5, 2.0, 1024.0]), st.integers(0, 10**15))
def test_neither_the_unit_nor_the_date_matters(
    shown: list[Sample], rating: Rating, factor: float, shift_us: int
) -> None:
    once = list(walk(None, shown, rating))
    scaled_rating = Rating(
        rating.max_power_kw * factor,
        rating.resolution_kwh * factor,
        rating.dip_tolerance_kwh * factor,
        rating.rollover_kwh and rating.rollover_kwh * factor,
    )
    moved = [Sample(s.at_us + shift_us, s.kwh * factor) for s in shown]
    for (_, then), (_, now) in zip(walk(None, moved, scaled_rating), once, strict=True):
        assert (then.event, then.special, then.final) == (now.event, now.special, now.final)
        assert then.energy_kwh == pytest.approx(now.energy_kwh * factor)
        assert then.uncertain_kwh == pytest.approx(now.uncertain_kwh * factor)
