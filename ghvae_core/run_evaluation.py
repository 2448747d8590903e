"""Evaluate checkpoints on held-out episodes, in comparison with copying the last frame and with shuffled actions."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import refuse_unused, renamed_option, run
from configs.interruption import interruption
from configs.progress import announce

_Part = Literal["held-out", "trained-on"]
_Modules = Annotated[list[int] | None, typer.Option(help="Use only the first modules; repeat for more rows.")]
_Depth = Annotated[list[str] | None, renamed_option("--depth", "--modules")]
_Samples = Annotated[int | None, typer.Option(help="Samples per window; 2 or more add a row of the best.")]
_Sensitivity = Annotated[
    int, typer.Option(min=0, help="Number of other action sequences among which the executed one is ranked; 0: none.")
]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a configuration key; section: evaluation."),
]
SHIPPED = Path(__file__).parent / "checkpoints" / "tiny"


def evaluate(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="Folder of episodes, in any supported format.")],
    checkpoint: Annotated[list[Path] | None, typer.Option(help="Folder of a model; repeat for more.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Name in the tables; repeat for each checkpoint.")] = None,
    modules: _Modules = None,
    depth: _Depth = None,  # noqa: ARG001
    part: Annotated[_Part, typer.Option(help="trained-on: the episodes that training used.")] = "held-out",
    windows: Annotated[int | None, typer.Option(help="Number of windows (default: 256, RoboNet's test set).")] = None,
    samples: _Samples = None,
    sensitivity: _Sensitivity = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of windows, shuffled actions and samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="New folder for the report (default: no report).")] = None,
    lpips: Annotated[bool, typer.Option(help="Measure LPIPS; its weights are downloaded once.")] = True,
    lpips_weights: Annotated[Path | None, typer.Option(help="Safetensors file of the LPIPS weights.")] = None,
    fvd: Annotated[bool, typer.Option(help="Measure FVD; on a CPU, 1 s per video and row.")] = False,
    i3d_weights: Annotated[Path | None, typer.Option(help="Safetensors file of the I3D weights.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device of the models.")] = "auto",
    set_: _Overrides = None,
) -> None:
    """Measure PSNR, SSIM, LPIPS and FVD of the frames that models predict on held-out windows.

    Rows of each model: the prior's mean, one sample, the best of `--samples` (for each window and metric separately),
    shuffled actions; then copying the last context frame, and paired differences. The last line is one JSON object.

    `--out` writes HTML, Markdown, JSON with every window, curves, a filmstrip and GIFs. Episodes that a checkpoint was
    trained on are refused without `--part trained-on`. Ctrl-C reports the results so far and exits with 130; refused
    input exits with 2 and nothing is written; a report that cannot be written exits with 1, after the line of JSON.
    """
    _check_weights(lpips_weights if not lpips else None, i3d_weights if not fvd else None)
    with announce("loading PyTorch"):
        from ghvae_core.evaluation import clips  # noqa: PLC0415 - torch would make --help slow
        from ghvae_core.evaluation.run import Inputs, run_inputs  # noqa: PLC0415

    inputs = Inputs(
        data=data,
        checkpoints=tuple(checkpoint or [SHIPPED]),
        labels=tuple(label or ()),
        modules=tuple(modules or ()),
        part=part,
        seed=seed,
        lpips=lpips,
        lpips_weights=lpips_weights,
        fvd=fvd,
        i3d_weights=i3d_weights,
        sensitivity=sensitivity,
        out=out,
        device=device,
    )
    with interruption((signal.SIGINT, signal.SIGTERM)):
        run_inputs(inputs, clips.load_evaluation(_overrides(set_ or [], windows, samples)))


def _check_weights(unused_lpips: Path | None, unused_i3d: Path | None) -> None:
    refuse_unused({"--lpips-weights": unused_lpips is not None}, "with --no-lpips")
    refuse_unused({"--i3d-weights": unused_i3d is not None}, "without --fvd")


def _overrides(overrides: list[str], windows: int | None, samples: int | None) -> list[str]:
    options = {"n_windows": windows, "n_samples": samples}
    return [*overrides, *(f"evaluation.{name}={value}" for name, value in options.items() if value is not None)]


def main() -> NoReturn:
    """Run the command."""
    run(evaluate)


if __name__ == "__main__":
    main()
