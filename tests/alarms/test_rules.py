"""The rules on evaluations worked out by hand: S32 to S36, S40, S41 and their neighbours."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import MIDNIGHT
from workers.alarms import model, rules
from workers.alarms.cusum import Cusum
from workers.alarms.engine import Judgement, chains, judge
from workers.alarms.evaluation import Day, Episode, qualified
from workers.alarms.spans import MAPPING_CHANGED, RECOVERED
from workers.alarms.thresholds import DEFAULTS, Thresholds

DAY = timedelta(days=1)


def episode(day: float, ratio: float, *, ac: float = 20.0, **more: object) -> Episode:
    """A session of `ac` kWh at 10 kW that ends `day` days after the 10 January 2026."""
    end = MIDNIGHT + day * DAY
    made = Episode(
        started_at=end - timedelta(hours=ac / 10),
        ended_at=end,
        ac_kwh=ac,
        dc_kwh=ac * ratio,
        efficiency=ratio,
        efficiency_low=ratio,
        efficiency_high=ratio,
        raw_ratio=ratio,
        confidence="high",
        charging_hours=ac / 10,
        avg_ac_power_kw=10.0,
        battery_temp_min_c=20.0,
        meter_id="meter-001",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def daily(efficiencies: Iterable[float], start: int = 0) -> list[Episode]:
    return [episode(start + n, efficiency) for n, efficiency in enumerate(efficiencies)]


def spans(judgement: Judgement, rule: str) -> list[tuple[int, int | None]]:
    """(day of opening, day of clearing) of the rule's spans."""
    return [
        ((s.opened_at - MIDNIGHT).days, s.cleared_at and (s.cleared_at - MIDNIGHT).days)
        for s in judgement.spans
        if s.rule == rule
    ]


def healthy(days: int, seed: int = 1) -> list[Episode]:
    """Sessions around 0.915 = 0.94 - 0.25 / 10 with a scatter of half a point."""
    chance = random.Random(seed)  # noqa: S311
    return daily([0.915 + chance.gauss(0, 0.005) for _ in range(days)])


# --- S32 to S36 -----------------------------------------------------------------------------------


def test_s32_hysteresis() -> None:
    judged = judge(daily([0.86, 0.84, 0.84, 0.86, 0.855, 0.87, 0.88]))
    assert spans(judged, rules.LOW) == [(2, 6)]  # opens at the 3rd, clears at the 7th
    (span,) = judged.spans
    assert span.since == MIDNIGHT + 1 * DAY
    assert (span.cleared_by, span.severity) == (RECOVERED, "warning")
    assert [e.breach for e in span.evidence] == [True, True, False, False, False, False]
    for length in range(3, 7):
        first = judge(daily([0.86, 0.84, 0.84, 0.86, 0.855, 0.87, 0.88][:length]))
        assert spans(first, rules.LOW) == [(2, None)]


def test_s33_one_session_told_a_hundred_times_is_one_evaluation() -> None:
    judged = judge([episode(1, 0.84)] * 100)
    assert len(judged.evaluations) == 1
    assert judged.spans == ()


def test_s33_a_session_that_grows_is_still_one_evaluation() -> None:
    ticks = [episode(1 + n / 1440, 0.84, ac=20.0) for n in range(100)]
    assert len(judge(ticks).evaluations) == 1  # at most one per six hours


def test_s34_the_optimistic_bound_must_be_below_the_floor() -> None:
    wide = {"efficiency_low": 4.1 / 5.1, "efficiency_high": 4.3 / 4.9}
    sessions = [episode(n, 0.84, ac=5.0, **wide) for n in range(3)]
    assert judge(sessions).spans == ()


def test_s35_an_emptied_window_clears_nothing() -> None:
    silence = [episode(n, 0.9, efficiency=None, confidence="none") for n in range(3, 40)]
    judged = judge([*daily([0.84, 0.84]), *silence])
    assert spans(judged, rules.LOW) == [(1, None)]
    assert judged.last_at[rules.LOW] == MIDNIGHT + DAY


def test_s36_cusum() -> None:
    cusum = Cusum(k=1, clip=4)
    instants = [MIDNIGHT + n * DAY for n in range(7)]
    values = [
        cusum.step(at, z) for at, z in zip(instants, [0.3, -0.5, -2, -2.5, -3, -4, -4], strict=True)
    ]
    assert values == [0, 0, 1.0, 2.5, 4.5, 7.5, 10.5]
    assert [value > DEFAULTS.cusum_h for value in values].index(True) == 6
    assert cusum.since == instants[2]


