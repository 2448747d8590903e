"""HTML page of an evaluation: the tables, curves, frames and animations of the Markdown, in one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data_collection.reports import html
from ghvae_core.evaluation.figures import CURVES, ERROR_GAIN, FILMSTRIP, GIF, SHEET
from ghvae_core.evaluation.summary import Evaluation
from ghvae_core.evaluation.tables import models_table, notes, rows_table, sensitivity_table, steps_table

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
        "From left to right: context frames, then predicted frames. Rows: the real frames, those of each model, the"
        f" copy of the last context frame, and the error of the first model, brightened {ERROR_GAIN} times.",
    ),
    (GIF, "The same windows as videos", "animation of real, predicted and copied frames of three windows", ""),
    (
        SHEET,
        "The first windows, in random order",
        "animation of several windows: real, predicted and copied frames",
        "One column for each window.",
    ),
)


def page(evaluation: Evaluation, images: Mapping[str, bytes]) -> str:
    """Return the page of an evaluation.

    Args:
        evaluation: The results.
        images: Encoded images by file name; one that is missing is left out.
    """
    view = {
        "labels": [each.label for each in evaluation.models],
        "about": evaluation.about,
        "rows": rows_table(evaluation),
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
    }
    return html.render("ghvae_core", _TEMPLATE, view)


def _source(name: str, image: bytes) -> str:
    return html.data_uri("gif" if name.endswith(".gif") else "png", image)
