"""New candidates from scored ones: CEM, iCEM and MPPI, each of them within one kind of candidate at a time.

Candidates of different kinds (a grasp here, a push there, a gripper that closes a step later) have no meaningful mean,
so kinds are refined side by side. What is varied is the path of the hand, not its steps: noise on a step would shift
every later place. The gripper's switch times stay as they were proposed, and to hold still is not refined at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.policies.waypoints import Sequences, follow
from planner.plan import HOLD
from robot_bridge.safety import MotionLimits

Method = Literal["cem", "icem", "mppi"]


class RefinementConfig(Config):
    """How candidates are varied. Numbers: ours, where nothing else is said."""

    n_rounds: int = Field(default=3, ge=1)  # after the first; Visual Foresight, VP2 and V-JEPA 2-AC have 3 to 10 in all
    first_share: float = Field(default=0.5, gt=0, lt=1)  # of the candidates, for the proposals
    n_kinds: int = Field(default=4, ge=1)  # refined side by side, those with the best candidates
    n_elites: int = Field(default=5, ge=1)  # of each kind
    least_sd_m: float = Field(default=0.004, ge=0)  # of a place; CEM's deviations do not fall below
    sd_m: float = Field(default=0.01, ge=0)  # of a place, in iCEM's first round and all of MPPI's; grasps bear 1 cm
    decay: float = Field(default=0.7, gt=0, le=1)  # of iCEM's deviation from round to round
    colour: float = Field(default=2.0, ge=0)  # power-law exponent of the noise over time; iCEM has 2 to 4, 0 is white
    temperature: float = Field(default=0.5, gt=0)  # of MPPI's weights, in standard deviations of a kind's costs


class ScoredCandidates(NamedTuple):
    """Candidates and what they cost."""

    candidates: Sequences
    costs: NDArray[np.float32]  # (N,) NaN and infinity included


class _Kind(NamedTuple):
    """The best candidates that may be compared place by place: of one family, with the same gripper commands."""

    family: str
    gripper: NDArray[np.float32]  # (T,)
    paths_m: NDArray[np.float64]  # (k, T, 3) of the hand, from where it is now; best first
    costs: NDArray[np.float64]  # (k,) finite


class Refinement:
    """Draws candidates near the best of those that were scored.

    `cem` draws from a Gaussian around the mean of a kind's elites; `icem` adds coloured noise, less each round, to each
    elite; `mppi` adds it to the mean of a kind's elites weighted by cost, and draws that mean itself first.
    """

    def __init__(self, method: Method, config: RefinementConfig, limits: MotionLimits) -> None:
        self._method = method
        self._config = config
        self._limits = limits

    def candidates(
        self, scored: ScoredCandidates, hand_m: NDArray[np.float64], n: int, n_round: int, rng: np.random.Generator
    ) -> Sequences:
        """Return `n` new candidates that keep to the limits; none where nothing can be refined.

        Args:
            scored: All candidates so far.
            hand_m: (3,) from where they start.
            n: How many.
            n_round: How many rounds of refinement went before.
            rng: Draws them.
        """
        kinds = _kinds(scored, self._config)
        shares = [n // len(kinds) + (i < n % len(kinds)) for i in range(len(kinds))] if kinds else []
        actions = [np.empty((0, *scored.candidates.actions.shape[1:]), np.float32)]
        families: list[str] = []
        for kind, share in zip(kinds, shares, strict=True):
            paths_m = hand_m + self._paths(kind, share, n_round, rng)
            actions.append(follow(paths_m, kind.gripper, hand_m, self._limits))
            families += [kind.family] * share
        return Sequences(np.concatenate(actions), families)

    def _paths(self, kind: _Kind, n: int, n_round: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return varied paths (n, T, 3) of one kind."""
        config, shape = self._config, (n, *kind.paths_m.shape[1:])
        if self._method == "cem":
            sd_m = np.maximum(kind.paths_m.std(0), config.least_sd_m)
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
    """Return noise (n, T, D) of unit deviation whose power falls with frequency**-colour over time."""
    n, horizon, d = shape
    frequencies = np.fft.rfftfreq(horizon)
    frequencies[0] = 1 / horizon  # as high as the next: iCEM's request, so that the mean is not fixed at 0
    amplitudes = frequencies ** (-colour / 2)
    spectrum = amplitudes[:, None] * (rng.normal(size=(n, len(frequencies), d, 2)) @ np.array([1, 1j]))
    weights = np.full(len(frequencies), 4.0)  # real and imaginary part, and the mirrored frequency's
    weights[0] = 1.0
    if horizon % 2 == 0:
        weights[-1] = 1.0
    sd = np.sqrt((weights * amplitudes**2).sum()) / horizon
    return np.asarray(np.fft.irfft(spectrum, n=horizon, axis=1) / sd)
