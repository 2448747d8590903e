"""The summary of an evaluation: means, standard errors, paired differences; the content of the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from configs.loader import Config
from ghvae_core.evaluation.clips import Clips
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SHUFFLED, EvaluatedModel
from ghvae_core.evaluation.fvd import FVD_CONVENTION, bootstrap_error, frechet_distance
from ghvae_core.evaluation.lpips import LPIPS_CONVENTION
from ghvae_core.evaluation.metrics import PSNR_CAP_DB, PSNR_CONVENTION, SSIM_CONVENTION
from ghvae_core.evaluation.scoring import REAL, Scores
from ghvae_core.evaluation.sensitivity import Sensitivity
from ghvae_core.evaluation.statistics import Estimate, estimate, groups_of

CONVENTIONS = {
    "psnr_db": PSNR_CONVENTION,
    "ssim": SSIM_CONVENTION,
    "lpips_alex": LPIPS_CONVENTION,
    "fvd": FVD_CONVENTION,
}

Facts = Mapping[str, str | int | float]


class ModelFacts(Config):
    """The model of a label."""

    label: str
    checkpoint: str  # folder
    checkpoint_sha256: str
    kind: str  # of the model
    modules: int  # used
    modules_trained: int  # in the checkpoint
    parameters: int  # of all modules in the checkpoint
    held_out: str  # whether the windows were held out of its training, if known


class PairedDifference(Config):
    """Paired differences, `row` minus `minus`, window by window."""

    row: str
    minus: str
    metrics: dict[str, Estimate]


class WindowScores(Config):
    """The metrics of one window, each the mean over its predicted frames."""

    name: str  # episode and first frame
    rows: dict[str, dict[str, float]]  # row, metric


class Evaluation(Config):
    """All results; the content of the JSON file."""

    about: dict[str, str | int | float]  # data, protocol
    models: list[ModelFacts]  # in the order of the table
    conventions: dict[str, str]  # metric: its definition
    rows: dict[str, dict[str, Estimate]]  # row, metric; the error of `fvd` by bootstrap over episodes
    differences: list[PairedDifference]
    steps: dict[str, dict[str, list[Estimate]]]  # row, metric, predicted step
    sensitivity: dict[str, Sensitivity]  # by the model's label
    identical_frames: dict[str, int]  # row: predicted frames equal to the real ones, which count as 100 dB
    windows: list[WindowScores]


def facts_of(model: EvaluatedModel, folder: str, held_out: str) -> ModelFacts:
    """Return the facts of a model for the report."""
    network = model.checkpoint.model
    return ModelFacts(
        label=model.label,
        checkpoint=folder,
        checkpoint_sha256=model.checkpoint.sha256,
        kind=model.checkpoint.info.model.kind,
        modules=model.modules_used,
        modules_trained=network.n_modules,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        held_out=held_out,
    )


def summarize(
    scores: Scores, clips: Clips, models: Sequence[ModelFacts], about: Facts, rng: np.random.Generator
) -> Evaluation:
    """Return means, standard errors, paired differences and per-step means.

    Args:
        scores: Scores of all windows, or of at least the first two.
        clips: All windows.
        models: In the order of the report; the others are compared with the first.
        about: Data and settings; the protocol is added.
        rng: Draws the bootstrap samples of FVD.
    """
    every = scores.rows
    by_window = {row: {m: values.mean(axis=1) for m, values in metrics.items()} for row, metrics in every.items()}
    names = clips.names[: len(scores)]
    groups = groups_of(names)
    rows = {row: {m: estimate(values, groups) for m, values in metrics.items()} for row, metrics in by_window.items()}
    for row, distance in _distances(scores, groups, rng).items():
        rows[row]["fvd"] = distance
    return Evaluation(
        about={**about, **_protocol(clips, names)},
        models=list(models),
        conventions={name: CONVENTIONS[name] for name in CONVENTIONS if name in rows[COPY]},
        rows=rows,
        differences=_differences(by_window, groups, [each.label for each in models]),
        steps={
            row: {m: [estimate(column, groups) for column in values.T] for m, values in metrics.items()}
            for row, metrics in every.items()
        },
        sensitivity={},
        identical_frames={row: int((metrics["psnr_db"] >= PSNR_CAP_DB).sum()) for row, metrics in every.items()},
        windows=[
            WindowScores(
                name=name,
                rows={
                    row: {m: float(values[i]) for m, values in metrics.items()} for row, metrics in by_window.items()
                },
            )
            for i, name in enumerate(names)
        ],
    )


def headline(evaluation: Evaluation) -> dict[str, object]:
    """Return the main numbers of an evaluation, ready for JSON: the means of the rows, and the paired differences."""
    about = evaluation.about
    return {
        **{key: about[key] for key in ("data", "part", "n_windows", "n_episodes")},
        "checkpoints": {each.label: each.checkpoint for each in evaluation.models},
        "rows": {row: _values(metrics) for row, metrics in evaluation.rows.items()},
        "differences": {f"{each.row} - {each.minus}": _values(each.metrics) for each in evaluation.differences},
        "median_percentile": {label: each.median_percentile.value for label, each in evaluation.sensitivity.items()},
    }


def _values(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    return {name: round(each.value, 6) for name, each in metrics.items()}


def ranked(evaluation: Evaluation) -> list[int]:
    """Return the windows from best to worst for the first model, by LPIPS where it was measured, else by PSNR."""
    row = f"{evaluation.models[0].label}, {MEAN}"
    scores = [window.rows[row] for window in evaluation.windows]
    costs = [score.get("lpips_alex", -score["psnr_db"]) for score in scores]
    return [int(i) for i in np.argsort(costs, kind="stable")]


def _protocol(clips: Clips, names: Sequence[str]) -> dict[str, str | int | float]:
    return {
        "n_windows": len(names),
        "n_episodes": len({name.rpartition(" ")[0] for name in names}),
        "n_context": clips.n_context,
        "n_predicted": clips.frames.shape[1] - clips.n_context,
        "image_px": clips.frames.shape[2],
    }


def _distances(scores: Scores, groups: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Estimate]:
    """Return the FVD of each row where features were measured."""
    if not scores.features:
        return {}
    real = scores.features[REAL]
    rows = {row: features for row, features in scores.features.items() if row != REAL}
    return {
        row: Estimate(value=frechet_distance(real, fake), standard_error=bootstrap_error(real, fake, groups, rng))
        for row, fake in rows.items()
    }


def _differences(
    by_window: Mapping[str, Mapping[str, NDArray[np.float64]]], groups: NDArray[np.int64], labels: Sequence[str]
) -> list[PairedDifference]:
    """Return the differences of each model to copying, to its shuffled actions, and to the first model."""
    first = f"{labels[0]}, {MEAN}"
    pairs = []
    for label in labels:
        row = f"{label}, {MEAN}"
        pairs += [(row, other) for other in (COPY, f"{label}, {SHUFFLED}", first) if other in by_window]
    return [
        PairedDifference(
            row=row,
            minus=other,
            metrics={m: estimate(by_window[row][m] - v, groups) for m, v in by_window[other].items()},
        )
        for row, other in pairs
        if row != other
    ]
