"""Random shooting, and solvers that refine it: imagine many candidates, execute the one that ends nearest the goal."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.policies.waypoints import Sequences
from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import NonFiniteError, Prediction, Predictor, PredictorError
from planner.plan import Plan, PlanError, PlanningState
from planner.proposals import Proposals
from planner.refinement import Refinement, RefinementConfig, ScoredCandidates
from planner.trials.variant import SolverName


class CandidateSearch:
    """Grows part by part; the predictor's answers are checked on the way in."""

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
        """How many candidates have been weighed."""
        return len(self._families)

    @property
    def candidate_s(self) -> float:
        """Seconds that one candidate took on average, to come about and to be imagined; 0 before the first."""
        return sum(self._timing_s.values()) / max(1, self.n_scored)

    def proposed(self, duration_s: float) -> None:
        """Note how long candidates took to come about."""
        self._timing_s["propose"] += duration_s

    def add(self, candidates: Sequences, prediction: Prediction, duration_s: float) -> None:
        """Take what the predictor says of some candidates.

        Raises:
            PredictorError: The answer does not fit them.
        """
        _check(prediction, candidates.actions)
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
        """Return all candidates so far with their costs; at least one part has been added."""
        return ScoredCandidates(Sequences(np.concatenate(self._actions), self._families), np.concatenate(self._costs))

    def plan(self, n_videos: int) -> Plan:
        """Return the best candidate, and the videos of the best few.

        Raises:
            PlanError: No candidate has a finite cost.
        """
        candidates, costs = self.scored()
        index = _least(costs)
        best = sorted(self._videos, key=lambda i: (float(costs[i]), i))[:n_videos]
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


def _least(costs: NDArray[np.float32]) -> int:
    """Return the index of the least finite cost; NaN would win a plain argmin."""
    finite = np.isfinite(costs)
    if not finite.any():
        raise PlanError(
            f"expected at least one finite cost, got NaN or infinity for all {len(costs)} candidates; "
            "the checkpoint is broken or does not fit this scene"
        )
    return int(np.argmin(np.where(finite, costs, np.inf)))


def _check(prediction: Prediction, candidates: NDArray[np.float32]) -> None:
    n, horizon = candidates.shape[:2]
    k = len(prediction.best)
    if prediction.costs.shape != (n,) or prediction.videos.shape[:2] != (k, horizon):
        raise PredictorError(
            f"expected {n} costs and videos of {horizon} frames, got costs {prediction.costs.shape} and "
            f"videos {prediction.videos.shape} for {k} candidates"
        )
    if any(not 0 <= best < n for best in prediction.best.tolist()):
        raise PredictorError(f"expected the best of {n} candidates, got the indices {prediction.best.tolist()}")


class SolverConfig(Config):
    """How many candidates are compared, how they come about, and how far they reach."""

    solver: SolverName = "shooting"  # paper E.1
    n_candidates: int = Field(default=100, ge=4)  # ours; VP2 and Visual Foresight take 200, the paper does not say
    budget_s: float | None = Field(
        default=None, gt=0
    )  # as many of n_candidates as fit, at least one round; None: all; ours
    at_once: int = Field(default=50, ge=2)  # with a budget in seconds: between two looks at the clock; ours
    horizon: int = Field(default=10, ge=1)  # actions of one candidate; paper E.1
    replan_every: int = Field(default=5, ge=1)  # actions executed of each plan; ours
    predict_timeout_s: float = Field(default=60.0, gt=0, le=60)  # longest wait for a server; ours
    keys: str | None = None  # folder of this machine's keys (run_keys), for a server at tcp:// with keys
    n_videos: int = Field(default=4, ge=1)  # imagined videos kept of each plan, for the report; ours
    cost: GoalCost = GoalCost()  # how the end is weighed; handed to the predictor
    refinement: RefinementConfig = RefinementConfig()  # of all solvers but random shooting

    @model_validator(mode="after")
    def _check_horizon(self) -> SolverConfig:
        for name, value in (("replan_every", self.replan_every), ("cost.final_frames", self.cost.final_frames)):
            if value > self.horizon:
                raise ValueError(f"{name} ({value}) must not be above horizon ({self.horizon})")
        return self

    def rounds(self) -> list[int]:
        """Return how many candidates each round of a plan has."""
        if self.solver == "shooting":
            return [self.n_candidates]
        first = max(2, round(self.refinement.first_share * self.n_candidates))
        ends = np.linspace(first, self.n_candidates, self.refinement.n_rounds + 1).round().astype(int)
        return [first, *(size for size in np.diff(ends).tolist() if size)]

    def largest_request(self) -> int:
        """Return how many candidates are imagined at once."""
        largest = max(self.rounds())
        return largest if self.budget_s is None else min(largest, self.at_once)