def test_cusum_clips_and_forgets() -> None:
    cusum = Cusum(k=1, clip=4)
    assert cusum.step(MIDNIGHT, -9) == 3
    assert cusum.step(MIDNIGHT, 9) == 0
    assert cusum.since is None


# --- S40, S41 and the fit -------------------------------------------------------------------------


def test_s40_expected_energy() -> None:
    expected = model.expected_dc_kwh(7.4 * 3, 3)
    assert expected == pytest.approx(20.118)
    assert expected / 22.2 == pytest.approx(0.9062, abs=5e-5)


def test_s41_two_powers_tell_both_parameters() -> None:
    eta_c, p_aux_kw = model.from_two_powers((2.3, 0.848), (11, 0.923))
    assert eta_c == pytest.approx(0.9428, abs=5e-5)
    assert p_aux_kw == pytest.approx(0.218, abs=5e-4)


def sessions_of(eta_c: float, p_aux_kw: float, count: int, seed: int) -> list[Episode]:
    """A car on two charge points of 3.7 and 11 kW, 0.5 % scatter."""
    chance = random.Random(seed)  # noqa: S311
    made = []
    for n in range(count):
        power, ac = chance.choice((3.7, 11.0)), chance.uniform(8, 30)
        dc = model.expected_dc_kwh(ac, ac / power, eta_c, p_aux_kw) - 0.1 * eta_c
        ratio = dc / ac * (1 + chance.gauss(0, 0.005))
        made.append(episode(n, ratio, ac=ac, avg_ac_power_kw=power, charging_hours=ac / power))
    return made


@pytest.mark.parametrize(("eta_c", "p_aux_kw"), [(0.943, 0.218), (0.941, 0.422), (0.922, 0.134)])
def test_the_fit_finds_a_cars_parameters_although_some_sessions_are_odd(
    eta_c: float, p_aux_kw: float
) -> None:
    made = sessions_of(eta_c, p_aux_kw, 120, seed=3)
    odd = [replace(e, dc_kwh=e.dc_kwh * 0.7) if n % 15 == 7 else e for n, e in enumerate(made)]
    fitted = model.fit(qualified(odd, DEFAULTS), 1.0)
    assert fitted.eta_c == pytest.approx(eta_c, abs=0.01)
    assert fitted.p_aux_kw == pytest.approx(p_aux_kw, abs=0.08)
    assert fitted.sigma_pts == 1.0  # half a point is below the floor


def test_below_the_needed_evaluations_the_shift_rule_learns() -> None:
    assert judge(healthy(33)).baseline.status == "learning"
    ready = judge(healthy(34)).baseline  # 20 that 14 newer ones stand before
    assert (ready.status, ready.evaluations) == ("ready", 20)
    assert ready.eta_c == pytest.approx(0.94, abs=0.02)
    assert ready.efficiency_median == pytest.approx(0.915, abs=0.003)


# --- A1 to A3 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power_kw", "floor"),
    [(2.3, 0.72), (2.999, 0.72), (3.0, 0.80), (4.999, 0.80), (5.0, 0.85), (11, 0.85), (None, 0.72)],
)
def test_the_floor_follows_the_power(power_kw: float | None, floor: float) -> None:
    assert DEFAULTS.floor_at(power_kw) == floor


def test_an_old_car_on_a_socket_does_not_alarm() -> None:
    socket = {"avg_ac_power_kw": 2.3, "charging_hours": 20 / 2.3}
    assert judge([episode(n, 0.76, **socket) for n in range(30)]).spans == ()


def test_a_five_point_fault_is_a_drop_and_a_shift_and_never_a_low() -> None:
    before = healthy(60)
    after = [episode(60 + n, 0.865) for n in range(10)]
    judged = judge([*before, *after])
    assert spans(judged, rules.LOW) == []
    assert spans(judged, rules.DROP) == [(61, None)]
    ((opened, cleared),) = spans(judged, rules.SHIFT)
    assert (opened <= 63, cleared) == (True, None)
    (shift,) = [s for s in judged.spans if s.rule == rules.SHIFT]
    assert shift.since >= MIDNIGHT + 59 * DAY
    assert judged.baseline.efficiency_median == pytest.approx(0.915, abs=0.003)  # frozen


def test_a_three_point_fault_is_found_by_the_shift_alone() -> None:
    judged = judge([*healthy(60), *[episode(60 + n, 0.885) for n in range(14)]])
    assert {s.rule for s in judged.spans} == {rules.SHIFT}


def test_a_repaired_vehicle_recovers() -> None:
    repaired = daily([0.915] * 3, start=70)
    judged = judge([*healthy(60), *daily([0.865] * 10, start=60), *repaired])
    assert spans(judged, rules.DROP) == [(61, 70)]
    ((_, cleared),) = spans(judged, rules.SHIFT)
    assert cleared == 71  # two good evaluations
    assert judged.baseline.cusum == 0


