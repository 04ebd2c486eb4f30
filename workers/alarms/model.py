"""What a healthy vehicle would have drawn: `P_dc = eta_c * P_ac - P_aux`, by its own past.

Fitted per session: AC = b0*DC + b1*hours + b2*coldDegrees*min(1, DC/8) + b3. Robust (Huber), so
that a few odd sessions do not bend it; pulled towards the class default (ridge), so that a vehicle
which always charges at one power still gets sensible parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul, truediv
from statistics import median

from workers.alarms.evaluation import Evaluation

#: The class default, before a vehicle has a history.
DEFAULT_ETA_C = 0.94
DEFAULT_P_AUX_KW = 0.25
#: Battery heating grows with the session up to this much energy, kWh.
HEATED_WITHIN_KWH = 8.0

_PRIOR = (1 / DEFAULT_ETA_C, DEFAULT_P_AUX_KW, 0.06, 0.1)
#: How far vehicles differ from the prior, and how far sessions scatter (share of AC): the ridge.
_PRIOR_SPREAD = (0.04, 0.15, 0.05, 0.15)
_SCATTER = 0.015
_ROUNDS = 5
_HUBER = 1.345
#: MAD of a normal distribution to its standard deviation.
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Model:
    """A vehicle's fitted parameters, and the scatter of its residuals in pt."""

    coefficients: tuple[float, ...]
    sigma_pts: float

    @property
    def eta_c(self) -> float:
        """The converter's efficiency, a fraction."""
        return 1 / self.coefficients[0]

    @property
    def p_aux_kw(self) -> float:
        """What the vehicle's electronics take while it charges."""
        return self.coefficients[1] * self.eta_c

    def residual_pts(self, evaluation: Evaluation) -> float:
        """Delivered minus expected DC energy, in points of the AC energy; negative is worse."""
        terms = _terms(evaluation)
        overhead = sum(b * x for b, x in zip(self.coefficients[1:], terms[1:], strict=True))
        expected = (evaluation.ac_kwh - overhead) * self.eta_c
        return 100 * (evaluation.dc_kwh - expected) / evaluation.ac_kwh


def expected_dc_kwh(
    ac_kwh: float,
    hours: float,
    eta_c: float = DEFAULT_ETA_C,
    p_aux_kw: float = DEFAULT_P_AUX_KW,
) -> float:
    """What should reach the battery of `ac_kwh` drawn within `hours` of charging."""
    return eta_c * ac_kwh - p_aux_kw * hours


def class_efficiency(power_kw: float | None) -> float:
    """The class default at a mean AC power; at unknown power without the electronics' share."""
    if not power_kw:
        return DEFAULT_ETA_C
    return max(0.0, DEFAULT_ETA_C - DEFAULT_P_AUX_KW / power_kw)


def from_two_powers(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """(eta_c, P_aux in kW) from two pairs (AC power in kW, efficiency) of different powers."""
    (low_kw, low_eff), (high_kw, high_eff) = first, second
    eta_c = (high_kw * high_eff - low_kw * low_eff) / (high_kw - low_kw)
    return eta_c, low_kw * (eta_c - low_eff)


def fit(
    evaluations: Sequence[Evaluation], sigma_floor_pts: float, before: Model | None = None
) -> Model:
    """The vehicle's model from past evaluations.

    What a summer cannot tell, how much it heats in the cold, is taken from the model `before`.
    """
    prior = _PRIOR if before is None else (*_PRIOR[:2], before.coefficients[2], _PRIOR[3])
    # Divided by the AC energy, so that each session's scatter weighs the same: 1 = b . x.
    energies = [e.ac_kwh for e in evaluations]
    terms = zip(*(_terms(e) for e in evaluations), strict=True)
    columns = [list(map(truediv, column, energies)) for column in terms]
    weights = [1.0] * len(energies)
    coefficients: tuple[float, ...] = prior
    for _ in range(_ROUNDS):
        coefficients = _weighted_ridge(columns, weights, prior)
        b0, b1, b2, b3 = coefficients
        rows = zip(*columns, strict=True)
        misses = [abs(1 - b0 * x0 - b1 * x1 - b2 * x2 - b3 * x3) for x0, x1, x2, x3 in rows]
        scale = _HUBER * max(MAD_TO_SIGMA * median(misses), 1e-6)
        weights = [1.0 if miss <= scale else scale / miss for miss in misses]
    free = Model(coefficients, sigma_floor_pts)
    residuals = [free.residual_pts(e) for e in evaluations]
    centre = median(residuals)
    sigma = MAD_TO_SIGMA * median(abs(r - centre) for r in residuals)
    return Model(coefficients, max(sigma_floor_pts, sigma))


def _terms(e: Evaluation) -> tuple[float, float, float, float]:
    heated = e.cold_degrees * min(1.0, e.dc_kwh / HEATED_WITHIN_KWH)
    return e.dc_kwh, e.charging_hours, heated, 1.0


def _weighted_ridge(
    columns: Sequence[Sequence[float]], weights: Sequence[float], priors: Sequence[float]
) -> tuple[float, ...]:
    """Minimise sum w*(1 - b.x)^2 + scatter^2 * sum ((b - prior) / spread)^2."""
    matrix = []
    for i, (prior, spread) in enumerate(zip(priors, _PRIOR_SPREAD, strict=True)):
        pull = (_SCATTER / spread) ** 2
        weighted = list(map(mul, weights, columns[i]))
        line = [sum(map(mul, weighted, column)) for column in columns]
        line[i] += pull
        matrix.append([*line, sum(weighted) + pull * prior])
    return _solve(matrix)


def _solve(matrix: list[list[float]]) -> tuple[float, ...]:
    """Gauss-Jordan with pivots; the ridge keeps the matrix regular."""
    size = len(matrix)
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(matrix[r][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        head = matrix[i][i]
        matrix[i] = [value / head for value in matrix[i]]
        for r in range(size):
            if r != i:
                factor = matrix[r][i]
                matrix[r] = [a - factor * b for a, b in zip(matrix[r], matrix[i], strict=True)]
    return tuple(row[size] for row in matrix)
