"""Random shooting, and solvers that refine it: imagine many candidates, execute the one that ends nearest the goal."""

from __future__ import annotations

import time

import numpy as np
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.policies.waypoints import Sequences
from ghvae_core.predictor import GoalCost, NonFiniteError, Prediction, Predictor
from planner.plan import Plan, Situation
from planner.proposals import Proposals
from planner.refinement import Refinement, RefinementConfig
from planner.search import Search
from planner.trials.variant import SolverName


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

    def plan(self, situation: Situation, predictor: Predictor, rng: np.random.Generator) -> Plan:
        """Propose, imagine, refine and imagine again, and choose.

        Of equal costs the first candidate wins, which is to hold still. Candidates without a finite cost are passed
        over, be it some of a request or all.

        Raises:
            PredictorError: No answer came, or one of the wrong shape.
            PlanError: No candidate has a finite cost.
        """
        search, started_s, ends = Search(), time.monotonic(), 0
        for n_round, n in enumerate(self.config.rounds()):
            left, ends = n, ends + n
            while left > 0:
                size = self._size(left, ends, search, time.monotonic() - started_s)
                if size < 1:
                    break
                left -= size
                self._try(self._candidates(situation, search, size, n_round, rng), situation, predictor, search)
        return search.plan(self.config.n_videos)

    def _size(self, left: int, ends: int, search: Search, elapsed_s: float) -> int:
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
        self, situation: Situation, search: Search, n: int, n_round: int, rng: np.random.Generator
    ) -> Sequences:
        started_s = time.monotonic()
        if self._refinement is None or n_round == 0:
            is_first = not search.n_scored
            drawn = self._proposals.draw(situation, n, self.config.horizon, rng, is_first=is_first)
        else:
            hand_m = situation.observation.state[:3]
            refined = self._refinement.candidates(search.scored(), hand_m, n, n_round - 1, rng)
            drawn = self._proposals.limited(situation, refined)
        search.proposed(time.monotonic() - started_s)
        return drawn

    def _try(self, candidates: Sequences, situation: Situation, predictor: Predictor, search: Search) -> None:
        """Let candidates be imagined and weighed."""
        if not candidates.families:
            return
        n_videos = min(self.config.n_videos, len(candidates.families))
        started_s = time.monotonic()
        try:
            prediction = predictor.predict(situation.context, candidates.actions, situation.goal, n_videos)
        except NonFiniteError:  # of these; others may be better
            prediction = _worthless(candidates, situation)
        search.add(candidates, prediction, time.monotonic() - started_s)


def _worthless(candidates: Sequences, situation: Situation) -> Prediction:
    n, horizon = candidates.actions.shape[:2]
    videos = np.empty((0, horizon, *situation.goal.shape), np.uint8)
    return Prediction(np.full(n, np.inf, np.float32), np.empty(0, np.int64), videos, {})