def test_ten_points_are_critical() -> None:
    judged = judge([*healthy(60), *daily([0.80] * 3, start=60)])
    assert {s.severity for s in judged.spans} == {"critical"}
    assert {s.rule for s in judged.spans} == {rules.LOW, rules.DROP, rules.SHIFT}
    (drop,) = [s for s in judged.spans if s.rule == rules.DROP]
    # Three sessions of 20 kWh at 0.80, two of which opened it and one after it.
    assert drop.avoidable_kwh == pytest.approx(3 * (20 - 16 / 0.915), abs=0.15)


def test_thresholds_can_be_overridden() -> None:
    strict = Thresholds(floor=0.95)
    assert {s.rule for s in judge(healthy(30), limits=strict).spans} == {rules.LOW}


# --- merging, meters, people ----------------------------------------------------------------------


def test_short_sessions_are_merged_until_they_weigh_enough() -> None:
    short = [episode(n, 0.9, ac=1.5, confidence="low") for n in range(8)]
    found = qualified(short, DEFAULTS)  # 4 x 1.5 = 6 kWh
    assert [(e.ac_kwh, (e.at - MIDNIGHT).days) for e in found] == [(6.0, 3), (6.0, 7)]
    assert found[0].efficiency == pytest.approx(0.9)


def test_a_doubtful_session_is_no_evaluation() -> None:
    assert qualified([episode(1, 0.84, confidence="low")], DEFAULTS) == []
    vague = {"efficiency_low": 0.80, "efficiency_high": 0.90}
    merged = [episode(n, 0.84, ac=1.5, confidence="low", **vague) for n in range(4)]
    assert qualified(merged, DEFAULTS) == []


def test_another_meter_ends_alarms_and_forgets_the_baseline() -> None:
    other = [episode(60 + n, 0.90, meter_id="meter-777") for n in range(2)]
    judged = judge([*healthy(58), *daily([0.80, 0.80], start=58), *other])
    assert {s.cleared_by for s in judged.spans} == {MAPPING_CHANGED}
    assert judged.baseline.status == "learning"
    assert judged.baseline.efficiency_median is None
    assert judged.baseline.cusum == 0


def test_resolved_by_hand_it_needs_new_evidence() -> None:
    low = daily([0.84] * 4)
    by_hand = {rules.LOW: [MIDNIGHT + 1.5 * DAY]}
    judged = judge(low, resolved=by_hand)
    assert [(s.cleared_by, (s.opened_at - MIDNIGHT).days) for s in judged.spans] == [
        ("manual", 1),
        (None, 3),
    ]
    (alarm,) = chains(judged.spans)  # within seven days it is the same alarm
    assert len(alarm.spans) == 2


def test_after_more_than_seven_days_it_is_another_alarm() -> None:
    first, good = daily([0.84, 0.84]), daily([0.9, 0.9], start=2)
    again = [*first, *good, *daily([0.84, 0.84], start=9)]
    assert len(chains(judge(again).spans)) == 1  # cleared on day 3, opened on day 10
    later = [*first, *good, *daily([0.84, 0.84], start=10)]
    assert len(chains(judge(later).spans)) == 2


# --- A5 to A9 -------------------------------------------------------------------------------------


def test_more_out_than_in() -> None:
    impossible = episode(1, 1.1, efficiency=None, confidence="none")
    assert spans(judge([impossible]), rules.EXCEEDS) == [(1, None)]
    assert spans(judge([impossible, episode(2, 0.9)]), rules.EXCEEDS) == [(1, 2)]
    tolerated = episode(1, 1.02, efficiency=1.02, confidence="low")
    assert judge([tolerated]).spans == ()
    little = episode(1, 1.1, ac=0.9, efficiency=None, confidence="none")  # 1.89 kWh together
    assert judge([little]).spans == ()


def day(number: int, **fields: object) -> Day:
    begin = MIDNIGHT + number * DAY
    quiet = Day(date(2026, 1, 10) + number * DAY, begin + DAY, 20.0, 18.0, 0.3, 20.0)
    return replace(quiet, **fields)  # type: ignore[arg-type]


def of_days(rule: str, days: Iterable[Day]) -> list[tuple[int, int | None]]:
    """Days are named by their number: they end a day later."""
    return [(o - 1, c and c - 1) for o, c in spans(judge([], days), rule)]


