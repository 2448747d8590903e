"""Statistics of trials: success rates with intervals, and two variants compared on the same scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_collection.reports import html
from planner.record import BY_PERSON, BY_SIMULATION
from planner.task_words import task_words
from planner.trials.trial import Status, Trial
from planner.trials.variant import VariantName

_FEW = 10  # trials below which the report warns of the uncertainty; ours
TUNING_SEEDS = 1000  # settings are tuned on seeds below; reported numbers come from seeds above
MEASURES = {  # of a trial: field, and label in tables
    "success": "done",
    "goal": "objects in place",
    "picked": "tool lifted",
    "touched": "tool touched an object",
}
MEASURES_BY_PERSON = {"success": "done, as a person judged"}
_JSON_NAMES_BY_PERSON = {"success": "success"}
_JSON_NAMES = {"goal": "success", "success": "strict_success", "picked": "picked", "touched": "touched"}

Table = list[list[str]]  # rows of cells, the header first


@dataclass(frozen=True)
class SuccessRate:
    """A number of successes among a number of trials."""

    count: int
    of: int

    @property
    def rate(self) -> float | None:
        """Fraction, 0 to 1; None without trials."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of Wilson (1927), low and high, each 0 to 1; None without trials."""
        if not self.of:
            return None
        from scipy.stats import binomtest  # noqa: PLC0415 - takes longer to import than all else together

        low, high = binomtest(self.count, self.of).proportion_ci(0.95, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class PairedOutcomes:
    """Numbers of trials by the success of two variants in the same scene."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[bool, bool]]) -> PairedOutcomes:
        """Count pairs of A's and B's success."""
        return cls(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def p_value(self) -> float:
        """The p-value of the exact two-sided McNemar test."""
        from scipy.stats import binomtest  # noqa: PLC0415

        differing = self.only_a + self.only_b
        return float(binomtest(self.only_a, differing).pvalue) if differing else 1.0


@dataclass(frozen=True)
class TrialGroup:
    """The trials of one task and one variant."""

    task: str
    variant: VariantName
    n_planned: int
    trials: list[Trial]  # finished ones, in the order of their seeds

    @property
    def counted(self) -> list[Trial]:
        """The trials that the rates count."""
        return self.with_status("counted")

    @property
    def steps(self) -> float | None:
        """Mean number of actions of a counted trial."""
        n_steps = [trial.steps for trial in self.counted]
        return round(sum(n_steps) / len(n_steps), 1) if n_steps else None

    @property
    def seconds_per_plan(self) -> float | None:
        """Mean time of a plan, over all plans of the counted trials."""
        timed = [trial for trial in self.counted if trial.seconds_per_plan is not None]
        n_plans = sum(trial.plans for trial in timed)
        return round(sum((t.seconds_per_plan or 0) * t.plans for t in timed) / n_plans, 4) if n_plans else None

    def with_status(self, status: Status) -> list[Trial]:
        """Return the trials of one status."""
        return [trial for trial in self.trials if trial.status == status]

    def success_rate(self, measure: str) -> SuccessRate:
        """Return how many of the counted trials achieved a measure."""
        return SuccessRate(sum(bool(getattr(trial, measure)) for trial in self.counted), len(self.counted))


def judged_by(groups: Sequence[TrialGroup]) -> str:
    """Return who judged the trials: "person" on a real robot, otherwise "simulation"."""
    return next((trial.judged_by for group in groups for trial in group.trials), BY_SIMULATION)


def measures(groups: Sequence[TrialGroup]) -> dict[str, str]:
    """Return what was measured of each trial: field, and label in tables. A person judges success alone."""
    return MEASURES_BY_PERSON if judged_by(groups) == BY_PERSON else MEASURES


def paired(a: TrialGroup, b: TrialGroup, measure: str) -> PairedOutcomes:
    """Compare two variants of a task on the seeds that are counted for both."""
    of_a, of_b = ({trial.seed: getattr(trial, measure) for trial in group.counted} for group in (a, b))
    return PairedOutcomes.of([(of_a[seed], of_b[seed]) for seed in of_a if seed in of_b])


def by_task(groups: Sequence[TrialGroup]) -> dict[str, list[TrialGroup]]:
    """Return the groups of each task, A first."""
    tasks: dict[str, list[TrialGroup]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks


def as_json(groups: Sequence[TrialGroup], report: str) -> dict[str, Any]:
    """Return task -> numbers of A; with a variant B, `compare` holds its numbers and `paired` the comparison.

    `success_rate` counts the trials with the objects in place, by any means (`goal`); `strict_success_rate` those done
    with the tool, as the paper defines success (`success`). Where a person judged, there is `success_rate` alone.
    """
    numbers: dict[str, Any] = {}
    by_person = judged_by(groups) == BY_PERSON
    for task, (a, *others) in by_task(groups).items():
        numbers[task] = {"judged_by": judged_by(groups), **_numbers(a, by_person), "report": report}
        for b in others:
            pairs = {measure: paired(a, b, measure) for measure in measures(groups)}
            numbers[task]["compare"] = _numbers(b, by_person)
            numbers[task]["paired"] = {
                measure: {**asdict(pair), "p_value": round(pair.p_value, 6)} for measure, pair in pairs.items()
            }
    return numbers


def _numbers(group: TrialGroup, by_person: bool) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for measure, name in (_JSON_NAMES_BY_PERSON if by_person else _JSON_NAMES).items():
        found = group.success_rate(measure)
        rate, interval = found.rate, found.interval
        numbers[f"{name}_rate"] = None if rate is None else round(rate, 4)
        numbers["interval" if name == "success" else f"{name}_interval"] = interval and [round(x, 4) for x in interval]
    return {
        **numbers,
        "trials": len(group.counted),
        "planned": group.n_planned,
        "excluded": [trial.seed for trial in group.with_status("excluded")],
        "aborted": [trial.seed for trial in group.with_status("aborted")],
        "steps": group.steps,
        "seconds_per_plan": group.seconds_per_plan,
    }


def rates_table(groups: Sequence[TrialGroup]) -> Table:
    """Return one row per task, variant and measure, followed by the mean actions and planning time."""
    table = [["task", "variant", "measure", "value", "rate", "95 % interval"]]
    for group in groups:
        for measure, label in measures(groups).items():
            found = group.success_rate(measure)
            rate, (low, high) = found.rate or 0.0, found.interval or (0.0, 1.0)
            cells = [f"{100 * rate:.0f} %", f"{100 * low:.0f} to {100 * high:.0f} %"] if found.of else ["-", "-"]
            table.append([group.task, group.variant, label, f"{found.count} of {found.of}", *cells])
        for value, label in ((group.steps, "actions per trial"), (group.seconds_per_plan, "seconds per plan")):
            table.append([group.task, group.variant, label, "" if value is None else f"{value:.3g}", "", ""])
    return table


def paired_table(groups: Sequence[TrialGroup]) -> Table:
    """Return one row per task and measure; the header alone without a second variant."""
    table = [["task", "on the same scenes", "both", "only A", "only B", "neither", "p (McNemar)"]]
    for task, members in by_task(groups).items():
        for measure, label in measures(groups).items() if len(members) > 1 else ():
            pair = paired(members[0], members[1], measure)
            counts = (pair.both, pair.only_a, pair.only_b, pair.neither)
            table.append([task, label, *map(str, counts), f"{pair.p_value:.3g}"])
    return table


def notes(groups: Sequence[TrialGroup], seeds: range) -> list[str]:
    """Return what the numbers depend on: definitions, tuning seeds, and each trial that ended irregularly."""
    by_person = judged_by(groups) == BY_PERSON
    places = ", ".join(f"{task}: {task_words(task).in_place}" for task in by_task(groups))
    by_simulation = (
        "Done, as Wu et al. (2021) count success: the tool was lifted, touched an object, and every object is in place"
        f" ({places}), which need not be where the goal image shows it. Objects in place: with or without the tool."
    )
    lines = ["A person judged each trial." if by_person else by_simulation]
    n_least = min((len(group.counted) for group in groups), default=0)
    if n_least < _FEW:
        lines.append(
            f"{html.count(n_least, 'trial')} of a task and variant are few: the rate may be far off, see the interval."
        )
    lines.append("95 % intervals are score intervals (Wilson 1927).")
    if seeds.start < TUNING_SEEDS and not by_person:
        lines.append(
            f"Seeds {seeds.start} to {seeds.stop - 1}: seeds below {TUNING_SEEDS} are for tuning; report numbers of"
            f" seeds from {TUNING_SEEDS}."
        )
    meanings: dict[Status, str] = {
        "excluded": "no goal: the scripted policy, which makes it, fails in this scene",
        "aborted": "by an error of the machine, not counted",
    }
    for status, meaning in meanings.items():
        lines += [
            f"{trial.task}, {trial.variant}, seed {trial.seed} {status} ({meaning}): {trial.reason}"
            for group in groups
            for trial in group.with_status(status)
        ]
    lines += [
        f"{trial.task}, {trial.variant}, seed {trial.seed} ended by a failure, which is counted: {trial.reason}"
        for group in groups
        for trial in group.counted
        if trial.reason
    ]
    return lines
