"""The metrics against the predicted step, drawn."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ghvae_core.evaluation.evaluated_model import COPY, MEAN, SAMPLE, SHUFFLED
from ghvae_core.evaluation.statistics import Estimate
from ghvae_core.evaluation.summary import Evaluation
from ghvae_core.evaluation.tables import head

_PANEL_INCH = (4.2, 3.4)  # width and height of each metric's panel; ours
_STYLES = {MEAN: "-", SAMPLE: "-.", SHUFFLED: ":"}
_BANDS = {"-", "--"}  # the others' would hide them


def draw_curves(evaluation: Evaluation) -> bytes:
    """Return a PNG with a panel for each metric: every model and copying against the predicted step.

    A model has one colour: a solid line for the prior's mean, dash-dotted for one sample, dotted for wrong actions. The
    bands around the prior's mean and around copying are one standard error wide to each side.
    """
    metrics = list(evaluation.steps[COPY])
    width, height = _PANEL_INCH
    figure = Figure(figsize=(width * len(metrics), height + 0.25 * (1 + len(evaluation.steps))), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for i, model in enumerate(evaluation.models):
            for kind, style in _STYLES.items():
                row = f"{model.label}, {kind}"
                if row in evaluation.steps:
                    _draw(panel, row, evaluation.steps[row][metric], f"C{i}", style)
        _draw(panel, COPY, evaluation.steps[COPY][metric], "0.4", "--")
        panel.set_xlabel("predicted step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_title(head(metric))
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw(panel: Axes, label: str, estimates: list[Estimate], color: str, style: str) -> None:
    steps = np.arange(1, len(estimates) + 1)
    values = np.array([each.value for each in estimates])
    errors = np.array([each.standard_error for each in estimates])
    panel.plot(steps, values, style, color=color, label=label, marker="." if len(steps) == 1 else None)
    if style in _BANDS:
        panel.fill_between(steps, values - errors, values + errors, color=color, alpha=0.2, linewidth=0)