def test_idle_draw() -> None:
    # 2.4 kWh in 20 h are 120 W, 1.6 are 80 W, 1.2 are 60 W, 7 are 350 W.
    watts = {120: 2.4, 80: 1.6, 60: 1.2, 350: 7.0}

    def drawn(*series: int) -> list[Day]:
        return [day(n, idle_ac_kwh=watts[w]) for n, w in enumerate(series)]

    assert of_days(rules.IDLE, drawn(120)) == []
    assert of_days(rules.IDLE, drawn(120, 120, 80, 60)) == [(1, 3)]
    assert of_days(rules.IDLE, drawn(120, 80, 120)) == []
    assert judge([], drawn(350, 350)).spans[0].severity == "critical"
    brief = [day(n, idle_ac_kwh=1.0, idle_hours=5.9) for n in range(3)]
    assert of_days(rules.IDLE, brief) == []


def test_ac_without_dc() -> None:
    foreign = day(0, dc_kwh=0.1)
    assert of_days(rules.AC_ONLY, [foreign]) == [(0, None)]
    idle = day(1, ac_kwh=0.0, dc_kwh=0.0)
    assert of_days(rules.AC_ONLY, [foreign, idle]) == [(0, None)]
    assert of_days(rules.AC_ONLY, [foreign, idle, day(2)]) == [(0, 2)]
    assert of_days(rules.AC_ONLY, [day(0, dc_kwh=None)]) == []  # the vehicle was not heard


def test_dc_without_ac_is_information_after_two_days_in_seven() -> None:
    def elsewhere(n: int) -> Day:
        return day(n, ac_kwh=0.0, dc_kwh=15.0)

    assert of_days(rules.DC_ONLY, [elsewhere(0), day(1)]) == []
    assert of_days(rules.DC_ONLY, [elsewhere(0), elsewhere(7)]) == []
    assert of_days(rules.DC_ONLY, [elsewhere(0), day(1), elsewhere(6)]) == [(6, None)]
    (span,) = judge([], [elsewhere(0), elsewhere(1)]).spans
    assert span.severity == "info"
    after = [elsewhere(0), elsewhere(1), *[day(n) for n in range(2, 10)]]
    assert of_days(rules.DC_ONLY, after) == [(1, 8)]


def test_counter_events_are_counted_per_day() -> None:
    def with_events(count: int) -> list[Day]:
        return [day(0, events={"RESET": count, "DIP": 9}), day(1)]

    assert of_days(rules.COUNTER, with_events(0)) == []
    assert of_days(rules.COUNTER, with_events(3)) == [(0, 1)]
    assert judge([], with_events(3)).spans[0].severity == "info"
    assert judge([], with_events(4)).spans[0].severity == "warning"


# --- a pure function of the evidence --------------------------------------------------------------


@given(st.randoms(use_true_random=False), st.lists(st.floats(0.7, 0.95), min_size=1, max_size=60))
def test_order_and_repetition_of_the_evidence_change_nothing(
    chance: random.Random, efficiencies: list[float]
) -> None:
    in_time = daily(efficiencies)
    shuffled = [*in_time, *in_time[:5]]
    chance.shuffle(shuffled)
    assert judge(shuffled) == judge(in_time)


def test_a_prefix_of_the_past_is_judged_as_it_was() -> None:
    """What was raised on Monday stands on Tuesday: later evidence never changes when it opened."""
    past = [*healthy(60), *daily([0.80] * 5, start=60), *daily([0.915] * 5, start=65)]
    whole = judge(past)
    for length in range(1, len(past)):
        end: datetime = past[length - 1].ended_at
        expected = [(s.rule, s.opened_at) for s in whole.spans if s.opened_at <= end]
        assert [(s.rule, s.opened_at) for s in judge(past[:length]).spans] == expected


def test_s36_the_rule_opens_at_the_seventh_and_dates_it_to_the_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    series = [0.3, -0.5, -2, -2.5, -3, -4, -4, -0.9, -0.9, 0.0]
    judged = rules.Efficiency(DEFAULTS)
    judged._model = model.Model((1 / 0.94, 0.25, 0.06, 0.1), sigma_pts=1.0)
    for evaluation, z in zip(qualified(daily([0.915] * 10), DEFAULTS), series, strict=True):
        monkeypatch.setattr(model.Model, "residual_pts", lambda _, __, z=z: z)
        judged.step(evaluation)
    (span,) = judged.shift.spans
    assert (span.opened_at, span.since) == (MIDNIGHT + 6 * DAY, MIDNIGHT + 2 * DAY)
    assert (span.evidence[0].value, span.evidence[0].z) == (10.5, -4)
    assert span.cleared_at == MIDNIGHT + 8 * DAY  # two with z > -1
    assert judged.baseline().cusum == 0
