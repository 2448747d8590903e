"""One evaluation: read windows, run the models, summarize the scores, write the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from configs.command import print_result
from configs.interruption import check
from configs.progress import ProgressBar, announce
from data_collection.folder_lock import check_new, locked_folder
from ghvae_core.evaluation.clips import Clips, EvaluationConfig, collect, draw, find_episodes
from ghvae_core.evaluation.evaluated_model import EvaluatedModel, load_evaluated_models
from ghvae_core.evaluation.figures import CURVES, draw_curves, draw_figures
from ghvae_core.evaluation.fvd import I3d, check_length
from ghvae_core.evaluation.held_out import Part, check_held_out, choose
from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.evaluation.report import PAGE, show, write
from ghvae_core.evaluation.scoring import Metrics, Scores, join, score
from ghvae_core.evaluation.sensitivity import Sensitivity, check_candidates, rank, summarize_ranks
from ghvae_core.evaluation.summary import Evaluation, ModelFacts, facts_of, headline, summarize
from ghvae_core.evaluation.weights_download import I3D, LPIPS


class _Subject(NamedTuple):
    """What is evaluated."""

    models: list[ModelFacts]
    clips: Clips


_Part = TypeVar("_Part", Clips, Scores, NDArray[np.float64])


@dataclass(frozen=True)
class Inputs:
    """The options of the command line."""

    data: Path
    checkpoints: tuple[Path, ...]
    labels: tuple[str, ...] = ()  # one for each checkpoint, or empty
    modules: tuple[int, ...] = ()  # numbers of modules to use; empty: all
    part: Part = "held-out"
    seed: int = 0
    lpips: bool = True
    lpips_weights: Path | None = None
    fvd: bool = False
    i3d_weights: Path | None = None
    sensitivity: int = 0  # number of other action sequences; 0: not measured
    out: Path | None = None
    device: str = "auto"


def run_inputs(inputs: Inputs, config: EvaluationConfig) -> Evaluation:
    """Evaluate, print the tables and the line of JSON, and write the report if a folder is given.

    Raises:
        ReportedError: The input is refused, or the report cannot be written; then nothing of it is left.
        KeyboardInterrupt: After a signal; the results so far have been reported.
    """
    if inputs.out is not None:
        check_new(inputs.out)
    with announce("loading the checkpoints"):
        models = load_evaluated_models(inputs.checkpoints, inputs.labels, inputs.modules, inputs.device)
    if inputs.fvd:
        check_length(sum(config.lengths(models[0].checkpoint.info)))
    facts, clips = _models(inputs, models, config), _read(inputs, models, config)
    if inputs.sensitivity:
        check_candidates(len(clips), inputs.sensitivity, config.sensitivity_candidates)
    with nullcontext() if inputs.out is None else locked_folder(inputs.out):
        return _evaluate(inputs, models, config, _Subject(facts, clips))


def _evaluate(
    inputs: Inputs, models: Sequence[EvaluatedModel], config: EvaluationConfig, subject: _Subject
) -> Evaluation:
    """Measure, print the tables and the line of JSON, and write the report if a folder is given."""
    facts, clips = subject
    scores = _measure(inputs, models, config, clips)
    with announce("computing means and errors"):
        evaluation = summarize(
            join(scores), clips, facts, _about(inputs, config, clips), np.random.default_rng(inputs.seed)
        )
    n_ranked = sum(each.takes_actions for each in models) if inputs.sensitivity else 0
    if len(evaluation.windows) == len(clips) and n_ranked:
        found = _rank(inputs, models, config, clips)
        evaluation = evaluation.model_copy(update={"sensitivity": found})
    show(evaluation, Console(stderr=True))
    with announce("drawing the report"):
        images = {} if inputs.out is None else _images(models, clips, evaluation)
    print_result({**headline(evaluation), "report": None if inputs.out is None else str(inputs.out / PAGE)})
    if inputs.out is not None:
        write(inputs.out, evaluation, images)
    if len(evaluation.windows) < len(clips) or len(evaluation.sensitivity) < n_ranked:
        raise KeyboardInterrupt
    return evaluation


def _models(inputs: Inputs, models: Sequence[EvaluatedModel], config: EvaluationConfig) -> list[ModelFacts]:
    """Return the facts of the models for the report; refuse models that were trained on the episodes."""
    n_variants = len(models) // len(inputs.checkpoints)
    return [
        facts_of(
            each,
            str(inputs.checkpoints[i // n_variants]),
            check_held_out(inputs.data, each.checkpoint.info, config.validation_fraction, inputs.part),
        )
        for i, each in enumerate(models)
    ]


def _read(inputs: Inputs, models: Sequence[EvaluatedModel], config: EvaluationConfig) -> Clips:
    rng = np.random.default_rng(inputs.seed)
    infos = [each.checkpoint.info for each in models]
    recordings = find_episodes(inputs.data, config.only_names)
    recordings = choose(recordings, infos[0], config.validation_fraction, inputs.part)
    episodes: list[Clips] = []
    _collect("reading windows", draw(recordings, infos, config, rng), config.n_windows, episodes)
    return collect(episodes, rng)


def _measure(inputs: Inputs, models: Sequence[EvaluatedModel], config: EvaluationConfig, clips: Clips) -> list[Scores]:
    """Return the scores of all batches; after a signal those of the completed ones, if they can be reported."""
    device = str(models[0].checkpoint.model.action_scale.device)
    with announce("loading the networks of the metrics"):
        metrics = Metrics(
            Lpips(LPIPS.find(inputs.lpips_weights)).to(device) if inputs.lpips else None,
            I3d(I3D.find(inputs.i3d_weights)).to(device) if inputs.fvd else None,
            device,
        )
    batches = score(models, clips, metrics, config, inputs.seed)
    scores: list[Scores] = []
    with suppress(KeyboardInterrupt):
        _collect("measuring windows", batches, len(clips), scores)
    if sum(map(len, scores)) < 2:
        raise KeyboardInterrupt
    return scores


def _rank(
    inputs: Inputs, models: Sequence[EvaluatedModel], config: EvaluationConfig, clips: Clips
) -> dict[str, Sensitivity]:
    """Return the action sensitivity of the models with actions; after a signal that of the completed ones."""
    found: dict[str, Sensitivity] = {}
    n_windows = min(config.sensitivity_windows, len(clips))
    with suppress(KeyboardInterrupt):
        for each in (each for each in models if each.takes_actions):
            ranking = rank(each, clips, inputs.sensitivity, config, inputs.seed)
            ranks: list[NDArray[np.float64]] = []
            _collect(f"ranking actions, {each.label}", ranking, n_windows, ranks)
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


def _images(models: Sequence[EvaluatedModel], clips: Clips, evaluation: Evaluation) -> dict[str, bytes]:
    images = draw_figures(models, clips, evaluation, models[0].checkpoint.info.step_s)
    return {**images, CURVES: draw_curves(evaluation)}


def _collect(label: str, parts: Iterator[_Part], total: int, collected: list[_Part]) -> None:
    """Append the parts to a list, with a progress bar over windows; after a signal the list holds those so far."""
    with ProgressBar(label, total, transient=True) as progress:
        for part in parts:
            collected.append(part)
            progress.advance(len(part))
            check()
