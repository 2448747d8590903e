"""Draws new candidates from scored ones by CEM, iCEM or MPPI, for each kind of candidate separately.

Candidates of different kinds (a grasp, a push, a gripper that closes one step later) have no meaningful mean, so kinds
are refined in parallel. Noise is added to the path of the hand, not to its steps: noise on a step would shift all
later positions. The switch times of the gripper are kept, and the candidate that holds still is not refined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.policies.waypoints import Sequences, follow
from planner.plan import HOLD
from robot_bridge.safety import MotionLimits

Method = Literal["cem", "icem", "mppi"]


class RefinementConfig(Config):
    """Parameters of the refinement. All defaults are ours, unless stated otherwise."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"first_share": "first_fraction", "least_sd_m": "min_sd_m"}

    n_rounds: int = Field(default=3, ge=1)  # after the first; Visual Foresight, VP2 and V-JEPA 2-AC: 3 to 10 in all
    first_fraction: float = Field(default=0.5, gt=0, lt=1)  # of the candidates, for the proposals
    n_kinds: int = Field(default=4, ge=1)  # kinds refined in parallel: those with the best candidates
    n_elites: int = Field(default=5, ge=1)  # of each kind
    min_sd_m: float = Field(default=0.004, ge=0)  # of a position: lower bound of CEM's standard deviation
    sd_m: float = Field(
        default=0.01, ge=0
    )  # of a position: iCEM's first round, all rounds of MPPI; a grasp allows 1 cm
    decay: float = Field(default=0.7, gt=0, le=1)  # factor of iCEM's standard deviation from round to round
    colour: float = Field(default=2.0, ge=0)  # power-law exponent of the noise over time; iCEM: 2 to 4; 0: white
    temperature: float = Field(default=0.5, gt=0)  # of MPPI's weights, in standard deviations of a kind's costs


class ScoredCandidates(NamedTuple):
    """Candidates and their costs."""

    candidates: Sequences
    costs: NDArray[np.float32]  # (N,) may hold NaN and infinity


class _Kind(NamedTuple):
    """The best candidates of one family with equal gripper commands: their positions can be averaged step by step."""

    family: str
    gripper: NDArray[np.float32]  # (T,)
    paths_m: NDArray[np.float64]  # (k, T, 3) of the hand, relative to its present position; best first
    costs: NDArray[np.float64]  # (k,) finite


class Refinement:
    """Draws candidates near the best scored ones.

    `cem` draws from a Gaussian around the mean of a kind's elites. `icem` adds coloured noise to each elite, less in
    each round. `mppi` adds coloured noise to the cost-weighted mean of a kind's elites; its first draw is that mean.
    """

    def __init__(self, method: Method, config: RefinementConfig, limits: MotionLimits) -> None:
        self._method = method
        self._config = config
        self._limits = limits

    def candidates(
        self, scored: ScoredCandidates, hand_m: NDArray[np.float64], n: int, n_round: int, rng: np.random.Generator
    ) -> Sequences:
        """Return `n` new candidates within the limits; none where no candidate can be refined.

        Args:
            scored: All candidates so far.
            hand_m: (3,) present position of the hand.
            n: Number of new candidates.
            n_round: Number of refinement rounds before this one.
            rng: Draws the candidates.
        """
        kinds = _kinds(scored, self._config)
        counts = [n // len(kinds) + (i < n % len(kinds)) for i in range(len(kinds))] if kinds else []
        actions = [np.empty((0, *scored.candidates.actions.shape[1:]), np.float32)]
        families: list[str] = []
        for kind, count in zip(kinds, counts, strict=True):
            paths_m = hand_m + self._paths(kind, count, n_round, rng)
            actions.append(follow(paths_m, kind.gripper, hand_m, self._limits))
            families += [kind.family] * count
        return Sequences(np.concatenate(actions), families)

    def _paths(self, kind: _Kind, n: int, n_round: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return new paths (n, T, 3) of one kind, in metres, relative to the present position of the hand."""
        config, shape = self._config, (n, *kind.paths_m.shape[1:])
        if self._method == "cem":
            sd_m = np.maximum(kind.paths_m.std(0), config.min_sd_m)
            return np.asarray(kind.paths_m.mean(0) + sd_m * rng.normal(size=shape))
        noise = config.sd_m * _noise(shape, config.colour, rng)
        if self._method == "icem":
            return np.asarray(kind.paths_m[np.arange(n) % len(kind.paths_m)] + config.decay**n_round * noise)
        noise[:1] = 0.0
        scale = max(float(kind.costs.std()) * config.temperature, 1e-12)
        weights = np.exp(-(kind.costs - kind.costs.min()) / scale)
        return np.asarray(np.tensordot(weights / weights.sum(), kind.paths_m, axes=1) + noise)


def _kinds(scored: ScoredCandidates, config: RefinementConfig) -> list[_Kind]:
    """Return the kinds with the best candidates, the best kind first."""
    actions, families = scored.candidates.actions, scored.candidates.families
    members: dict[tuple[str, bytes], list[int]] = {}
    for i in np.argsort(scored.costs, kind="stable").tolist():
        if np.isfinite(scored.costs[i]) and families[i] != HOLD:
            members.setdefault((families[i], actions[i, :, 3].tobytes()), []).append(i)
    kinds = []
    for (family, _), found in list(members.items())[: config.n_kinds]:
        best = found[: config.n_elites]
        paths_m = actions[best, :, :3].astype(np.float64).cumsum(1)
        kinds.append(_Kind(family, actions[best[0], :, 3], paths_m, scored.costs[best].astype(np.float64)))
    return kinds


def _noise(shape: Sequence[int], colour: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise (n, T, D) of unit standard deviation with a power spectrum of frequency**-colour over time."""
    n, horizon, d = shape
    frequencies = np.fft.rfftfreq(horizon)
    frequencies[0] = 1 / horizon  # equal to the next one, as in iCEM, so that the mean is not fixed at 0
    amplitudes = frequencies ** (-colour / 2)
    spectrum = amplitudes[:, None] * (rng.normal(size=(n, len(frequencies), d, 2)) @ np.array([1, 1j]))
    weights = np.full(len(frequencies), 4.0)  # real and imaginary part, of a frequency and its mirror
    weights[0] = 1.0
    if horizon % 2 == 0:
        weights[-1] = 1.0
    sd = np.sqrt((weights * amplitudes**2).sum()) / horizon
    return np.asarray(np.fft.irfft(spectrum, n=horizon, axis=1) / sd)
