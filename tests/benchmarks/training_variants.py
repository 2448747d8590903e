"""Settings of greedy training compared at small size: which of them make predictions sharper and follow the actions."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from configs.command import run
from tests.benchmarks.ablations import LITERAL
from tests.benchmarks.study import (
    NO_STEPS,
    DataOption,
    EvaluateOption,
    FvdOption,
    HeldOutOption,
    OnlyOption,
    OutOption,
    Protocol,
    Row,
    SeedOption,
    Study,
    WindowsOption,
    train_and_evaluate,
)

_SIZE, _N_MODULES = "tiny", 5  # of images of 32 px
ALL_FRAMES = ("model.prior_frames=all",)


def rows(steps: tuple[int, int, int]) -> dict[str, Row]:
    """Return all rows by folder name; each changes one setting of the first.

    Args:
        steps: Of module 1, of each of 2 to 4, and of 5.
    """
    changes: dict[str, tuple[str, tuple[str, ...]]] = {
        "default": ("default", ()),
        "literal": ("nothing copied, prior on all frames (the paper's model)", LITERAL),
        "all_frames": ("prior on all frames", ALL_FRAMES),
        "rollouts": ("prior on all frames; rollouts of the deepest module", ALL_FRAMES),
        "rollouts_all": (
            "prior on all frames; rollouts of all modules",
            ("training.rollout_modules=all", *ALL_FRAMES),
        ),
        "threshold_0": ("masks without a threshold", ("model.mask_threshold=0",)),
        "threshold_30": ("threshold 0.3", ("model.mask_threshold=0.3",)),
        "beta_low": ("beta 2e-8", ("objective.beta=2e-8",)),
        "beta_high": ("beta 1e-6", ("objective.beta=1e-6",)),
        "ssim_0": ("squared error alone", ("objective.ssim_weight=0",)),
        "ssim_low": ("weight of 1 - SSIM 0.01", ("objective.ssim_weight=0.01",)),
        "ssim_high": ("weight of 1 - SSIM 0.1", ("objective.ssim_weight=0.1",)),
        "rate_low": ("learning rate 1e-3", ("training.learning_rate=1e-3",)),
        "rate_high": ("learning rate 5e-3", ("training.learning_rate=5e-3",)),
        "large_batch": ("batch of 16, half the steps", ("training.batch_windows=16",)),
        "all_decoded": ("all frames decoded, half the steps", ("training.decoded_steps=11",)),
    }
    first, middle, deepest = steps
    half, rolled_out = _settings((first // 2, middle // 2, deepest // 2), 1800), _settings(steps, 3600, 150)
    settings = {"large_batch": half, "all_decoded": half, "rollouts": rolled_out, "rollouts_all": rolled_out}
    return {
        name: Row(label, settings.get(name, _settings(steps, 3600)), "", _SIZE, _N_MODULES, more)
        for name, (label, more) in changes.items()
    }


def _settings(steps: tuple[int, int, int], prior: int, rollout: int = 0) -> dict[str, object]:
    """Return settings of `training`: the steps of the modules as in `rows`, and of both kinds of fine-tuning."""
    first, middle, deepest = steps
    module_steps = [first, middle, middle, middle, deepest]
    return {"module_steps": module_steps, **NO_STEPS, "prior_finetune_steps": prior, "rollout_steps": rollout}


def training_variants(  # noqa: PLR0917 - the parameters are the options of the command line
    data: DataOption,
    out: OutOption,
    held_out: HeldOutOption = None,
    only: OnlyOption = None,
    steps: Annotated[tuple[int, int, int], typer.Option(help="Steps of module 1, of each of 2 to 4, and of 5.")] = (
        450,
        450,
        1200,
    ),
    seed: SeedOption = None,
    evaluate: EvaluateOption = True,
    windows: WindowsOption = 128,
    fvd: FvdOption = True,
) -> None:
    """Train greedy GHVAEs of 5 modules on images of 32 px, one for each setting, then evaluate all together.

    Each takes about 270 CPU seconds. The rows of a seed are in `seed_SEED`; an interrupted row is resumed.
    """
    settings = ("model.image_px=32", "training.validation_windows=32")
    train_and_evaluate(
        [Study(rows(steps), data, out / f"seed_{each}", each, settings) for each in seed or [0]],
        only,
        Protocol(held_out, windows, fvd) if evaluate else None,
    )


def main() -> NoReturn:
    """Run the command."""
    run(training_variants)


if __name__ == "__main__":
    main()
