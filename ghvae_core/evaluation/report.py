"""The report of an evaluation: tables, notes, and a folder of HTML, Markdown, JSON and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import rich.table
from rich.console import Console

from data_collection.atomic_io import write_folder
from data_collection.episode import EpisodeError
from data_collection.folder_lock import check_new
from ghvae_core.evaluation.figures import CURVES, ERROR_GAIN, FILMSTRIP, GIF, SHEET, SOURCES
from ghvae_core.evaluation.metrics import MetricFailure
from ghvae_core.evaluation.page import page
from ghvae_core.evaluation.summary import Evaluation
from ghvae_core.evaluation.tables import Table, models_table, notes, rows_table, sensitivity_table, steps_table

MARKDOWN, JSON, PAGE = "evaluation.md", "evaluation.json", "report.html"


def markdown(evaluation: Evaluation) -> str:
    """Return the report as Markdown."""
    about = "".join(f"| {key} | {value} |\n" for key, value in evaluation.about.items())
    sensitivity = ["\n## Action sensitivity\n", markdown_table(sensitivity_table(evaluation))]
    return "\n".join(
        [
            "# Evaluation\n",
            markdown_table(rows_table(evaluation)),
            *(f"- {note}" for note in notes(evaluation)),
            *(sensitivity if evaluation.sensitivity else []),
            "\n## By predicted step\n",
            f"![curves]({CURVES})\n",
            markdown_table(steps_table(evaluation)),
            "## Best, median and worst window\n",
            f"Context and predicted frames; errors are brightened {ERROR_GAIN} times. {SOURCES}\n",
            f"![filmstrip]({FILMSTRIP})\n",
            f"![rollouts]({GIF})\n",
            "## The first windows, in random order\n",
            f"![sheet]({SHEET})\n",
            "## What was evaluated\n",
            markdown_table(models_table(evaluation)),
            f"| | |\n|---|---|\n{about}",
        ]
    )


def write(folder: Path, evaluation: Evaluation, images: Mapping[str, bytes]) -> None:
    """Write the report as one folder, completely or not at all.

    Args:
        folder: New or empty.
        evaluation: The results.
        images: Encoded images by file name.

    Raises:
        MetricFailure: The folder has content or cannot be written; none is left, and an empty one is still empty.
    """
    files = {
        **images,
        MARKDOWN: markdown(evaluation).encode(),
        PAGE: page(evaluation, images).encode(),
        JSON: evaluation.model_dump_json(indent=1).encode(),
    }
    target = folder.resolve()
    try:
        check_new(target)
        write_folder(target, files)
    except OSError as error:
        reason = f"{error.filename or folder}: {error.strerror or error}"
        raise MetricFailure(f"{folder}: the report could not be written: {reason}") from None
    except EpisodeError as error:
        raise MetricFailure(f"{folder}: the report could not be written: {error}") from None


def show(evaluation: Evaluation, console: Console) -> None:
    """Print the tables and the notes."""
    for table in (rows_table(evaluation), sensitivity_table(evaluation)):
        first, *rows = table
        if rows:
            shown = rich.table.Table(*first)
            for row in rows:
                shown.add_row(*row)
            console.print(shown)
    for note in notes(evaluation):
        console.print(note, markup=False, highlight=False, style="dim")


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    first, *rows = table
    lines: Sequence[list[str]] = [first, ["---"] * len(first), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
