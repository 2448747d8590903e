"""HTML page of an evaluation: the tables, curves, frames and animations of the Markdown, in one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data_collection.reports import html
from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SHUFFLED
from ghvae_core.evaluation.figures import CURVES, ERROR_GAIN, FILMSTRIP, GIF, SHEET, SOURCES
from ghvae_core.evaluation.scoring import LOWER_IS_BETTER
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation
from ghvae_core.evaluation.tables import models_table, notes, rows_table, sensitivity_table, steps_table

_ERRORS = 2.0  # standard errors beyond which a difference is reported as one; ours
_TEMPLATE = "evaluation/evaluation.html.j2"


class _Figure(NamedTuple):
    title: str
    source: str  # data URI
    alt: str
    note: str


_FIGURES = (  # file, title, text for screen readers, note
    (
        FILMSTRIP,
        "Best, median and worst window",
        "frames of three windows: real, predicted, copied, and the errors",
        "Ordered by the error of the first model (LPIPS if measured, otherwise PSNR). From left to right: context"
        " frames up to the orange line, then predicted frames. Rows of each window: the real frames, those of each"
        f" model, the copy of the last context frame, and the error of the first model, brightened {ERROR_GAIN} times."
        f" {SOURCES}",
    ),
    (
        GIF,
        "The same windows as videos",
        "animation of real, predicted and copied frames of three windows",
        "From left to right: the real frames, those of each model, and the copy. The context frames come first and are"
        " equal.",
    ),
    (
        SHEET,
        "Some windows, drawn at random",
        "animation of several windows: real, predicted and copied frames",
        "One column for each window. Rows: the real frames, those of each model, and the copy of the last context"
        " frame.",
    ),
)


def page(evaluation: Evaluation, images: Mapping[str, bytes]) -> str:
    """Return the page of an evaluation.

    Args:
        evaluation: The results.
        images: Encoded images by file name; one that is missing is left out.
    """
    rows, n_rows = rows_table(evaluation), 1 + len(evaluation.rows)
    view = {
        "labels": [each.label for each in evaluation.models],
        "about": evaluation.about,
        "settings": [(name, "none" if value == "" else value) for name, value in evaluation.about.items()],
        "rows": rows[:n_rows],
        "rows_note": _rows_note(evaluation),
        "differences": [["difference, window by window", *rows[0][1:]], *rows[n_rows:]],
        "verdict": _verdict(evaluation),
        "notes": notes(evaluation),
        "sensitivity": sensitivity_table(evaluation) if evaluation.sensitivity else [],
        "curves": _source(CURVES, images[CURVES]) if CURVES in images else "",
        "steps": steps_table(evaluation),
        "figures": [
            _Figure(title, _source(name, images[name]), alt, note)
            for name, title, alt, note in _FIGURES
            if name in images
        ],
        "models": models_table(evaluation),
        "held_out": [(each.label, each.held_out) for each in evaluation.models],
    }
    return html.render("ghvae_core", _TEMPLATE, view)


def _verdict(evaluation: Evaluation) -> list[str]:
    """Return for each model whether it is better than a copy and than without its actions, in sentences."""
    found = {(each.row, each.minus): each.metrics["psnr_db"] for each in evaluation.differences}
    sentences = []
    for each in evaluation.models:
        row = f"{each.label}, {MEAN}"
        words = {
            "copying the last frame": (row, COPY),
            "itself with the actions of another window": (row, f"{each.label}, {SHUFFLED}"),
        }
        parts = [f"{_compared(found[pair])} {name}" for name, pair in words.items() if pair in found]
        sentences.append(f"{each.label}: by PSNR its predictions are {', and '.join(parts)}.")
    return sentences


def _compared(difference: Estimate) -> str:
    """Return a paired difference in words; within two standard errors it is none."""
    value, error = difference.value, difference.standard_error
    if not abs(value) > _ERRORS * error:
        return "not distinguishable from"
    return f"{abs(value):.1f} ± {error:.1f} dB {'better' if value > 0 else 'worse'} than"


def _rows_note(evaluation: Evaluation) -> str:
    """Return what the rows and columns of the results mean, as far as they occur."""
    lower = "" if LOWER_IS_BETTER.isdisjoint(evaluation.conventions) else "; ↓: lower is better"
    n_context, n_predicted = evaluation.about["n_context"], evaluation.about["n_predicted"]
    return (
        f"↑: higher is better{lower}. ± is one standard error. A window is a stretch of {n_context} + {n_predicted}"
        " successive frames. “Prior mean”: a prediction without random draws; “one sample”: one with them. “Shuffled"
        " actions”: the same prediction with the actions of another window; a model that follows the actions is clearly"
        " better than that. “Copy last context frame”: no prediction at all; a model must be better than that too."
        " These numbers hardly show how blurred the frames are: see them below."
    )


def _source(name: str, image: bytes) -> str:
    return html.data_uri("gif" if name.endswith(".gif") else "png", image)
