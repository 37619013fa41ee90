"""What size and data buy: nats fitted against the parameters and the training events of many runs.

In: the parameters N, the events of the training split D and the nats per unit of each run. Out: the law

    nats(N, D) = floor + size * (N / N0) ** -alpha + data * (D / D0) ** -beta

of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", with N0 and D0 those of the largest
run, so that `size` and `data` are the nats that it would still gain from more of either. The events are those
that there are, and not those that were read: small corpora are read many times.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from midigen_jax.study.metrics import INTERVAL

_FEWEST = 3  # sizes, and amounts of data: a law of fewer is no law
_LOWEST, _HIGHEST = 0.02, 4.0  # exponents; beyond them a term is as good as constant, or gone at once
_GRID = 24
_RESAMPLES = 200
_TRIES = 300  # of the solver, which takes many where two terms are alike


class Runs(NamedTuple):
    """Of each of R runs its parameters, its training events, and its nats per unit."""

    parameters_R: NDArray[np.float64]
    events_R: NDArray[np.float64]
    nats_R: NDArray[np.float64]


class Law(NamedTuple):
    """The constants of the law, all 0 or more; `floor`, `size` and `data` in nats per unit."""

    floor: float
    size: float
    alpha: float
    data: float
    beta: float


class Fitted(NamedTuple):
    """A law, its 95 % interval from a bootstrap over runs, and how far runs are from it."""

    law: Law
    low: Law
    high: Law
    parameters: float  # N0
    events: float  # D0
    error: float  # root mean square, as a share of a run's nats


def fit_law(runs: Runs) -> Fitted | None:
    """The law of least squared relative error; None for fewer than three sizes, or amounts of data."""
    if any(len(np.unique(values)) < _FEWEST for values in (runs.parameters_R, runs.events_R)):
        return None
    largest = runs.parameters_R.max(), runs.events_R.max()
    exponents = np.geomspace(_LOWEST, _HIGHEST, _GRID)
    start = min(
        ((alpha, beta) for alpha in exponents for beta in exponents),
        key=lambda pair: _linear(runs, largest, pair)[1],
    )
    law, error = _refine(runs, largest, start)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        chosen_R = rng.integers(len(runs.nats_R), size=len(runs.nats_R))
        again = Runs(*(values_R[chosen_R] for values_R in runs))
        drawn.append(_refine(again, largest, (law.alpha, law.beta))[0])
    low, high = (Law(*bounds) for bounds in np.quantile(drawn, INTERVAL, axis=0).tolist())
    return Fitted(law, low, high, float(largest[0]), float(largest[1]), error)


def _refine(runs: Runs, largest: tuple[float, float], start: Sequence[float]) -> tuple[Law, float]:
    """The best law near some exponents, and its error."""
    bounds = [(np.log(_LOWEST), np.log(_HIGHEST))] * 2
    found = minimize(
        lambda logs: _linear(runs, largest, np.exp(logs))[1],
        np.log(start),
        method="Nelder-Mead",
        bounds=bounds,
    )
    alpha, beta = np.exp(found.x).tolist()
    (floor, size, data), error = _linear(runs, largest, (alpha, beta))
    return Law(floor, size, alpha, data, beta), error


def _linear(
    runs: Runs, largest: tuple[float, float], exponents: Sequence[float]
) -> tuple[tuple[float, float, float], float]:
    """Given both exponents the law is linear: its three other constants, none below 0, and the error."""
    alpha, beta = exponents
    parameters, events = largest
    terms_R3 = np.stack(
        [
            np.ones_like(runs.nats_R),
            (runs.parameters_R / parameters) ** -alpha,
            (runs.events_R / events) ** -beta,
        ],
        axis=1,
    )
    constants, distance = nnls(terms_R3 / runs.nats_R[:, None], np.ones_like(runs.nats_R), maxiter=_TRIES)
    floor, size, data = constants.tolist()
    return (floor, size, data), float(distance / np.sqrt(len(runs.nats_R)))
