"""Output of a training run: each stage shows the terms that its loss has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ghvae_core.training.logger import TrainingLog
from ghvae_core.training.objective import Kind
from ghvae_core.training.stages import TrainingStage
from ghvae_core.training.trainer import TrainingJob


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("module", "stage  mse 0.25000  kl 3.0"),
        ("end_to_end", "stage  mse 0.25000  kl 3.0"),
        ("prior_finetune", "stage  kl 3.0"),
        ("rollout", "stage  mse 0.25000"),
    ],
)
def test_terms_that_a_stage_does_not_have_are_left_out(
    kind: Kind, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = TrainingStage("stage", kind, 1, 1, 40, 1e-3, "learning_rate", 1.0)
    log = TrainingLog(tmp_path, cast("TrainingJob", SimpleNamespace(plan=[stage])), cast("Any", None))
    details: list[str] = []
    monkeypatch.setattr(log, "_bar", SimpleNamespace(update=lambda _, detail: details.append(detail)))
    log.step(stage, 1, {"total": 1.0, "mse": 0.25, "kl": 3.0})
    assert details == [shown]
