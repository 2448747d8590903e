"""Trainings in two processes of one torchrun launch; each process writes its results to a file."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ghvae_core.models.checkpoint import module_sha256
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.objective import Batch, Loss, Weights, module_loss
from ghvae_core.training.stages import TrainingConfig
from ghvae_core.training.trainer import Interrupted
from tests.ghvae_core.runs import after, make_trainer, never

CONFIG = TrainingConfig(
    module_steps=(3, 3),
    prior_finetune_steps=2,
    end_to_end_steps=3,
    rollout_steps=2,
    batch_windows=4,
    decoded_steps=2,
    ema_decay=0.9,
    validation_windows=4,
    feature_cache="all",
)
_HANGS_S = 100
_LATE_S = 0.5  # delay of the second process at every start; long enough for the first to save if it did not wait
SHARDED = CONFIG.model_copy(
    update={"module_steps": (0,), "end_to_end_steps": 4, "prior_finetune_steps": 1, "shard": True}
)


def main(folder: Path) -> None:
    """Run all trainings and write `rank_N.json`."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(
        _HANGS_S, exit=True
    )  # ten times the usual duration; prints the stack of each thread
    with ProcessGroup("cpu") as group:
        results: dict[str, Any] = {"largest": group.largest(group.rank, 10 - group.rank)}
        for name, config in (("plain", CONFIG), ("sharded", SHARDED)):
            results[name] = _train(folder / name, config, group, [never])
            results[f"{name} half"] = _train(folder / f"{name}_half", config, group, _stops(group, 2))
            stops = _stops(group, 2, 4) if name == "plain" else _stops(group, 3)
            results[f"{name} resumed"] = _train(folder / f"{name}_resumed", config, group, [*stops, never])
        with pytest.MonkeyPatch.context() as patch:
            _poison(patch, group)
            results["poisoned"] = _train(folder / "poisoned", CONFIG, group, [never])
    (folder / f"rank_{group.rank}.json").write_text(json.dumps(results))


def _stops(group: ProcessGroup, *steps: int) -> list[Callable[[], bool]]:
    """Return stop functions that stop only the second process, after the given steps of each start."""
    return [after(n_steps) if group.rank else never for n_steps in steps]


def _train(
    folder: Path, config: TrainingConfig, group: ProcessGroup, stops: list[Callable[[], bool]]
) -> dict[str, Any]:
    """Train with interruptions, each time with a new trainer; return the results."""
    losses: list[float] = []
    notes: list[str] = []
    for stop in stops:
        trainer, model, record = make_trainer(folder, config, group=group)
        time.sleep(group.rank * _LATE_S)
        trainer.resume()
        try:
            trainer.train(stop)
        except Interrupted:
            notes.append("interrupted")
        losses += [loss for _, _, loss in record.losses]
        notes += record.warnings
    return {"sha256": module_sha256(model.state_dict()), "losses": losses, "notes": notes}


def _poison(patch: pytest.MonkeyPatch, group: ProcessGroup) -> None:
    """Make the second loss of the second process NaN."""
    calls = [0]

    def poisoned(model: Ghvae, k: int, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
        calls[0] += 1
        loss = module_loss(model, k, batch, weights, generator)
        return loss._replace(total=loss.total * float("nan")) if (calls[0], group.rank) == (2, 1) else loss

    patch.setattr("ghvae_core.training.stages.module_loss", poisoned)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
