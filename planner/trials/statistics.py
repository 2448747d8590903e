"""What a series of trials tells: rates with intervals, and two variants compared on the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from planner.trials.trial import Trial
from planner.trials.variant import VariantName


@dataclass(frozen=True)
class SuccessRate:
    """So many of so many."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        """The share, 0 to 1; None of nothing."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of Wilson (1927), low and high, each 0 to 1; None of nothing."""
        if not self.of:
            return None
        low, high = binomtest(self.count, self.of).proportion_ci(0.95, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class PairedOutcomes:
    """Two ways of doing the same trials: in how many of them which one succeeded."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[bool, bool]]) -> PairedOutcomes:
        """Count pairs of A's and B's success in one trial."""
        return cls(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def p_value(self) -> float:
        """The exact two-sided McNemar test: how likely the trials that differ would be as uneven by chance alone."""
        differing = self.only_a + self.only_b
        return float(binomtest(self.only_a, differing).pvalue) if differing else 1.0


TUNING_SEEDS = 1000  # settings are tuned on seeds below; what is reported comes from seeds above
MEASURES = {  # of a trial, in the words of a table
    "success": "done with the tool",
    "goal": "objects in place",
    "picked": "tool lifted",
    "touched": "tool at an object",
}

Table = list[list[str]]  # rows of cells, the head first


@dataclass(frozen=True)
class TrialGroup:
    """The trials of one task and one variant."""

    task: str
    variant: VariantName
    n_planned: int
    trials: list[Trial]  # all that are over, in the order of their seeds

    @property
    def counted(self) -> list[Trial]:
        """The trials that the rates are of."""
        return [trial for trial in self.trials if trial.status == "counted"]

    def success_rate(self, measure: str) -> SuccessRate:
        """Return how many of the counted trials achieved a measure."""
        return SuccessRate(sum(getattr(trial, measure) for trial in self.counted), len(self.counted))

    @property
    def steps(self) -> float | None:
        """Actions of a trial, mean."""
        return _mean([float(trial.steps) for trial in self.counted], 1)

    @property
    def seconds_per_plan(self) -> float | None:
        """Of every plan of the counted trials, mean."""
        timed = [trial for trial in self.counted if trial.seconds_per_plan is not None]
        n_plans = sum(trial.plans for trial in timed)
        return round(sum((t.seconds_per_plan or 0) * t.plans for t in timed) / n_plans, 4) if n_plans else None

    def ranked(self) -> list[Trial]:
        """Return the counted trials, the best first."""
        return sorted(self.counted, key=_rank)


def _rank(trial: Trial) -> tuple[bool, bool, bool, bool, float, int]:
    away_m = float("inf") if trial.away_m is None else trial.away_m
    return not trial.success, not trial.goal, not trial.touched, not trial.picked, away_m, trial.steps


def paired(a: TrialGroup, b: TrialGroup, measure: str) -> PairedOutcomes:
    """Compare two variants of a task on the seeds that count for both."""
    of_a, of_b = ({trial.seed: getattr(trial, measure) for trial in group.counted} for group in (a, b))
    return PairedOutcomes.of([(of_a[seed], of_b[seed]) for seed in of_a if seed in of_b])


def as_json(groups: Sequence[TrialGroup], report: str) -> dict[str, Any]:
    """Return task -> numbers of A; where there is a B, `against` holds its numbers and `paired` the comparison.

    `success_rate` counts trials in which the objects came to where the task wants them, however (`goal`);
    `strict_success_rate` those in which it was done with the tool, as the paper means it (`success`).
    """
    told: dict[str, Any] = {}
    for task, (a, *others) in by_task(groups).items():
        told[task] = {**_numbers(a), "report": report}
        for b in others:
            told[task]["against"] = _numbers(b)
            told[task]["paired"] = {
                name: {**asdict(pair), "p_value": round(pair.p_value, 6)}
                for name, pair in ((name, paired(a, b, name)) for name in MEASURES)
            }
    return told


def by_task(groups: Sequence[TrialGroup]) -> dict[str, list[TrialGroup]]:
    """Return the groups of each task, A first."""
    tasks: dict[str, list[TrialGroup]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks


def _numbers(group: TrialGroup) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    names = {"goal": "success", "success": "strict_success", "picked": "picked", "touched": "touched"}
    for measure, name in names.items():
        success_rate = group.success_rate(measure)
        rate, interval = success_rate.rate, success_rate.interval
        numbers[f"{name}_rate"] = None if rate is None else round(rate, 4)
        numbers["interval" if measure == "goal" else f"{name}_interval"] = interval and [round(x, 4) for x in interval]
    return {
        **numbers,
        "trials": len(group.counted),
        "planned": group.n_planned,
        "left_out": [trial.seed for trial in group.trials if trial.status == "left out"],
        "broken_off": [trial.seed for trial in group.trials if trial.status == "broken off"],
        "steps": group.steps,
        "seconds_per_plan": group.seconds_per_plan,
    }


def rates_table(groups: Sequence[TrialGroup]) -> Table:
    """Return the rates of each task and variant, a row a measure, and below them what a trial took."""
    table = [["task", "", "", "trials", "share", "95 % interval"]]
    for group in groups:
        for measure, words in MEASURES.items():
            found = group.success_rate(measure)
            rate, (low, high) = found.rate or 0.0, found.interval or (0.0, 1.0)
            share = [f"{100 * rate:.0f} %", f"{100 * low:.0f} to {100 * high:.0f} %"] if found.of else ["-", "-"]
            table.append([group.task, group.variant, words, f"{found.count} of {found.of}", *share])
        for value, words in ((group.steps, "actions of a trial"), (group.seconds_per_plan, "seconds a plan")):
            table.append([group.task, group.variant, words, "" if value is None else f"{value:.3g}", "", ""])
    return table


def paired_table(groups: Sequence[TrialGroup]) -> Table:
    """Return a row a task and measure; only the head where there is no second variant."""
    table = [["task", "on the same scenes", "both", "only A", "only B", "neither", "p (McNemar)"]]
    for task, members in by_task(groups).items():
        for name, words in MEASURES.items() if len(members) > 1 else ():
            pair = paired(members[0], members[1], name)
            counts = (pair.both, pair.only_a, pair.only_b, pair.neither)
            table.append([task, words, *map(str, counts), f"{pair.p_value:.3g}"])
    return table


def notes(groups: Sequence[TrialGroup], seeds: range) -> list[str]:
    """Return what has to be known to judge the numbers."""
    lines = [
        "The intervals are Wilson's. Done with the tool: lifted, then touched an object with it, and the"
        " objects came to where the task wants them, as the paper counts success.",
    ]
    if seeds.start < TUNING_SEEDS:
        lines.append(
            f"Seeds {seeds.start} to {seeds.stop - 1}: those below {TUNING_SEEDS} are for tuning; report numbers of"
            f" seeds from {TUNING_SEEDS} on."
        )
    for status, meaning in (
        ("left out", "without a goal: the scripted arm, which makes it, does not do the scene"),
        ("broken off", "by the machine, not counted"),
    ):
        lines += [
            f"{trial.task}, {trial.variant}, seed {trial.seed} {status} ({meaning}): {trial.reason}"
            for group in groups
            for trial in group.trials
            if trial.status == status
        ]
    lines += [
        f"{trial.task}, {trial.variant}, seed {trial.seed} ended by a failure, which counts: {trial.reason}"
        for group in groups
        for trial in group.counted
        if trial.reason
    ]
    return lines


def _mean(values: Sequence[float], digits: int) -> float | None:
    return round(sum(values) / len(values), digits) if values else None
