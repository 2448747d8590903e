"""The folder of an evaluation: Markdown, JSON and pictures, written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ghvae_core.evaluation.figures import ERROR_GAIN, FILMSTRIP, GIF, SHEET
from ghvae_core.evaluation.metrics import MetricError, MetricFailure
from ghvae_core.evaluation.summary import Evaluation
from ghvae_core.evaluation.tables import (
    markdown_table,
    models_table,
    notes,
    rows_table,
    sensitivity_table,
    steps_table,
)

MARKDOWN, JSON, CURVES = "evaluation.md", "evaluation.json", "curves.png"


def markdown(evaluation: Evaluation) -> str:
    """Return the whole report as Markdown."""
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
            f"Context and predicted frames; errors are brightened {ERROR_GAIN} times.\n",
            f"![filmstrip]({FILMSTRIP})\n",
            f"![rollouts]({GIF})\n",
            "## Windows that nobody chose\n",
            f"![sheet]({SHEET})\n",
            "## What was evaluated\n",
            markdown_table(models_table(evaluation)),
            f"| | |\n|---|---|\n{about}",
        ]
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something already, before any work is done for it.

    Raises:
        MetricError: It exists and is not an empty folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MetricError(f"{folder}: expected a new or empty folder for the report; give another --out")


def write(folder: Path, evaluation: Evaluation, images: Mapping[str, bytes]) -> None:
    """Write the report as one folder, whole or not at all: built beside it, then renamed.

    Args:
        folder: New or empty.
        evaluation: What was measured.
        images: Content of the pictures by name of file.

    Raises:
        MetricFailure: The folder cannot be written; there is no new one, and an empty one is still empty.
    """
    files = {
        **images,
        MARKDOWN: markdown(evaluation).encode(),
        JSON: evaluation.model_dump_json(indent=1).encode(),
    }
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".evaluation-") as beside:
            report = Path(beside) / target.name
            report.mkdir()
            for name, content in files.items():
                (report / name).write_bytes(content)
            report.rename(target)
    except OSError as error:
        raise MetricFailure(f"{folder}: the report could not be written: {error}") from None
