"""Who does the trials: a way to imagine and a set of overrides; two of them are compared on the same scenes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from configs.loader import ConfigError

PredictorName = Literal["server", "in_process", "oracle", "copy", "random"]
MODELS = ("server", "in_process")  # the predictors that need a checkpoint
SolverName = Literal["shooting", "cem", "icem", "mppi"]
SHIPPED = Path(__file__).resolve().parents[2] / "ghvae_core" / "checkpoints" / "tiny"  # the model to begin with
SECTIONS = "robot, task, planner, predictor, difference or policy"  # of a run's configuration, for --help
VariantName = Literal["A", "B"]


@dataclass(frozen=True)
class Variant:
    """All that tells one side of a comparison from the other."""

    name: VariantName
    predictor: PredictorName
    checkpoint: Path
    server: str | None
    overrides: tuple[str, ...]

    def changed(self, texts: Sequence[str]) -> Variant:
        """Return B: this variant with changes, each text holding one or more separated by spaces.

        A change is an override of the configuration, or one of `predictor=`, `checkpoint=` and `server=`. Another
        predictor or checkpoint leaves the server of this variant aside.

        Raises:
            ConfigError: A change cannot be read.
        """
        other = replace(self, name="B")
        for change in _split(texts):
            key, _, value = change.partition("=")
            if key == "predictor":
                other = replace(other, predictor=_predictor(value), server=None)
            elif key == "checkpoint":
                other = replace(other, checkpoint=Path(value), server=None)
            elif key == "server":
                other = replace(other, server=value)
            else:
                other = replace(other, overrides=(*other.overrides, change))
        return other

    def __str__(self) -> str:
        who = self.server or str(self.checkpoint) if self.predictor in MODELS else ""
        return " ".join(part for part in (self.predictor, who, *self.overrides) if part)


def solver_override(solver: SolverName | None) -> tuple[str, ...]:
    """Return the override that chooses a solver, or none."""
    return () if solver is None else (f"planner.solver={solver}",)


def _split(texts: Sequence[str]) -> list[str]:
    try:
        return [change for text in texts for change in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"--against: expected changes separated by spaces, got: {error}") from None


def _predictor(name: str) -> PredictorName:
    for known in get_args(PredictorName):
        if name == known:
            return name  # type: ignore[return-value]
    raise ConfigError(f"--against predictor={name}: expected one of {', '.join(get_args(PredictorName))}")