class Solver:
    """Chooses the candidate of least cost. Without a budget in seconds, the same seed gives the same plan."""

    def __init__(self, config: SolverConfig, proposals: Proposals) -> None:
        self.config = config
        self._proposals = proposals
        refines = None if config.solver == "shooting" else config.solver
        self._refinement = Refinement(refines, config.refinement, proposals.limits) if refines else None

    def plan(self, state: PlanningState, predictor: Predictor, rng: np.random.Generator) -> Plan:
        """Propose, imagine, refine and imagine again, and choose.

        Of equal costs the first candidate wins, which is to hold still. Candidates without a finite cost are passed
        over, be it some of a request or all.

        Raises:
            PredictorError: No answer came, or one of the wrong shape.
            PlanError: No candidate has a finite cost.
        """
        search, started_s, ends = CandidateSearch(), time.monotonic(), 0
        for n_round, n in enumerate(self.config.rounds()):
            left, ends = n, ends + n
            while left > 0:
                size = self._size(left, ends, search, time.monotonic() - started_s)
                if size < 1:
                    break
                left -= size
                self._try(self._candidates(state, search, size, n_round, rng), state, predictor, search)
        return search.plan(self.config.n_videos)

    def _size(self, left: int, ends: int, search: CandidateSearch, elapsed_s: float) -> int:
        """Return how many candidates to imagine next, of `left` in this round; 0 when its share of the time is over.

        Args:
            left: How many are wanted.
            ends: How many candidates this round and those before it are to have.
            search: What the plan has tried.
            elapsed_s: Since the plan began.
        """
        if self.config.budget_s is None:
            return left
        size = min(left, self.config.at_once)
        if not search.n_scored:  # there is always a plan
            return size
        remaining_s = self.config.budget_s * ends / self.config.n_candidates - elapsed_s
        return max(0, min(size, int(remaining_s / max(search.candidate_s, 1e-9))))

    def _candidates(
        self, state: PlanningState, search: CandidateSearch, n: int, n_round: int, rng: np.random.Generator
    ) -> Sequences:
        started_s = time.monotonic()
        if self._refinement is None or n_round == 0:
            is_first = not search.n_scored
            drawn = self._proposals.draw(state, n, self.config.horizon, rng, is_first=is_first)
        else:
            hand_m = state.observation.state[:3]
            refined = self._refinement.candidates(search.scored(), hand_m, n, n_round - 1, rng)
            drawn = self._proposals.limited(state, refined)
        search.proposed(time.monotonic() - started_s)
        return drawn

    def _try(self, candidates: Sequences, state: PlanningState, predictor: Predictor, search: CandidateSearch) -> None:
        """Let candidates be imagined and weighed."""
        if not candidates.families:
            return
        n_videos = min(self.config.n_videos, len(candidates.families))
        started_s = time.monotonic()
        try:
            prediction = predictor.predict(state.context, candidates.actions, state.goal, n_videos)
        except NonFiniteError:  # of these; others may be better
            prediction = _worthless(candidates, state)
        search.add(candidates, prediction, time.monotonic() - started_s)


def _worthless(candidates: Sequences, state: PlanningState) -> Prediction:
    n, horizon = candidates.actions.shape[:2]
    videos = np.empty((0, horizon, *state.goal.shape), np.uint8)
    return Prediction(np.full(n, np.inf, np.float32), np.empty(0, np.int64), videos, {})
