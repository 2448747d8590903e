"""One evaluation from folders to report: windows are read, models asked, numbers summed up, files written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configs.interruption import check
from ghvae_core.evaluation.clips import Clips, EvaluationConfig, collect, draw, find_episodes
from ghvae_core.evaluation.evaluated_model import EvaluatedModel, load_evaluated_models
from ghvae_core.evaluation.figures import draw_curves, pictures
from ghvae_core.evaluation.fvd import I3d, check_length
from ghvae_core.evaluation.held_out import Part, check_held_out, choose
from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.evaluation.report import CURVES, check_folder, show, write
from ghvae_core.evaluation.scoring import Metrics, Scores, join, score
from ghvae_core.evaluation.sensitivity import Sensitivity, check_candidates, rank, summarize_ranks
from ghvae_core.evaluation.summary import Evaluation, ModelFacts, facts_of, summarize
from ghvae_core.evaluation.weights_download import I3D, LPIPS

_Part = TypeVar("_Part", Clips, Scores, NDArray[np.float64])


@dataclass(frozen=True)
class Inputs:
    """What the command line names."""

    data: Path
    checkpoints: tuple[Path, ...]
    labels: tuple[str, ...] = ()  # one a checkpoint, or none
    depths: tuple[int, ...] = ()  # modules used of each; none: all
    part: Part = "held-out"
    seed: int = 0
    lpips: bool = True
    lpips_weights: Path | None = None
    fvd: bool = False
    i3d_weights: Path | None = None
    sensitivity: int = 0  # other sequences; 0: not measured
    out: Path | None = None
    device: str = "auto"


def run_inputs(inputs: Inputs, config: EvaluationConfig) -> Evaluation:
    """Evaluate, show the tables, print the JSON line, and write the folder where one was asked for.

    Raises:
        ReportedError: As the parts say it. Nothing is written but for a report that was complete.
        KeyboardInterrupt: After Ctrl-C; what was measured by then is reported first.
    """
    if inputs.out is not None:
        check_folder(inputs.out)
    judged = load_evaluated_models(inputs.checkpoints, inputs.labels, inputs.depths, inputs.device)
    if inputs.fvd:
        check_length(sum(config.lengths(judged[0].checkpoint.info)))
    models, clips = _models(inputs, judged, config), _read(inputs, judged, config)
    if inputs.sensitivity:
        check_candidates(len(clips), inputs.sensitivity, config.sensitivity_candidates)
    scores = _measure(inputs, judged, config, clips)
    evaluation = summarize(
        join(scores), clips, models, _about(inputs, config, clips), np.random.default_rng(inputs.seed)
    )
    n_asked = sum(each.takes_actions for each in judged) if inputs.sensitivity else 0
    if len(evaluation.windows) == len(clips) and n_asked:
        found = _rank(inputs, judged, config, clips)
        evaluation = evaluation.model_copy(update={"sensitivity": found})
    show(evaluation, Console(stderr=True))
    print(evaluation.model_dump_json(exclude={"windows"}), flush=True)
    if inputs.out is not None:
        write(inputs.out, evaluation, _images(judged, clips, evaluation))
    if len(evaluation.windows) < len(clips) or len(evaluation.sensitivity) < n_asked:
        raise KeyboardInterrupt
    return evaluation


def _models(inputs: Inputs, judged: Sequence[EvaluatedModel], config: EvaluationConfig) -> list[ModelFacts]:
    """Return what the report says of the models; refuse those that have seen the episodes."""
    n_depths = len(judged) // len(inputs.checkpoints)
    return [
        facts_of(
            each,
            str(inputs.checkpoints[i // n_depths]),
            check_held_out(inputs.data, each.checkpoint.info, config.validation_fraction, inputs.part),
        )
        for i, each in enumerate(judged)
    ]


def _read(inputs: Inputs, judged: Sequence[EvaluatedModel], config: EvaluationConfig) -> Clips:
    rng = np.random.default_rng(inputs.seed)
    infos = [each.checkpoint.info for each in judged]
    recordings = find_episodes(inputs.data, config.only_names)
    recordings = choose(recordings, infos[0], config.validation_fraction, inputs.part)
    episodes: list[Clips] = []
    _follow("reading windows", draw(recordings, infos, config, rng), config.n_windows, episodes)
    return collect(episodes, rng)


def _measure(inputs: Inputs, judged: Sequence[EvaluatedModel], config: EvaluationConfig, clips: Clips) -> list[Scores]:
    """Return the scores of every batch; after Ctrl-C, of those that came, if there is anything to report of them."""
    device = str(judged[0].checkpoint.model.action_scale.device)
    metrics = Metrics(
        Lpips(LPIPS.find(inputs.lpips_weights)).to(device) if inputs.lpips else None,
        I3d(I3D.find(inputs.i3d_weights)).to(device) if inputs.fvd else None,
        device,
    )
    batches = score(judged, clips, metrics, config, inputs.seed)
    scores: list[Scores] = []
    with suppress(KeyboardInterrupt):
        _follow("measuring windows", batches, len(clips), scores)
    if sum(map(len, scores)) < 2:
        raise KeyboardInterrupt
    return scores


def _rank(
    inputs: Inputs, judged: Sequence[EvaluatedModel], config: EvaluationConfig, clips: Clips
) -> dict[str, Sensitivity]:
    """Return the sensitivity of the models that take actions; after Ctrl-C, of those that were finished."""
    found: dict[str, Sensitivity] = {}
    n_windows = min(config.sensitivity_windows, len(clips))
    with suppress(KeyboardInterrupt):
        for each in (each for each in judged if each.takes_actions):
            asked = rank(each, clips, inputs.sensitivity, config, inputs.seed)
            ranks: list[NDArray[np.float64]] = []
            _follow(f"ranking actions, {each.label}", asked, n_windows, ranks)
            rng = np.random.default_rng(inputs.seed)
            candidates = config.sensitivity_candidates
            found[each.label] = summarize_ranks(ranks, clips.names, inputs.sensitivity, candidates, rng)
    return found


def _about(inputs: Inputs, config: EvaluationConfig, clips: Clips) -> dict[str, str | int | float]:
    return {
        "data": str(inputs.data),
        "part": inputs.part,
        "seed": inputs.seed,
        "validation_fraction": config.validation_fraction,
        "only_names": config.only_names or "",
        "first_frame": config.first_frame,
        "n_samples": config.n_samples,
        "n_episodes_passed_over": len(clips.refused),
    }


def _images(judged: Sequence[EvaluatedModel], clips: Clips, evaluation: Evaluation) -> dict[str, bytes]:
    images = pictures(judged, clips, evaluation, judged[0].checkpoint.info.step_s)
    return {**images, CURVES: draw_curves(evaluation)}


def _follow(text: str, parts: Iterator[_Part], total: int, came: list[_Part]) -> None:
    """Collect parts under a progress bar that counts windows; what came before an interruption stays."""
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # It leaves nothing behind: whatever is said next, such as an error, stands alone.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        for part in parts:
            came.append(part)
            progress.advance(task, len(part))
            check()
