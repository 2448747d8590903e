"""Solvers: random shooting, and CEM, iCEM and MPPI, which refine the candidates of random shooting in rounds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.policies.waypoints import Sequences
from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import NonFiniteError, Prediction, Predictor, PredictorError
from planner.options import SolverName
from planner.plan import Plan, PlanError, PlanningState
from planner.proposals import Proposals
from planner.refinement import Refinement, RefinementConfig, ScoredCandidates

_VIDEOS_PER_SHOWN = 8  # predicted videos among which those to show are chosen, for each of `n_videos`; ours
_MAX_FRAMES = 320  # of all predicted videos of a request beyond `n_videos`: 4 MB; ours


class SolverConfig(Config):
    """Number, source and length of the candidates, and the cost that ranks them."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"at_once": "batch_size"}

    solver: SolverName = "shooting"  # paper E.1
    n_candidates: int = Field(default=100, ge=4)  # ours, as in the measured trials; VP2 and Visual Foresight: 200
    budget_s: float | None = Field(
        default=None, gt=0
    )  # time limit of a plan: as many candidates as fit, at least one batch; None: no limit; ours
    batch_size: int = Field(default=50, ge=2)  # candidates of one request under a time limit; ours
    horizon: int = Field(default=10, ge=1)  # actions of one candidate; paper E.1
    replan_every: int = Field(default=5, ge=1)  # actions executed of each plan; ours
    predict_timeout_s: float = Field(default=60.0, gt=0, le=60)  # of a server; ours: 5 s on two idle CPU cores
    load_timeout_s: float = Field(default=60.0, gt=0)  # for a server that still loads its model; ours
    keys: str | None = None  # folder of this machine's keys (run_keys), for a tcp:// server with keys
    n_videos: int = Field(default=4, ge=1)  # predicted videos of each plan in the report; ours
    cost: GoalCost = GoalCost()  # sent to the predictor with each request
    refinement: RefinementConfig = RefinementConfig()  # of all solvers but random shooting

    @model_validator(mode="after")
    def _check_horizon(self) -> SolverConfig:
        for name, value in (("replan_every", self.replan_every), ("cost.final_frames", self.cost.final_frames)):
            if value > self.horizon:
                raise ValueError(f"{name} ({value}) must not be above horizon ({self.horizon})")
        return self

    def rounds(self) -> list[int]:
        """Return the number of candidates of each round of a plan."""
        if self.solver == "shooting":
            return [self.n_candidates]
        first = max(2, round(self.refinement.first_fraction * self.n_candidates))
        ends = np.linspace(first, self.n_candidates, self.refinement.n_rounds + 1).round().astype(int)
        return [first, *(size for size in np.diff(ends).tolist() if size)]

    def largest_request(self) -> int:
        """Return the largest number of candidates in one request."""
        largest = max(self.rounds())
        return largest if self.budget_s is None else min(largest, self.batch_size)

    def videos_of(self, n_candidates: int) -> int:
        """Return the number of predicted videos to ask for in a request: more than are shown, to choose among them."""
        return min(
            max(self.n_videos, min(_VIDEOS_PER_SHOWN * self.n_videos, _MAX_FRAMES // self.horizon)), n_candidates
        )


class Solver:
    """Chooses the candidate of least cost. Without a time limit, the same seed gives the same plan."""

    def __init__(self, config: SolverConfig, proposals: Proposals) -> None:
        self.config = config
        self._proposals = proposals
        method = None if config.solver == "shooting" else config.solver
        self._refinement = Refinement(method, config.refinement, proposals.limits) if method else None

    def plan(self, state: PlanningState, predictor: Predictor, rng: np.random.Generator) -> Plan:
        """Propose candidates, predict, refine and predict again, and choose.

        Of equal costs the first candidate wins, which holds still. Candidates without a finite cost are never chosen.

        Raises:
            PredictorError: No reply, or one of an invalid shape.
            PlanError: No candidate has a finite cost.
        """
        search, started_s, target = _Search(), time.monotonic(), 0
        for n_round, n in enumerate(self.config.rounds()):
            left, target = n, target + n
            while left > 0:
                size = self._request_size(left, target, search, time.monotonic() - started_s)
                if size < 1:
                    break
                left -= size
                self._score(self._draw(state, search, size, n_round, rng), state, predictor, search)
        return search.plan(self.config.n_videos)

    def _request_size(self, left: int, target: int, search: _Search, elapsed_s: float) -> int:
        """Return the number of candidates of the next request; 0 when the time for this round is used up.

        Args:
            left: Candidates that this round still lacks.
            target: Candidates of this round and those before it.
            search: The candidates scored so far.
            elapsed_s: Time since the start of the plan.
        """
        if self.config.budget_s is None:
            return left
        size = min(left, self.config.batch_size)
        if not search.n_scored:  # there is always a plan
            return size
        remaining_s = self.config.budget_s * target / self.config.n_candidates - elapsed_s
        return max(0, min(size, int(remaining_s / max(search.candidate_s, 1e-9))))

    def _draw(self, state: PlanningState, search: _Search, n: int, n_round: int, rng: np.random.Generator) -> Sequences:
        """Return `n` new candidates: proposals in the first round, refined candidates afterwards."""
        started_s = time.monotonic()
        if self._refinement is None or n_round == 0:
            is_first = not search.n_scored
            drawn = self._proposals.draw(state, n, self.config.horizon, rng, is_first=is_first)
        else:
            hand_m = state.observation.state[:3]
            refined = self._refinement.candidates(search.scored(), hand_m, n, n_round - 1, rng)
            drawn = self._proposals.limited(state, refined)
        search.add_propose_time(time.monotonic() - started_s)
        return drawn

    def _score(self, candidates: Sequences, state: PlanningState, predictor: Predictor, search: _Search) -> None:
        """Predict candidates and add them with their costs to the search."""
        if not candidates.families:
            return
        n_videos = self.config.videos_of(len(candidates.families))
        started_s = time.monotonic()
        try:
            prediction = predictor.predict(state.context, candidates.actions, state.goal, n_videos)
        except NonFiniteError:  # of this request; candidates of others may have finite costs
            n, horizon = candidates.actions.shape[:2]
            no_videos = np.empty((0, horizon, *state.goal.shape), np.uint8)
            prediction = Prediction(np.full(n, np.inf, np.float32), np.empty(0, np.int64), no_videos, {})
        search.add(candidates, prediction, time.monotonic() - started_s)


class _Search:
    """The scored candidates of one plan, request by request."""

    def __init__(self) -> None:
        self._actions: list[NDArray[np.float32]] = []
        self._families: list[str] = []
        self._costs: list[NDArray[np.float32]] = []
        self._videos: dict[int, NDArray[np.uint8]] = {}  # by candidate, of finite cost
        self._no_videos = np.empty((0, 0, 64, 64, 3), np.uint8)
        self._timing_s = {"propose": 0.0, "predict": 0.0}
        self._predictor_timing_s: defaultdict[str, float] = defaultdict(float)

    @property
    def n_scored(self) -> int:
        """Number of scored candidates."""
        return len(self._families)

    @property
    def candidate_s(self) -> float:
        """Mean time to propose and predict one candidate; 0 before the first."""
        return sum(self._timing_s.values()) / max(1, self.n_scored)

    def add_propose_time(self, duration_s: float) -> None:
        """Add the time that it took to draw candidates."""
        self._timing_s["propose"] += duration_s

    def add(self, candidates: Sequences, prediction: Prediction, duration_s: float) -> None:
        """Add candidates with their prediction.

        Raises:
            PredictorError: The shapes of the prediction do not match the candidates.
        """
        _check_prediction(prediction, candidates.actions)
        for best, video in zip(prediction.best.tolist(), prediction.videos, strict=True):
            if np.isfinite(prediction.costs[best]):
                self._videos[self.n_scored + best] = video
        self._no_videos = prediction.videos[:0]
        self._actions.append(candidates.actions)
        self._families += candidates.families
        self._costs.append(prediction.costs)
        self._timing_s["predict"] += duration_s
        for stage, stage_s in prediction.timing_s.items():
            self._predictor_timing_s[stage] += stage_s

    def scored(self) -> ScoredCandidates:
        """Return all candidates with their costs; needs at least one `add`."""
        return ScoredCandidates(Sequences(np.concatenate(self._actions), self._families), np.concatenate(self._costs))

    def plan(self, n_videos: int) -> Plan:
        """Return the candidate of least cost, and its video with those of others that differ from it.

        Raises:
            PlanError: No candidate has a finite cost.
        """
        candidates, costs = self.scored()
        index = _argmin_finite(costs)
        ranked = sorted(self._videos, key=lambda i: (float(costs[i]), i))
        best = sorted(self._varied(ranked, n_videos), key=ranked.index)
        return Plan(
            actions=candidates.actions[index],
            cost=float(costs[index]),
            index=index,
            families=candidates.families,
            costs=costs,
            best=best,
            videos=np.array([self._videos[i] for i in best]) if best else self._no_videos,
            timing_s=dict(self._timing_s),
            predictor_timing_s=dict(self._predictor_timing_s),
        )

    def _varied(self, ranked: Sequence[int], n: int) -> list[int]:
        """Return at most `n` candidates whose predicted videos differ: the best one, then other families first.

        Args:
            ranked: Candidates with videos, best first.
            n: Most candidates to return.
        """
        chosen = list(ranked[:1])
        while len(chosen) < min(n, len(ranked)):
            left = [i for i in ranked if i not in chosen]
            families = {self._families[i] for i in chosen}
            best_of_others = {self._families[i]: i for i in reversed(left) if self._families[i] not in families}
            chosen.append(max(best_of_others.values() or left, key=lambda i: self._least_difference(i, chosen)))
        return chosen

    def _least_difference(self, candidate: int, others: Sequence[int]) -> float:
        """Return the least mean squared difference of a candidate's video to those of others."""
        video = self._videos[candidate].astype(np.float32)
        return min(float(np.mean((video - self._videos[other]) ** 2)) for other in others)


def _argmin_finite(costs: NDArray[np.float32]) -> int:
    """Return the index of the least finite cost (a plain argmin returns NaN first)."""
    finite = np.isfinite(costs)
    if not finite.any():
        raise PlanError(
            f"expected at least one finite cost, got NaN or infinity for all {len(costs)} candidates; "
            "the checkpoint is damaged or was trained for other scenes"
        )
    return int(np.argmin(np.where(finite, costs, np.inf)))


def _check_prediction(prediction: Prediction, candidates: NDArray[np.float32]) -> None:
    """Refuse a prediction whose shapes do not match the candidates (N, T, 4)."""
    n, horizon = candidates.shape[:2]
    k = len(prediction.best)
    if prediction.costs.shape != (n,) or prediction.videos.shape[:2] != (k, horizon):
        raise PredictorError(
            f"expected {n} costs and videos of {horizon} frames, got costs {prediction.costs.shape} and "
            f"videos {prediction.videos.shape} for {k} candidates"
        )
    if any(not 0 <= best < n for best in prediction.best.tolist()):
        raise PredictorError(f"expected the best of {n} candidates, got the indices {prediction.best.tolist()}")
