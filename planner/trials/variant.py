"""A variant: one predictor and one set of overrides. Two variants are compared on the same scenes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from configs.command import refuse_unused
from configs.loader import ConfigError
from planner.options import MODEL_PREDICTORS, PredictorChoice, PredictorName

VariantName = Literal["A", "B"]


@dataclass(frozen=True)
class Variant:
    """One side of a comparison."""

    name: VariantName
    predictor: PredictorChoice
    overrides: tuple[str, ...]  # of the configuration, as after `--set`

    def changed(self, texts: Sequence[str]) -> Variant:
        """Return variant B: this variant with changes.

        A change is a configuration override, or one of `predictor=`, `checkpoint=` and `server=`. A change of the
        predictor or the checkpoint drops the server of this variant.

        Args:
            texts: Each holds one or more changes, separated by spaces.

        Raises:
            ReportedError: A change cannot be parsed, or has no effect.
        """
        predictor, overrides = self.predictor, self.overrides
        for change in _split(texts):
            key, _, value = change.partition("=")
            if key == "predictor":
                predictor = replace(predictor, name=_predictor_name(value), server=None)
            elif key == "checkpoint":
                predictor = replace(predictor, checkpoint=Path(value), server=None)
            elif key == "server":
                predictor = replace(predictor, server=value)
            else:
                overrides = (*overrides, change)
        refuse_unused({"server=": bool(predictor.server) and predictor.name != "server"}, f"with {predictor.name}")
        return Variant("B", predictor, overrides)

    def __str__(self) -> str:
        chosen = self.predictor
        source = chosen.server or str(chosen.checkpoint) if chosen.name in MODEL_PREDICTORS else ""
        return " ".join(part for part in (chosen.name, source, *self.overrides) if part)


def _split(texts: Sequence[str]) -> list[str]:
    try:
        return [change for text in texts for change in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"--compare: expected changes separated by spaces, got: {error}") from None


def _predictor_name(text: str) -> PredictorName:
    for known in get_args(PredictorName):
        if text == known:
            return text  # type: ignore[return-value]
    raise ConfigError(f"--compare predictor={text}: expected one of {', '.join(get_args(PredictorName))}")
