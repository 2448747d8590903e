"""Random shooting, and solvers that refine it: imagine many candidates, execute the one that ends nearest the goal."""

from __future__ import annotations

import time

import numpy as np
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.route import Sequences
from ghvae_core.predictor import GoalCost, Predictor
from planner.plan import Plan, Situation
from planner.proposals import Proposals
from planner.refinement import Refinement, RefinementConfig
from planner.search import Search
from planner.variant import SolverName


class SolverConfig(Config):
    """How many candidates are compared, how they come about, and how far they reach."""

    solver: SolverName = "shooting"  # paper E.1
    n_candidates: int = Field(default=200, ge=4)  # VP2 and Visual Foresight; the paper does not say
    budget_s: float | None = Field(default=None, gt=0)  # no further candidates once the next would end later; ours
    at_once: int = Field(default=50, ge=2)  # candidates imagined between two looks at the clock; ours
    horizon: int = Field(default=10, ge=1)  # actions of one candidate; paper E.1
    replan_every: int = Field(default=5, ge=1)  # actions executed of each plan; ours
    predict_timeout_s: float = Field(default=60.0, gt=0, le=60)  # longest wait for a server; ours
    n_videos: int = Field(default=4, ge=1)  # imagined videos kept of each plan, for the report; ours
    cost: GoalCost = GoalCost()  # how the end is weighed; handed to the predictor
    refinement: RefinementConfig = RefinementConfig()  # of all solvers but random shooting

    @model_validator(mode="after")
    def _check_horizon(self) -> SolverConfig:
        for name, value in (("replan_every", self.replan_every), ("cost.final_frames", self.cost.final_frames)):
            if value > self.horizon:
                raise ValueError(f"{name} ({value}) must not be above horizon ({self.horizon})")
        return self


class Solver:
    """Chooses the candidate of least cost. Without a budget in seconds, the same seed gives the same plan."""

    def __init__(self, config: SolverConfig, proposals: Proposals) -> None:
        self.config = config
        self._proposals = proposals
        self._refinement = None if config.solver == "shooting" else Refinement(config.solver, config.refinement)

    def plan(self, situation: Situation, predictor: Predictor, rng: np.random.Generator) -> Plan:
        """Propose, imagine, refine and imagine again, and choose.

        Of equal costs the first candidate wins, which is to hold still.

        Raises:
            PredictorError: No answer came, or one of the wrong shape.
            PlanError: No candidate has a finite cost.
        """
        search, started_s = Search(), time.monotonic()
        for n_round, n in enumerate(self._sizes()):
            round_s = time.monotonic()
            candidates = self._candidates(situation, search, n, n_round, rng)
            search.proposed(time.monotonic() - round_s)
            for part in self._parts(candidates):
                if self._is_late(search, len(part.families), time.monotonic() - started_s):
                    return search.plan(self.config.n_videos)
                n_videos = min(self.config.n_videos, len(part.families))
                asked_s = time.monotonic()
                prediction = predictor.predict(situation.context, part.actions, situation.goal, n_videos)
                search.add(part, prediction, time.monotonic() - asked_s)
        return search.plan(self.config.n_videos)

    def _sizes(self) -> list[int]:
        """Return how many candidates each round has."""
        n, refinement = self.config.n_candidates, self.config.refinement
        if self._refinement is None:
            return [n]
        first = max(2, round(refinement.first_share * n))
        ends = np.linspace(first, n, refinement.n_rounds + 1).round().astype(int)
        return [first, *(size for size in np.diff(ends).tolist() if size)]

    def _candidates(
        self, situation: Situation, search: Search, n: int, n_round: int, rng: np.random.Generator
    ) -> Sequences:
        if self._refinement is None or n_round == 0:
            return self._proposals.draw(situation, n, self.config.horizon, rng)
        return self._proposals.limited(situation, self._refinement.candidates(search.scored(), n, n_round - 1, rng))

    def _parts(self, candidates: Sequences) -> list[Sequences]:
        """Return the candidates in one part, or, when the clock decides, in several."""
        n = len(candidates.families)
        size = n if self.config.budget_s is None else self.config.at_once
        ends = range(0, n, max(1, size))
        return [Sequences(candidates.actions[i : i + size], candidates.families[i : i + size]) for i in ends]

    def _is_late(self, search: Search, n: int, elapsed_s: float) -> bool:
        """Tell whether `n` further candidates would take longer than there is time; the first part always fits."""
        budget_s = self.config.budget_s
        return budget_s is not None and elapsed_s + n * search.candidate_s > budget_s and search.n_scored > 0
