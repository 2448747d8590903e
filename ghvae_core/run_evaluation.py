"""Judge a checkpoint on held-out episodes, beside copying the last frame and following wrong actions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configs.command import run

if TYPE_CHECKING:
    from ghvae_core.checkpoint import Checkpoint
    from ghvae_core.clips import Clips, EvaluationConfig
    from ghvae_core.evaluation import Scores

_Part = TypeVar("_Part", "Clips", "Scores")
SHIPPED = Path(__file__).parent / "checkpoints" / "tiny"


def evaluate(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="folder of held-out episodes (RoboNet files)")],
    checkpoint: Annotated[Path, typer.Option(help="folder of the model")] = SHIPPED,
    windows: Annotated[int | None, typer.Option(help="how many windows; 256 without it, as in RoboNet's rows")] = None,
    seed: Annotated[int, typer.Option(min=0, help="draws the windows, their pairing and the sampled latents")] = 0,
    out: Annotated[Path | None, typer.Option(help="new folder for the report; without one nothing is written")] = None,
    lpips: Annotated[bool, typer.Option(help="measure LPIPS, whose weights are fetched once")] = True,
    lpips_weights: Annotated[Path | None, typer.Option(help="safetensors file of its weights, instead")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where the model runs")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="evaluation.*")] = None,
) -> None:
    """Measure PSNR, SSIM and LPIPS of a model's predicted frames on held-out windows.

    Four rows: the model with its prior's mean, the model with one drawn sample, the model following the actions of
    another window, and a copy of the last context frame; then paired differences. A model that does not beat copying,
    or does not care which actions it follows, cannot plan.

    The table goes to standard error; the last line on standard output is one JSON object. With `--out` also a folder:
    evaluation.md, evaluation.json with every window, a filmstrip and a GIF of the best, the median and the worst
    window. Episodes that the checkpoint says it was trained on are refused. Ctrl-C reports the windows that were
    measured so far and exits with 130; refused input exits with 2 and nothing is written; a report that cannot be
    written exits with 1, after the line of JSON.
    """
    from ghvae_core.clips import collect, draw, load_evaluation  # noqa: PLC0415 - torch would make --help slow
    from ghvae_core.evaluation import join, score, summarize  # noqa: PLC0415
    from ghvae_core.evaluation_report import check_folder, pictures, show, write  # noqa: PLC0415
    from ghvae_core.held_out import check_held_out  # noqa: PLC0415
    from ghvae_core.lpips import Lpips  # noqa: PLC0415
    from ghvae_core.metric_weights import find_lpips_weights  # noqa: PLC0415

    overrides = [f"evaluation.n_windows={windows}"] if windows is not None else []
    config = load_evaluation([*(set_ or []), *overrides])
    if out is not None:
        check_folder(out)
    judged = _load(checkpoint, device)
    held_out = check_held_out(data, judged.info, config.validation_share)
    rng = np.random.default_rng(seed)
    episodes: list[Clips] = []
    _follow("reading windows", draw(data, judged.info, config, rng), config.n_windows, episodes)
    clips = collect(episodes, rng)
    metric = Lpips(find_lpips_weights(lpips_weights)) if lpips else None
    scores = _measure(score(judged.model, clips, metric, config.batch_windows, seed), len(clips))
    facts = {"checkpoint": str(checkpoint), "data": str(data), "seed": seed, **_facts(judged, config, episodes)}
    evaluation = summarize(join(scores), clips, {**facts, "held_out": held_out})
    show(evaluation, Console(stderr=True))
    print(evaluation.model_dump_json(exclude={"windows"}), flush=True)
    if out is not None:
        write(out, evaluation, pictures(judged.model, clips, evaluation, judged.info.step_s))
    if len(evaluation.windows) < len(clips):
        raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command."""
    run(evaluate)


def _facts(judged: Checkpoint, config: EvaluationConfig, episodes: list[Clips]) -> dict[str, str | int | float]:
    """Return what a reader of the figures must know of the model and of the episodes."""
    return {
        "checkpoint_sha256": judged.sha256,
        "modules": judged.info.modules_trained,
        "validation_share": config.validation_share,
        "n_episodes_passed_over": sum(not len(episode) for episode in episodes),
    }


def _load(checkpoint: Path, device: str) -> Checkpoint:
    import torch  # noqa: PLC0415

    from ghvae_core.checkpoint import load  # noqa: PLC0415
    from ghvae_core.metrics import MetricError  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise MetricError("--device cuda: this machine has no usable CUDA device; take --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(checkpoint, device)


def _measure(batches: Iterator[Scores], n_windows: int) -> list[Scores]:
    """Return the scores of every batch; after Ctrl-C, of those that came, if there is anything to report of them."""
    scores: list[Scores] = []
    with suppress(KeyboardInterrupt):
        _follow("measuring windows", batches, n_windows, scores)
    if sum(map(len, scores)) < 2:
        raise KeyboardInterrupt
    return scores


def _follow(text: str, parts: Iterator[_Part], total: int, came: list[_Part]) -> None:
    """Collect parts under a progress bar that counts windows; what came before an interruption stays."""
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        for part in parts:
            came.append(part)
            progress.advance(task, len(part))


if __name__ == "__main__":
    main()
